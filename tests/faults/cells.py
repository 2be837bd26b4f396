# SPDX-License-Identifier: Apache-2.0
"""Deeds that lose a guest, asked as a check of their own, and what the cell has to say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.checks import Context
from harness.results import Cell, CheckResult, Verdict
from tests.vm.matrix import AFTERWARDS, PATIENCE_S, Matrix, check_that, verdicts


def console_tail(cell: Cell) -> str:
    assert cell.deciding is not None
    return next(e.text for e in cell.deciding.evidence if e.title == "end of the console")


def run_each(
    asked: Matrix, deeds: Mapping[str, Callable[[Context], object]]
) -> dict[str, Cell]:  # fmt: skip
    """Run with a check "deed", another one for each kernel, and one afterwards; cells by kernel."""
    deed = check_that("deed", lambda context: deeds[context.kernel.name](context))
    asked.checks = (deed, AFTERWARDS)
    return {cell.kernel.name: cell for cell in asked.run().cells}


def shell(script: str, timeout_s: float = 120.0) -> Callable[[Context], object]:
    return lambda context: context.guest.run(["/bin/sh", "-c", script], timeout_s=timeout_s)


def lost(
    asked: Matrix, cell: Cell, verdict: str, cause: str, *, within_s: float = 2 * PATIENCE_S
) -> CheckResult:
    """The answer of the check that lost the guest: in time, the others as they have to be, and the
    console kept."""
    found = verdicts(cell.checks)
    assert found["boot"] == ("pass", "")
    assert found["deed"] == (verdict, cause), cell.checks
    assert found["splat"] == ("unknown", "not-reached")
    assert cell.phases_s["deed"] < within_s
    assert "subject phase begins" in kept_console(asked, cell)
    return next(check for check in cell.checks if check.check == "deed")


def unharmed(asked: Matrix, cell: Cell) -> None:
    """The neighbour of a guest that is lost: every check passes, at once, and its console is kept."""
    assert {check.verdict for check in cell.checks} == {Verdict.PASS}, cell.checks
    assert (cell.verdict, cell.attempts, cell.earlier) == (Verdict.PASS, 1, ())
    assert "subject phase begins" in kept_console(asked, cell)


def kept_console(asked: Matrix, cell: Cell) -> str:
    """What the cell's console log in the report holds, which is there."""
    assert cell.console
    return (asked.report_dir / cell.console).read_text(errors="replace")


def evidence(check: CheckResult, title: str) -> str:
    return next(one.text for one in check.evidence if one.title == title)
