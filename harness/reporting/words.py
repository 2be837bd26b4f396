# SPDX-License-Identifier: Apache-2.0
"""The words and symbols that every form of the report shares."""

from __future__ import annotations

import math
from typing import Final

from harness import intake
from harness.results import Cell, CheckResult, Figure, Held, Quarantine, Run, Verdict

SYMBOL = {
    Verdict.PASS: "✔",
    Verdict.FAIL: "✘",
    Verdict.UNSUPPORTED: "○",
    Verdict.SKIPPED: "–",
    Verdict.UNKNOWN: "?",
    Verdict.UNAVAILABLE: "∅",
}
MARK = "⚐"  # of a failure that is quarantined
_ALWAYS_ASKED: Final = ("compile", "core-access", "resolve", "boot")  # no --checks for them
EMULATED_NOTE = "~ an emulated figure, measured under TCG: not a property of hardware"


def printable(words: str) -> str:
    """Without control characters: XML cannot hold them, and a terminal would obey them."""
    return intake.plain(words)


def number(value: float) -> str:
    """5585.0 → "5,585", 3.2149 → "3.21", 0.000012 → "1.2e-05"."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e15 else f"{value:.3g}"


def figure(one: Figure) -> str:
    """The value with its unit, and ~ before one that was measured under emulation."""
    unit = "" if one.unit == "1" else f" {one.unit}"
    return f"{'~' if one.emulated else ''}{number(one.value)}{unit}"


def short(check: CheckResult) -> str:
    """What follows the symbol in a cell of the matrix: the first figure, or the cause."""
    if check.verdict is Verdict.PASS:
        return figure(check.figures[0]) if check.figures else ""
    return check.cause or check.verdict


def symbol_and_short(check: CheckResult | None) -> str:
    """A cell of the matrix; "" where the check was not asked."""
    if check is None:
        return ""
    mark = f" {MARK}" if check.quarantine else ""
    return f"{SYMBOL[check.verdict]} {short(check)}".rstrip() + mark


def quarantined(check: CheckResult) -> str:
    """Who answers for a failure that does not count, why and until when; "" for any other."""
    one = check.quarantine
    return f"quarantined until {one.expires} by {one.owner}: {one.reason}" if one else ""


def quarantine_lines(run: Run, *held: Held) -> list[str]:
    """What became of the entries of the quarantine; by default of all that were asked."""
    chosen = held or (Held.ACTIVE, Held.EXPIRED, Held.STALE)
    return [_quarantine_line(one) for one in run.quarantine if one.held in chosen]


def _quarantine_line(one: Quarantine) -> str:
    what = f"{one.check} on {', '.join(one.kernels)}"
    struck = ", ".join(name or "the object" for name in one.struck)
    match one.held:
        case Held.ACTIVE:
            return (
                f"{MARK} {what}: quarantined until {one.expires} by {one.owner}: {one.reason}; "
                f"fails on {struck} and does not count"
            )
        case Held.EXPIRED:
            return (
                f"{SYMBOL[Verdict.FAIL]} {what}: the quarantine by {one.owner} ({one.reason}) "
                f"expired on {one.expires}; it fails on {struck} and counts again"
            )
        case _:
            return (
                f"{MARK} {what}: the quarantine by {one.owner} ({one.reason}) is stale: no kernel "
                "of this run matches it, or its check passed on all that do; remove it"
            )


def counts(run: Run) -> dict[Verdict, int]:
    """How many kernels have each verdict, zeros included."""
    found = dict.fromkeys(Verdict, 0)
    for cell in run.cells:
        found[cell.verdict] += 1
    return found


def verdict_line(run: Run) -> str:
    """ "pass: 12 kernels — 9 pass, 3 unavailable"."""
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts(run).items() if count)
    kernels = "kernel" if len(run.cells) == 1 else "kernels"
    known = sum(any(not check.counts for check in cell.checks) for cell in run.cells)
    marked = f"; {known} with a quarantined failure, which does not count" if known else ""
    return f"{run.verdict}: {len(run.cells)} {kernels} — {parts or 'none'}{marked}"


def emulated(run: Run) -> bool:
    """Whether any guest ran without hardware's help."""
    return any(cell.boot and cell.boot.accelerator == "tcg" for cell in run.cells)


def legend(run: Run) -> str:
    """Every symbol with its word."""
    words = ", ".join(f"{symbol} {verdict}" for verdict, symbol in SYMBOL.items())
    marked = f"; {MARK} quarantined" if any(map(quarantined, every_check(run))) else ""
    return f"{words}{marked}{f'; {EMULATED_NOTE}' if emulated(run) else ''}."


def every_check(run: Run) -> list[CheckResult]:
    """Those of the object and those of all cells."""
    return [*run.checks, *(check for cell in run.cells for check in cell.checks)]


def reproduce(run: Run, cell: Cell | None, check: str) -> str:
    """One line that asks that check again, on that kernel alone."""
    words = ["inv kernel-matrix", run.subject.select]
    if cell is not None:
        words.append(cell.kernel.select or f"--kernels {cell.kernel.name}")
        if check in run.run.questions and check not in _ALWAYS_ASKED:
            words.append(f"--checks {check}")
    return " ".join(word for word in words if word)


def made(run: Run) -> list[tuple[str, str]]:
    """With what the run was made, as name and text."""
    facts, boots = run.run, [cell.boot for cell in run.cells if cell.boot]
    return [
        ("object", f"{run.subject.path} (sha256 {run.subject.sha256})"),
        ("programs", ", ".join(run.subject.programs) or "those of the object"),
        ("command", facts.command),
        ("started", f"{facts.started}, took {facts.duration_s:.0f} s"),
        ("backend", facts.backend),
        ("accelerator", f"{facts.accelerator} ({facts.accelerator_reason})"),
        ("QEMU", boots[0].qemu if boots else "none ran"),
        ("guests", f"{boots[0].vcpus} CPUs, {boots[0].memory_mib} MiB" if boots else "none"),
        ("libbpf", next((boot.libbpf for boot in boots if boot.libbpf), "none ran")),
        ("compiler", facts.compiler),
        ("host", facts.host),
        ("harness", facts.harness),
        ("commit", facts.commit or "not in git"),
        ("kernels.lock", facts.lock_sha256 or "none"),
        *(("note", note) for note in facts.notes),
    ]
