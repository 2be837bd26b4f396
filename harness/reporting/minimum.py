# SPDX-License-Identifier: Apache-2.0
"""The oldest kernel that each program passed on, and the span of kernels that the subject did.

Both are made from what was passed alone: a kernel that was not asked, could not be had or gave no
answer never counts as one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.results import Cell, Program, Run, Verdict

_PROGRAM_CHECKS = ("verifier", "load")  # the first that says something of the programs


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a program did not pass on some kernels."""

    kernels: tuple[str, ...]
    verdict: Verdict
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Minimum:
    """One program over all kernels that were asked, oldest first."""

    program: str
    oldest: str  # name of the oldest kernel it passed on, "" for none
    newest: str
    passed: int
    asked: int
    below: tuple[Reason, ...]  # kernels older than `oldest`
    gaps: tuple[Reason, ...]  # newer ones on which it did not pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The unbroken row of passed kernels that ends at the newest passed one."""

    oldest: str  # a series where all of it that was asked passed, else a kernel's name
    newest: str
    passed: int  # of all kernels
    asked: int

    @property
    def text(self) -> str:
        """ "5.4 → 7.3", with the count where it is not all of them."""
        if not self.oldest:
            return f"0 of {self.asked} kernels"
        kernels = self.oldest if self.oldest == self.newest else f"{self.oldest} → {self.newest}"
        return kernels if self.passed == self.asked else f"{kernels} ({self.passed}/{self.asked})"

    @property
    def whole(self) -> bool:
        return self.passed == self.asked > 0


def by_age(cells: tuple[Cell, ...]) -> list[Cell]:
    """Oldest kernel first; kernels without a release by their series."""
    return sorted(cells, key=_age)


def _age(cell: Cell) -> tuple[list[int], list[int]]:
    release = [int(number) for number in re.findall(r"\d+", cell.kernel.release)]
    series = [int(number) for number in re.findall(r"\d+", cell.kernel.series)]
    return (series or release[:2], release)


def programs_of(cell: Cell) -> tuple[Program, ...]:
    """What the kernel said of each program; empty when it was not asked."""
    found = {check.check: check.programs for check in cell.checks if check.programs}
    return next((found[name] for name in _PROGRAM_CHECKS if name in found), ())


def minimums(run: Run) -> list[Minimum]:
    """One for each program of the subject, in the subject's order."""
    cells = by_age(run.cells)
    said = {cell.kernel.name: {one.name: one for one in programs_of(cell)} for cell in cells}
    names = dict.fromkeys((*run.subject.programs, *(n for one in said.values() for n in one)))
    return [_minimum(name, cells, said) for name in names if any(name in s for s in said.values())]


def _minimum(name: str, cells: list[Cell], said: dict[str, dict[str, Program]]) -> Minimum:
    passed: list[str] = []
    below: dict[tuple[Verdict, str], list[str]] = {}
    gaps: dict[tuple[Verdict, str], list[str]] = {}
    for cell in cells:
        program = said[cell.kernel.name].get(name)
        if program is not None and program.verdict is Verdict.PASS:
            passed.append(cell.kernel.name)
        else:
            found = gaps if passed else below
            found.setdefault(_why_not(cell, program), []).append(cell.kernel.name)
    return Minimum(
        program=name, oldest=passed[0] if passed else "", newest=passed[-1] if passed else "",
        passed=len(passed), asked=len(cells), below=_reasons(below), gaps=_reasons(gaps),
    )  # fmt: skip


def _reasons(found: dict[tuple[Verdict, str], list[str]]) -> tuple[Reason, ...]:
    return tuple(
        Reason(kernels=tuple(kernels), verdict=verdict, why=why)
        for (verdict, why), kernels in found.items()
    )


def _why_not(cell: Cell, program: Program | None) -> tuple[Verdict, str]:
    if program is not None:
        return program.verdict, program.why
    deciding = cell.deciding
    # A kernel that answered other checks was not asked this: it is no pass, whatever those say.
    verdict = cell.verdict if cell.verdict is not Verdict.PASS else Verdict.SKIPPED
    why = deciding.summary.partition("\n")[0] if deciding and deciding.summary else "not asked"
    return verdict, why


def span(run: Run) -> Span:
    """From the newest passed kernel down to the first that did not; one not to be had is no end."""
    cells = by_age(run.cells)
    passed = [cell for cell in cells if cell.verdict is Verdict.PASS]
    row: list[Cell] = []
    for cell in reversed(cells):
        if cell.verdict is Verdict.PASS:
            row.insert(0, cell)
        elif row and cell.verdict is not Verdict.UNAVAILABLE:
            break
    return Span(
        oldest=_named(row[0], cells) if row else "", newest=_named(row[-1], cells) if row else "",
        passed=len(passed), asked=len(cells),
    )  # fmt: skip


def _named(cell: Cell, cells: list[Cell]) -> str:
    series = [one for one in cells if one.kernel.series == cell.kernel.series]
    whole = cell.kernel.series and all(one.verdict is Verdict.PASS for one in series)
    return cell.kernel.series if whole else cell.kernel.name
