# SPDX-License-Identifier: Apache-2.0
"""Timed checks have the machine to themselves, and the sitting before them decides whether to ask."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import build
from harness.cache import Cache
from harness.checks import Check, Context, load
from harness.checks.context import Where
from harness.qemu import Accelerator, Machine
from harness.results import EVIDENCE, Cause, Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import AFTERWARDS, Matrix, check_that, qemus, verdicts

pytestmark = pytest.mark.vm


def _timed(does: Callable[[Context], object], where: Where = Where.ALONE) -> Check:
    return replace(check_that("timed", does), where=where)


def test_a_timed_check_s_guest_is_the_only_one(
    matrix: Callable[..., Matrix], cache: Cache, oldest: KernelFiles, newest: KernelFiles
) -> None:
    guests: list[int] = []
    ordinary: list[str] = []

    def look(context: Context) -> None:
        for _ in range(5):
            context.guest.run(["/bin/sleep", "0.2"], timeout_s=60)
            guests.append(len(qemus(cache, os.getpid())))

    asked = matrix(
        oldest, newest,
        checks=(
            _timed(look),
            check_that("ordinary", lambda context: ordinary.append(context.kernel.name)),
            AFTERWARDS,
        ),
    )  # fmt: skip

    run = asked.run()

    assert guests == [1] * 10
    assert sorted(ordinary) == sorted([oldest.name, newest.name])
    for cell in run.cells:
        assert verdicts(cell.checks) == dict.fromkeys(
            ("resolve", "boot", "timed", "ordinary", "splat"), ("pass", "")
        )
        assert [check.check for check in cell.checks][-3:] == ["timed", "ordinary", "splat"]
        consoles = [cell.console, *cell.consoles_alone]
        assert len(consoles) == 2
        assert all((asked.report_dir / path).is_file() for path in consoles)
        assert {"wait for the machine", "boot", "timed"} <= cell.phases_s.keys()


def test_a_check_that_breaks_costs_its_answer_and_no_other(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """A bug of ours on one kernel of sixty: the report says so, and has the rest."""

    def breaks(context: Context) -> None:
        if context.kernel.name == newest.name:
            raise ZeroDivisionError("nothing was sent")

    run = matrix(oldest, newest, checks=(check_that("breaks", breaks), AFTERWARDS)).run()

    fine, broken = sorted(run.cells, key=lambda cell: cell.verdict is not Verdict.PASS)
    assert fine.kernel.name == oldest.name
    assert verdicts(broken.checks) == {
        **dict.fromkeys(("resolve", "boot", "splat"), ("pass", "")), "breaks": ("unknown", "harness"),
    }  # fmt: skip
    assert broken.attempts == 1
    told = next(check for check in broken.checks if check.check == "breaks")
    assert told.summary == "a bug of ours: ZeroDivisionError: nothing was sent"
    assert "in breaks\n" in told.evidence[0].text


def test_what_an_earlier_run_left_is_no_evidence(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    """The same --out again, and a guest that never comes up: it has no console."""
    asked = matrix(newest, checks=(AFTERWARDS,))
    asked.machine = Machine(memory_mib=1 << 30)  # a pebibyte, which no host has
    console = asked.report_dir / EVIDENCE / newest.name / "console.log"
    console.parent.mkdir(parents=True)
    console.write_text("Kernel panic - not syncing: another day\n")

    (cell,) = asked.run().cells

    assert (cell.verdict, cell.boot, cell.console) == (Verdict.UNKNOWN, None, "")
    assert not console.exists()


def test_a_counted_check_s_guest_knows_no_time_but_its_own(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    """An emulated guest that has nothing to do does not wait; its sitting has a directory."""
    waited: list[float] = []
    counted: list[bool] = []

    def look(context: Context) -> None:
        started = time.monotonic()
        context.guest.run(["/bin/sleep", "120"], timeout_s=300)
        waited.append(time.monotonic() - started)
        counted.append(context.counted)

    asked = matrix(newest, checks=(_timed(look, Where.COUNTED), AFTERWARDS))

    (cell,) = asked.run().cells

    assert cell.boot is not None
    if cell.boot.accelerator == Accelerator.TCG:
        assert counted == [True]
        assert waited[0] < 120
    assert verdicts(cell.checks) == dict.fromkeys(
        ("resolve", "boot", "timed", "splat"), ("pass", "")
    )
    assert (asked.report_dir / cell.console).is_file()
    assert [path.split("/")[2] for path in cell.consoles_alone] == ["counted"]


def test_a_splat_beside_a_timed_check_is_seen(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    """Each guest's log is read; of the two answers the worse one counts."""

    def warn(context: Context) -> None:
        line = "WARNING: CPU: 0 PID: 1 at kernel/bpf/helpers.c:1 bpf_test+0x0/0x10"
        context.guest.run(["/bin/sh", "-c", f"echo '<4>{line}' > /dev/kmsg"], timeout_s=60)

    (cell,) = matrix(newest, checks=(_timed(warn), AFTERWARDS)).run().cells

    assert verdicts(cell.checks)["splat"] == ("fail", "kernel-splat")


def test_an_object_that_does_not_load_is_not_timed(
    matrix: Callable[..., Matrix], compiled: Callable[[str], Path], newest: KernelFiles
) -> None:
    reached: list[str] = []
    timed = _timed(lambda context: reached.append(context.kernel.name))
    subject = build.from_object(compiled("refused"))

    (cell,) = matrix(newest, subject=subject, checks=(load.CHECK, timed)).run().cells

    found = verdicts(cell.checks)
    assert found["load"] == ("fail", "verifier-rejected")
    assert found["timed"] == ("unknown", "not-reached")
    assert cell.verdict is Verdict.FAIL
    assert cell.checks[-1].cause is Cause.NOT_REACHED
    assert cell.checks[-1].summary == "not asked: load fail"
    assert not reached
