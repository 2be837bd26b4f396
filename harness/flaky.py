# SPDX-License-Identifier: Apache-2.0
"""A check that passed and failed on the same inputs: which of the two is true, nobody knows. Pure.

Such an answer is `unknown`, cause `flaky`, whichever came last: it is never green, and no failure
that somebody could mend in the subject. The two may come from the two tries of one cell, from an
earlier run of the same inputs, or from two shards that both asked a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.results import Cause, CheckResult, Verdict

_REMEDY = "ask it again a few times; until it is steady, it tells nothing of this kernel"
_DECIDED = (Verdict.PASS, Verdict.FAIL)


def contradict(one: CheckResult, other: CheckResult) -> bool:
    """Whether one passed and the other failed."""
    return {one.verdict, other.verdict} == set(_DECIDED)


def said(check: CheckResult) -> str:
    """A verdict in a few words."""
    cause = f" ({check.cause})" if check.cause else ""
    first = check.summary.partition("\n")[0]
    return f"{check.verdict}{cause}{f': {first}' if first else ''}"


def answer(check: CheckResult, first: str, second: str, *others: CheckResult) -> CheckResult:
    """That check as flaky, with what was seen, in words, and the evidence of all."""
    return replace(
        check, verdict=Verdict.UNKNOWN, cause=Cause.FLAKY, remedy=_REMEDY,
        summary=f"passed and failed on the same inputs: {first}; {second}",
        evidence=tuple(dict.fromkeys(e for one in (check, *others) for e in one.evidence)),
    )  # fmt: skip


def between_tries(
    first: Sequence[CheckResult], second: Sequence[CheckResult]
) -> tuple[CheckResult, ...]:
    """The second try's answers, those flaky that the first contradicts."""
    before = {check.check: check for check in first}
    return tuple(
        answer(check, f"first try {said(old)}", f"second try {said(check)}", old)
        if (old := before.get(check.check)) is not None and contradict(old, check)
        else check
        for check in second
    )
