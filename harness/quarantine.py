# SPDX-License-Identifier: Apache-2.0
"""The manifest's quarantine on a run: failures that are known, marked and not counted. Pure.

A failure that is quarantined stays a failure; only the exit status passes over it, until the day
named. So does a flaky answer, which is what most quarantines are about.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Sequence
from dataclasses import replace

from harness.results import (
    Cause,
    CheckResult,
    Held,
    Quarantine,
    Quarantined,
    Run,
    Verdict,
)
from harness.subject import Quarantine as Entry

OBJECT = ""  # the kernel of a check that is asked once for the object: "*" matches it


def applied(run: Run, entries: Sequence[Entry], today: datetime.date) -> Run:
    """The run with its failures marked, and what became of each entry."""
    if not entries:
        return run

    def marked(kernel: str, checks: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
        return tuple(
            replace(check, quarantine=_by(check, kernel, entries, today)) for check in checks
        )

    return replace(
        run,
        checks=marked(OBJECT, run.checks),
        cells=tuple(replace(c, checks=marked(c.kernel.name, c.checks)) for c in run.cells),
        quarantine=tuple(_held(run, entry, today) for entry in entries),
    )


def again(run: Run, entries: Sequence[Quarantine], today: datetime.date) -> Run:
    """The run, after its answers changed, with the entries that it or its shards had."""
    words = (
        Entry(
            check=one.check, kernels=one.kernels, owner=one.owner, reason=one.reason,
            expires=datetime.date.fromisoformat(one.expires),
        )
        for one in entries
    )  # fmt: skip
    return applied(run, tuple(dict.fromkeys(words)), today)


def known(check: CheckResult) -> bool:
    """Whether it is something that a quarantine is for: a failure, or a flaky answer."""
    return check.verdict is Verdict.FAIL or check.cause is Cause.FLAKY


def _by(
    check: CheckResult, kernel: str, entries: Sequence[Entry], today: datetime.date
) -> Quarantined | None:
    if not known(check):
        return None
    for one in entries:
        if one.check == check.check and _matches(one, kernel) and today <= one.expires:
            return Quarantined(owner=one.owner, reason=one.reason, expires=str(one.expires))
    return None


def _matches(entry: Entry, kernel: str) -> bool:
    return any(fnmatch.fnmatchcase(kernel, pattern) for pattern in entry.kernels)


def _held(run: Run, entry: Entry, today: datetime.date) -> Quarantine:
    asked = [(OBJECT, check) for check in run.checks]
    asked += [(cell.kernel.name, check) for cell in run.cells for check in cell.checks]
    mine = [
        (kernel, check)
        for kernel, check in asked
        if check.check == entry.check and _matches(entry, kernel)
    ]
    struck = tuple(kernel for kernel, check in mine if known(check))
    told = [check for _, check in mine if check.verdict in (Verdict.PASS, Verdict.UNSUPPORTED)]
    names = (*run.run.planned, *(cell.kernel.name for cell in run.cells))
    nowhere = not mine and not any(_matches(entry, name) for name in names)
    if struck:
        held = Held.ACTIVE if today <= entry.expires else Held.EXPIRED
    elif nowhere or (mine and len(told) == len(mine)):
        held = Held.STALE
    else:
        held = Held.IDLE
    return Quarantine(
        check=entry.check, kernels=entry.kernels, owner=entry.owner, reason=entry.reason,
        expires=str(entry.expires), held=held, struck=struck,
    )  # fmt: skip
