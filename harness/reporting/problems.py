# SPDX-License-Identifier: Apache-2.0
"""What is not a pass, told once however many kernels it struck."""

from __future__ import annotations

from dataclasses import dataclass

from harness.reporting.words import quarantined
from harness.results import Cause, CheckResult, Run, Verdict

EVERY_KERNEL = "all"  # of a check that is asked once for the object


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A cause, and every kernel that it struck."""

    kernels: tuple[str, ...]
    check: str
    verdict: Verdict
    cause: Cause
    summary: str
    remedy: str
    quarantine: str = ""  # who answers for it, until when; then it decides no exit status


def problems(run: Run) -> list[Problem]:
    """Kernels with the same words together, in order of appearance."""
    found: dict[tuple[str, ...], tuple[CheckResult, list[str]]] = {}
    asked = [(EVERY_KERNEL, check) for check in run.checks]
    asked += [(cell.kernel.name, check) for cell in run.cells for check in cell.checks]
    for kernel, check in asked:
        if check.cause is Cause.NOT_REACHED or check.verdict in (Verdict.PASS, Verdict.SKIPPED):
            continue  # a check that was not reached: the one that stopped it is told
        key = (check.check, check.verdict, check.cause, check.summary, quarantined(check))
        found.setdefault(key, (check, []))[1].append(kernel)
    return [
        Problem(
            kernels=tuple(kernels), check=check.check, verdict=check.verdict,
            cause=check.cause, summary=check.summary, remedy=check.remedy,
            quarantine=quarantined(check),
        )
        for check, kernels in found.values()
    ]  # fmt: skip
