# SPDX-License-Identifier: Apache-2.0
"""What an ordinary sitting must show before a kernel gets another one; what a bug of ours costs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from harness import cell, schedule
from harness.cell import Prepared
from harness.results import Cause, Cell, CheckResult, Verdict
from harness.sitting import Bench, SharedAccelerator, Sitting
from harness.supply import KernelFiles


def _said(check: str, verdict: Verdict, cause: Cause = Cause.NONE) -> CheckResult:
    return CheckResult(check=check, verdict=verdict, cause=cause)


_BOOTED = _said("boot", Verdict.PASS)


@pytest.mark.parametrize(
    "stopper",
    [
        _said("boot", Verdict.UNKNOWN, Cause.HANG),
        _said("load", Verdict.FAIL, Cause.VERIFIER_REJECTED),
        _said("load", Verdict.UNSUPPORTED, Cause.FEATURE_MISSING),
        _said("attach", Verdict.UNKNOWN, Cause.INFRA),
        _said("sends", Verdict.FAIL, Cause.PANIC),
        _said("corpus", Verdict.UNKNOWN, Cause.GUEST_LOST),
    ],
    ids=lambda said: f"{said.check} {said.verdict}",
)
def test_a_kernel_that_lost_its_guest_or_refused_the_object_gets_no_other(
    stopper: CheckResult,
) -> None:
    assert cell._stopped(Sitting(checks=(_BOOTED, stopper))) is stopper


@pytest.mark.parametrize(
    "harmless",
    [
        _said("attach", Verdict.PASS),
        # Its own loader attaches what names no target: that can be timed all the same.
        _said("attach", Verdict.SKIPPED, Cause.NOT_ASKED),
        _said("sends", Verdict.FAIL, Cause.BEHAVIOUR),
        _said("leak", Verdict.UNKNOWN, Cause.INFRA),
    ],
    ids=lambda said: f"{said.check} {said.verdict}",
)
def test_anything_else_does_not_keep_timed_checks_away(harmless: CheckResult) -> None:
    assert cell._stopped(Sitting(checks=(_BOOTED, harmless))) is None


_NO_BENCH = cast("Bench", None)  # whatever is asked of it is a bug of ours
_BUG = "a bug of ours: AttributeError: 'NoneType' object has no attribute 'misfit'"


def _files(name: str) -> KernelFiles:
    return KernelFiles(
        name=name, series="6.1", arch="x86_64", release="6.1.0", vmlinuz=Path("k"), btf=None,
        btf_detached=False, config=None, system_map=None, source="directory k", sha256="0",
    )  # fmt: skip


def test_a_bug_in_a_cell_costs_that_cell_and_no_other() -> None:
    """A night of sixty kernels is not lost for one of them."""
    items = [cell.gather(_NO_BENCH, _files(name)) for name in ("before", "hit", "later")]

    def answer(item: Prepared) -> Cell:
        if item.name == "hit":
            return cell.answer(_NO_BENCH, item, cast("SharedAccelerator", None))
        return Cell(kernel=item.facts, boot=None, checks=(_BOOTED,))

    told: list[str] = []
    crew = schedule.threads(ThreadPoolExecutor(1), answer, lambda: None)
    before, hit, later = schedule.all_cells(
        items, crew, known={}, finished=lambda done: told.append(done.kernel.name)
    )

    assert told == ["before", "hit", "later"]
    assert (before.verdict, later.verdict) == (Verdict.PASS, Verdict.PASS)
    assert (hit.verdict, hit.attempts) == (Verdict.UNKNOWN, 1)
    (boot,) = hit.checks
    assert (boot.check, boot.cause, boot.summary) == ("boot", Cause.HARNESS, _BUG)
    assert "report it with its traceback" in boot.remedy
    (trace,) = boot.evidence
    assert trace.text.endswith("'NoneType' object has no attribute 'misfit'\n")
    assert "in ready\n" in trace.text


def test_a_bug_while_a_kernel_is_fetched_costs_that_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell, "_files", lambda bench, item: 1 / 0)

    broken = cell.gather(_NO_BENCH, _files("hit"))

    assert (broken.name, broken.files) == ("hit", None)
    assert broken.trouble is not None
    assert broken.trouble.cause is Cause.HARNESS
    assert broken.trouble.summary == "a bug of ours: ZeroDivisionError: division by zero"
