# SPDX-License-Identifier: Apache-2.0
"""QEMU killed or stopped under a guest: it says nothing of the kernel, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable

from harness.checks import Context
from harness.progress import Event, Phase
from harness.results import Cause, Verdict
from harness.supply import KernelFiles
from tests.faults.cells import lost, run_each
from tests.vm.matrix import (
    AFTERWARDS,
    PATIENCE_S,
    Matrix,
    check_that,
    containers,
    engine,
    qemus,
    until,
    verdicts,
)


def test_a_guest_killed_from_outside_is_unknown_and_tried_once_more(
    matrix: Callable[..., Matrix], newest: KernelFiles, backend: str
) -> None:
    """It says nothing of kernel or subject, whoever killed it."""
    killed: list[str] = []

    def wait(context: Context) -> None:
        killed.append(_kill(asked))
        context.guest.run(["/bin/sleep", "600"], timeout_s=600)

    asked = matrix(newest, backend=backend, checks=(check_that("wait", wait), AFTERWARDS))

    (cell,) = asked.run().cells

    found = verdicts(cell.checks)
    assert found["wait"] == ("unknown", "guest-lost")
    assert found["splat"] == ("unknown", "not-reached")
    assert (len(killed), cell.attempts) == (2, 2)
    assert cell.deciding is not None
    assert "killed by signal 9" in cell.deciding.summary
    assert cell.earlier[0].startswith("guest-lost: ")
    assert cell.phases_s["wait"] < PATIENCE_S


def test_a_guest_killed_once_is_judged_by_its_second_attempt(
    matrix: Callable[..., Matrix], oldest: KernelFiles
) -> None:
    """The report still tells of the first."""
    killed: list[str] = []

    def wait(context: Context) -> None:
        if not killed:
            killed.append(_kill(asked))
            context.guest.run(["/bin/sleep", "600"], timeout_s=600)

    asked = matrix(oldest, checks=(check_that("wait", wait), AFTERWARDS))

    (cell,) = asked.run().cells

    assert (cell.verdict, cell.attempts) == (Verdict.PASS, 2)
    assert "killed by signal 9" in cell.earlier[0]
    second = asked.report_dir / cell.console
    assert second.parent.name == "again"
    assert second.is_file()
    assert (second.parent.parent / "console.log").is_file()  # of the first
    assert "again" in [event.phase for _, event in asked.events if isinstance(event, Phase)]


def _kill(asked: Matrix) -> str:
    """Kill the one guest of this process, as an outsider would."""
    if asked.backend == "local":
        (qemu,) = qemus(asked.cache, os.getpid())
        os.kill(qemu, signal.SIGKILL)
        return str(qemu)
    (identity,) = containers(os.getpid())
    with engine() as client:
        assert client is not None
        client.containers.get(identity).kill()
    return identity


def _stop(asked: Matrix) -> int:
    """SIGSTOP to the one guest of this process, as soon as there is one; its pid."""
    assert until(lambda: qemus(asked.cache, os.getpid()))
    (qemu,) = qemus(asked.cache, os.getpid())
    os.kill(qemu, signal.SIGSTOP)
    return qemu


def test_a_qemu_that_is_stopped_before_it_boots_ends_at_the_boot_s_deadline(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    """Nothing at all on the console; and a process that does not hear SIGTERM ends all the same."""
    asked = matrix(newest, checks=(AFTERWARDS,), boot_timeout_s=5.0)
    stoppers: list[threading.Thread] = []

    def stop_each(event: Event) -> None:  # trouble of ours is tried once more
        if isinstance(event, Phase) and event.phase == "boot":
            stoppers.append(threading.Thread(target=_stop, args=(asked,)))
            stoppers[-1].start()

    asked.on_event = stop_each

    (cell,) = asked.run().cells

    for stopper in stoppers:
        stopper.join(PATIENCE_S)
    boot = next(check for check in cell.checks if check.check == "boot")
    assert boot.verdict is Verdict.UNKNOWN
    assert boot.cause in (Cause.HANG, Cause.INFRA)  # it may be stopped before it opens the channel
    assert "within the boot's 5 s" in boot.summary


def test_a_qemu_that_is_stopped_for_good_after_its_boot_is_a_silent_guest(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    asked = matrix(newest)

    def deed(context: Context) -> None:
        _stop(asked)
        context.guest.run(["/bin/true"], timeout_s=PATIENCE_S)

    cells = run_each(asked, {newest.name: deed})

    assert "within 30 s" in lost(asked, cells[newest.name], "unknown", "hang").summary


def test_a_lockup_is_not_believed_of_a_qemu_that_was_stopped(
    matrix: Callable[..., Matrix], oldest: KernelFiles
) -> None:
    """A kernel does not always complain of that, so the guest writes the kernel's line itself."""
    asked = matrix(oldest)
    line = "<0>watchdog: BUG: soft lockup - CPU#0 stuck for 7s! [sh:1]"

    def deed(context: Context) -> None:
        context.guest.start(["/bin/sh", "-c", f"sleep 4; echo '{line}' >/dev/kmsg"])
        qemu = _stop(asked)
        alarm = threading.Timer(9.0, os.kill, (qemu, signal.SIGCONT))
        alarm.start()  # meanwhile the request waits, and the watch with it
        context.guest.run(["/bin/sleep", "10"], timeout_s=20)

    cells = run_each(asked, {oldest.name: deed})

    woken = lost(asked, cells[oldest.name], "unknown", "infra").summary
    assert re.search(r"this machine let QEMU run for \d\.\d s of .*BUG: soft lockup", woken)
