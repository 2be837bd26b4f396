# SPDX-License-Identifier: Apache-2.0
"""The machine's slot: guests that are timed have the machine to themselves.

Ordinary guests hold it together, a timed one alone, across all harnesses that share a cache.
The locks are flock(2)'s, so those of a process that dies are free at once. Whoever waits for the
machine alone holds the door meanwhile: nobody new comes in, and it does not starve.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.cache import Cache
from harness.errors import HarnessError

_POLL_S = 0.1


@contextlib.contextmanager
def hold(
    cache: Cache, *, alone: bool, given_up: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the slot for the block. HarnessError when `given_up` says so while it waits."""
    directory = cache.directory("locks")
    with _opened(directory / "machine.door") as door, _opened(directory / "machine.slot") as slot:
        _acquire(door, fcntl.LOCK_EX, given_up)
        try:
            _acquire(slot, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, given_up)
        finally:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        # Each holder opens it anew: two threads with one descriptor would share a lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise HarnessError(
            f"cannot open the lock '{path}': {error.strerror}", hint="make the cache writable"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, kind: int, given_up: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if given_up():
                raise HarnessError("interrupted while it waited for the machine") from None
            time.sleep(_POLL_S)
        else:
            return
