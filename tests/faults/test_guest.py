# SPDX-License-Identifier: Apache-2.0
"""Guests that are lost in every way we know: the right verdict, in time, and nothing left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from harness.checks import Context
from harness.progress import Phase
from harness.results import Cause, Cell, Verdict
from harness.supply import KernelFiles
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

pytestmark = pytest.mark.vm


def _console_tail(cell: Cell) -> str:
    assert cell.deciding is not None
    return next(e.text for e in cell.deciding.evidence if e.title == "end of the console")


def test_a_kernel_that_panics_at_boot_tells_nothing_of_the_subject(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, backend: str
) -> None:
    """unknown, not fail; known within seconds of the panic, not at the end of the boot's deadline."""
    asked = matrix(
        oldest, newest, backend=backend, checks=(AFTERWARDS,), append=("rdinit=/nonexistent",),
        boot_timeout_s=300.0,
    )  # fmt: skip
    started = time.monotonic()

    run = asked.run()

    assert time.monotonic() - started < 120
    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["boot"] == ("unknown", "panic")
        assert found["splat"] == ("unknown", "not-reached")
        assert cell.attempts == 1
        assert "Kernel panic - not syncing" in _console_tail(cell)
        console = (asked.report_dir / cell.console).read_text(errors="replace")
        assert "Kernel panic - not syncing" in console


def test_a_kernel_that_hangs_silently_ends_at_the_boot_s_deadline(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    asked = matrix(
        oldest, newest, checks=(AFTERWARDS,), append=("rdinit=/bin/cat",), boot_timeout_s=8.0
    )

    run = asked.run()

    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["boot"] == ("unknown", "hang")
        assert found["splat"] == ("unknown", "not-reached")
        assert 8 < cell.duration_s < 8 + PATIENCE_S
        assert (asked.report_dir / cell.console).is_file()


def test_a_kernel_that_hangs_in_a_container_is_the_same_verdict(
    matrix: Callable[..., Matrix], newest: KernelFiles, backend: str
) -> None:
    (cell,) = matrix(
        newest, backend=backend, checks=(AFTERWARDS,), append=("rdinit=/bin/cat",),
        boot_timeout_s=6.0,
    ).run().cells  # fmt: skip

    assert verdicts(cell.checks)["boot"] == ("unknown", "hang")


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_a_crash_while_a_check_had_the_subject_in_it_fails_within_five_seconds(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, backend: str,
    which: str,
) -> None:  # fmt: skip
    """Panic → verdict in five seconds: the console decides, not the command's deadline."""
    crashed: list[float] = []

    def crash(context: Context) -> None:
        crashed.append(time.monotonic())
        context.guest.run(
            ["/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 600"], timeout_s=600
        )

    kernel = oldest if which == "oldest" else newest
    asked = matrix(kernel, backend=backend, checks=(check_that("crash", crash), AFTERWARDS))

    (cell,) = asked.run().cells

    found = verdicts(cell.checks)
    assert (found["boot"][0], found["crash"]) == ("pass", ("fail", "panic"))
    assert found["splat"] == ("unknown", "not-reached")
    assert cell.attempts == 1
    assert "sysrq triggered crash" in _console_tail(cell).lower()
    # The kernel takes a second or two itself, from the write to the panic's line.
    assert cell.phases_s["crash"] < 5 + _crash_slack_s()


def _crash_slack_s() -> float:
    """Nothing on an idle machine."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return 10.0 if load > 1.5 else 0.0


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


def test_a_command_that_never_ends_costs_its_own_check_only(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """The guest lives on, what the command started does not, and the next check is asked."""
    listings: list[str] = []

    def endless(context: Context) -> None:
        context.guest.run(["/bin/sh", "-c", "sleep 601 & sleep 602"], timeout_s=2)

    def look(context: Context) -> None:
        ended = "! ps | grep -q '[s]leep 60'"
        until(lambda: context.guest.run(["/bin/sh", "-c", ended], timeout_s=20).status == 0)
        listings.append(context.guest.run(["/bin/ps"], timeout_s=20).text)

    run = matrix(
        oldest, newest, checks=(check_that("endless", endless), check_that("look", look))
    ).run()

    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["endless"] == ("unknown", str(Cause.TIMEOUT))
        assert found["look"][0] == "pass"
        assert cell.attempts == 1
    assert len(listings) == 2
    assert "sleep 60" not in "".join(listings)
