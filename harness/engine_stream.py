# SPDX-License-Identifier: Apache-2.0
"""What the Docker engine says piece by piece, and what the SDK raises when it goes away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import docker.errors
import requests
import urllib3.exceptions

from harness import process

_T = TypeVar("_T")

# An answer that comes in pieces the SDK reads by itself: half a chunk is urllib3's error, half a
# line of JSON the SDK's own, which is no DockerException.
GONE = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)
_AHEAD = 4  # pieces that are read before anybody asks for them
_LOOK_EVERY_S = 0.2


def pieces(ask: Callable[[], Iterable[_T]], *, silent_s: float) -> Iterator[_T]:
    """What `ask()` yields, read in a thread of its own: nobody can interrupt the SDK.

    Raises what it raises (of GONE), requests.Timeout when no piece comes for `silent_s`, and
    InterruptedHarnessError as soon as the harness is told to end. The thread is given up then; the
    engine stops what it does for us when our connection ends, with this process at the latest.
    """
    reader = _Reader(ask)
    threading.Thread(target=reader.read, name="engine-stream", daemon=True).start()
    heard = time.monotonic()
    try:
        while True:
            process.raise_if_stopping()
            try:
                piece = reader.read_already.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                if time.monotonic() - heard > silent_s:
                    said = f"the engine said nothing for {silent_s:g} s"
                    raise requests.Timeout(said) from None
                continue
            heard = time.monotonic()
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            yield piece[0]
            heard = time.monotonic()  # what is done with a piece takes its own time
    finally:
        reader.given_up.set()


class _Reader(Generic[_T]):
    def __init__(self, ask: Callable[[], Iterable[_T]]) -> None:
        self._ask = ask
        # None: its end.
        self.read_already: queue.Queue[tuple[_T] | Exception | None] = queue.Queue(_AHEAD)
        self.given_up = threading.Event()

    def read(self) -> None:
        try:
            for piece in self._ask():
                self._put((piece,))
                if self.given_up.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            self._put(error)
        else:
            self._put(None)

    def _put(self, piece: tuple[_T] | Exception | None) -> None:
        while not self.given_up.is_set():
            try:
                self.read_already.put(piece, timeout=_LOOK_EVERY_S)
            except queue.Full:
                continue
            return
