# SPDX-License-Identifier: Apache-2.0
"""Who may run guests on this machine at the same time, across processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from harness import slot
from harness.cache import Cache
from harness.errors import HarnessError

_PATIENCE_S = 30.0


def _hold(cache: Cache, *, alone: bool, entered: Event, leave: Event) -> None:
    with slot.hold(cache, alone=alone):
        entered.set()
        leave.wait(_PATIENCE_S)


class _Holder:
    """Another process with the slot, or waiting for it."""

    def __init__(self, cache: Cache, *, alone: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.entered, self.leave = context.Event(), context.Event()
        self.process = context.Process(
            target=_hold, args=(cache,),
            kwargs={"alone": alone, "entered": self.entered, "leave": self.leave}, daemon=True,
        )  # fmt: skip
        self.process.start()

    def is_in(self, *, within_s: float = _PATIENCE_S) -> bool:
        return self.entered.wait(within_s)

    def end(self) -> None:
        self.leave.set()
        self.process.join(_PATIENCE_S)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("KERNEL_MATRIX_SLOT", str(tmp_path))  # not the machine's
    return Cache(root=tmp_path)


def test_ordinary_guests_share_the_machine_and_a_timed_one_waits_for_them(own_cache: Cache) -> None:
    first, second = _Holder(own_cache, alone=False), _Holder(own_cache, alone=False)
    assert first.is_in()
    assert second.is_in()
    timed = _Holder(own_cache, alone=True)
    assert not timed.is_in(within_s=1.0)
    first.end()
    assert not timed.is_in(within_s=0.5)
    second.end()
    assert timed.is_in()
    timed.end()


def test_nobody_comes_in_before_a_timed_guest_that_waits(own_cache: Cache) -> None:
    """Otherwise guests that follow each other would keep it waiting for ever."""
    inside = _Holder(own_cache, alone=False)
    assert inside.is_in()
    timed = _Holder(own_cache, alone=True)
    assert not timed.is_in(within_s=1.0)
    late = _Holder(own_cache, alone=False)
    assert not late.is_in(within_s=1.0)
    inside.end()
    assert timed.is_in()
    assert not late.is_in(within_s=0.5)
    timed.end()
    assert late.is_in()
    late.end()


def test_the_slot_of_a_process_that_was_killed_is_free(own_cache: Cache) -> None:
    killed = _Holder(own_cache, alone=True)
    assert killed.is_in()
    pid = killed.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed.process.join(_PATIENCE_S)
    with slot.hold(own_cache, alone=True, given_up=_after(_PATIENCE_S)):
        pass


def test_two_threads_of_one_harness_are_two_holders(own_cache: Cache) -> None:
    together = threading.Barrier(2, timeout=_PATIENCE_S)

    def ordinary() -> None:
        with slot.hold(own_cache, alone=False):
            together.wait()

    threads = [threading.Thread(target=ordinary) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
    assert not together.broken
    with (
        slot.hold(own_cache, alone=True),
        pytest.raises(HarnessError, match="interrupted while it waited for the machine"),
        slot.hold(own_cache, alone=False, given_up=_after(0.5)),
    ):
        pass


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
