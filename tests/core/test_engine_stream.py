# SPDX-License-Identifier: Apache-2.0
"""What an engine says piece by piece is waited for no longer than anybody wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from harness import engine_stream, process
from harness.process import InterruptedHarnessError

_SOON_S = 15.0


@pytest.fixture(autouse=True)
def _not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test tells anew; a harness is told once and ends."""
    monkeypatch.setattr(process, "_stopping", threading.Event())


@pytest.fixture
def silence() -> Iterator[Callable[[], Iterator[int]]]:
    """An answer that stops after its first piece; when the test is over, its thread ends."""
    over = threading.Event()

    def ask() -> Iterator[int]:
        yield 1
        over.wait(60)

    yield ask
    over.set()


def test_pieces_come_in_order_however_slowly_they_are_used() -> None:
    """Silence counts from when somebody asks for the next."""
    found = []
    for piece in engine_stream.pieces(lambda: range(12), silent_s=0.5):
        found.append(piece)
        if piece == 0:
            time.sleep(1)

    assert found == list(range(12))


def test_its_own_trouble_is_told_where_the_pieces_are_used() -> None:
    def ask() -> Iterator[int]:
        yield 1
        raise requests.ConnectionError("gone")

    asked = engine_stream.pieces(ask, silent_s=_SOON_S)

    assert next(asked) == 1
    with pytest.raises(requests.ConnectionError, match="gone"):
        next(asked)


def test_a_silent_engine_is_one_that_went_away(silence: Callable[[], Iterator[int]]) -> None:
    asked = engine_stream.pieces(silence, silent_s=0.3)

    assert next(asked) == 1
    with pytest.raises(engine_stream.GONE, match=r"said nothing for 0\.3 s"):
        next(asked)


def test_told_to_end_nobody_waits_for_the_next_piece(
    silence: Callable[[], Iterator[int]],
) -> None:
    """The first ^C ends a pull that hangs; its thread dies with the process."""
    heard = threading.Event()

    def use() -> None:
        for _ in engine_stream.pieces(silence, silent_s=600):
            heard.set()

    with ThreadPoolExecutor(max_workers=1) as pool:
        used = pool.submit(use)
        assert heard.wait(_SOON_S)
        process.stop()
        assert isinstance(used.exception(_SOON_S), InterruptedHarnessError)


def test_pieces_that_nobody_wants_any_more_are_not_asked_for() -> None:
    """An archive of gigabytes whose first file was enough."""
    closed = threading.Event()
    asked: list[int] = []

    def ask() -> Iterator[int]:
        try:
            for number in range(1 << 40):
                asked.append(number)
                yield number
        finally:
            closed.set()

    wanted = engine_stream.pieces(ask, silent_s=_SOON_S)
    next(wanted)
    wanted.close()  # type: ignore[attr-defined]  # a generator

    assert closed.wait(_SOON_S)
    assert len(asked) < 10
