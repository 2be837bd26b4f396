# SPDX-License-Identifier: Apache-2.0
"""What an ordinary sitting must show before a kernel gets another one."""

from __future__ import annotations

import pytest

from harness import cell
from harness.results import Cause, CheckResult, Verdict
from harness.sitting import Sitting


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
