# SPDX-License-Identifier: Apache-2.0
"""A process that gets the processor is told from one that does not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness import cputime, kernel_container, process, qemu, vm
from harness.cputime import Share
from harness.qemu import Boot, Machine


def _wait_for(mark: str) -> None:
    """A process that was started has its command line a moment later."""
    end = time.monotonic() + 10.0
    while not cputime._pids(mark.encode()):
        assert time.monotonic() < end
        time.sleep(0.01)


def _watched(share: Share, seconds: float) -> float | None:
    end = time.monotonic() + seconds + 1.0
    while time.monotonic() < end:
        share.sample(time.monotonic())
        time.sleep(0.1)
    return share.lately(seconds)


def test_a_process_that_is_stopped_gets_nothing() -> None:
    mark = f"km-cputime-{os.getpid()}"
    with process.held(["sh", "-c", "while :; do :; done", mark]) as child:
        busy = _watched(Share(mark), 2.0)
        child.send_signal(signal.SIGSTOP)
        stopped = _watched(Share(mark), 2.0)
        child.send_signal(signal.SIGKILL)

    assert busy is not None
    assert busy > 0.01  # as much as a busy machine gives
    assert stopped is not None
    assert stopped < 0.01


def test_what_a_process_got_is_known_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that panics ends its QEMU: that it was at work until then must not be forgotten."""
    monkeypatch.setattr(cputime, "_LOOKS", 1)  # as after a while
    share = Share(mark := f"km-cputime-end-{os.getpid()}")
    with process.held(["sh", "-c", "while :; do :; done", mark]):
        _wait_for(mark)
        busy = _watched(share, 2.0)
    share.sample(time.monotonic() + 0.6)

    assert busy is not None
    assert (share.lately(2.0) or 0.0) > 0.01


def test_nothing_is_known_of_a_process_that_is_not_here_or_not_yet_seen_long_enough() -> None:
    share = Share("no process has this in its command line")
    share.sample(0.0)

    assert share.lately(0.0) is None
    with process.held(["sleep", "60.125"]):
        _wait_for("60.125")
        share = Share("60.125")
        share.sample(0.0)
        share.sample(1.0)

    assert share.lately(2.0) is None
    assert share.lately(1.0) == pytest.approx(0.0, abs=0.05)  # a tick or two


class _Running:
    def ended(self) -> str | None:
        return None

    def kill(self) -> None:
        raise AssertionError


def test_a_guest_in_a_container_is_seen_though_its_files_lie_elsewhere_there(
    tmp_path: Path,
) -> None:
    """Otherwise a lockup would be believed of a container that hardly ran."""
    boot = Boot(
        vmlinuz=Path("k"), initrd=tmp_path / "initrd", console=tmp_path / "console.log",
        channel=tmp_path / "ga",
    )  # fmt: skip
    words = kernel_container._inside(qemu.argv(Machine(), boot), tmp_path)
    watch = vm._Watch(_Running(), boot.console, 1 << 20, lambda: False, side_by_side=True)
    with process.held(["sh", "-c", "sleep 60", *words]):
        _wait_for(f"guest={qemu.name_of(boot.console)}")
        watch._share.sample(0.0)
        watch._share.sample(1.0)

    assert watch._share.lately(1.0) == pytest.approx(0.0, abs=0.05)
