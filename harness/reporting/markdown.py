# SPDX-License-Identifier: Apache-2.0
"""Results → Markdown: a short form for a pull request, and the whole report."""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from typing import Final

from tabulate import tabulate

from harness import intake
from harness.reporting import terminal
from harness.reporting.minimum import Minimum, Reason, minimums, programs_of, span
from harness.reporting.problems import Problem, problems
from harness.reporting.words import (
    MARK,
    SYMBOL,
    legend,
    made,
    number,
    quarantine_lines,
    reproduce,
    verdict_line,
)
from harness.results import Cell, Relocation, Run, Verdict

SHORT_MAX: Final = 60_000  # characters; a comment on GitHub takes 65,536
_SUMMARY_MAX: Final = 400  # characters of one problem in the short form
_MOVED_MAX: Final = 40


def short(run: Run, *, prefix: str = "#") -> str:
    """Verdict, table, problems in a line each: what a pull request needs."""
    found = problems(run)
    parts = [
        f"{prefix} Kernel matrix: {text(run.subject.name)}",
        f"**{SYMBOL[run.verdict]} {text(verdict_line(run))}** · kernels passed: {text(span(run).text)}",
        _object_line(run),
        _table(run),
        "\n".join(_problem_line(problem) for problem in found),
        "\n".join(f"- quarantine: {text(line)}" for line in quarantine_lines(run)),
        _minimum_line(run),
        f"<sub>{text(legend(run))}</sub>",
    ]
    return _cut("\n\n".join(part for part in parts if part) + "\n")


def full(run: Run) -> str:
    """The short form, then problems with evidence, figures, relocations, how it was made."""
    found = problems(run)
    parts = [short(run)]
    if found:
        parts.append("## What is not a pass")
        parts += [_problem(problem) for problem in found]
    parts += [
        _minimums(minimums(run)),
        _instructions(run),
        _relocations(run.relocations),
        _evidence(run),
        "## How it was made",
        tabulate([[k, text(v)] for k, v in made(run)], tablefmt="github", headers=["", ""]),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def text(words: str) -> str:
    """Text from outside, safe in a Markdown table or line."""
    return intake.markdown(words)


def _cut(whole: str) -> str:
    if len(whole) <= SHORT_MAX:
        return whole
    head = whole[:SHORT_MAX].rpartition("\n")[0]
    return f"{head}\n\n… cut here: {len(whole):,} characters; the report has all of it.\n"


def _object_line(run: Run) -> str:
    return " · ".join(
        f"{text(check.check)} {SYMBOL[check.verdict]} {check.verdict}" for check in run.checks
    )


def _table(run: Run) -> str:
    if not run.cells:
        return ""
    return tabulate(
        [[text(word) for word in row] for row in terminal.rows(run)],
        headers=[text(word) for word in terminal.headers(run)],
        tablefmt="github", disable_numparse=True,
    )  # fmt: skip


def _problem_line(problem: Problem) -> str:
    summary = " ".join(problem.summary.split())
    if len(summary) > _SUMMARY_MAX:
        summary = f"{summary[:_SUMMARY_MAX]}…"
    head = f"{problem.check} {problem.verdict}{f' ({problem.cause})' if problem.cause else ''}"
    remedy = f" → {text(problem.remedy)}" if problem.remedy else ""
    kernels = ", ".join(problem.kernels)
    known = f" ({MARK} {text(problem.quarantine)})" if problem.quarantine else ""
    return (
        f"- {SYMBOL[problem.verdict]} **{text(head)}** on {text(kernels)}: {text(summary)}{known}"
        f"{remedy}"
    )


def _minimum_line(run: Run) -> str:
    found = minimums(run)
    if not found:
        return ""
    return "Oldest kernel passed: " + ", ".join(
        f"{text(one.program)} {text(one.oldest) or 'none'}" for one in found
    )


def _problem(problem: Problem) -> str:
    title = f"### {SYMBOL[problem.verdict]} {problem.check}: {problem.cause or problem.verdict}"
    lines = [text(title).replace("\\#", "#"), f"Kernels: {text(', '.join(problem.kernels))}"]
    if problem.summary:
        lines.append(_fenced(problem.summary))
    if problem.quarantine:
        lines.append(f"{MARK} {text(problem.quarantine)}")
    if problem.remedy:
        lines.append(f"What to do: {text(problem.remedy)}")
    return "\n\n".join(lines)


def _minimums(found: list[Minimum]) -> str:
    if not found:
        return ""
    made = tabulate(
        [
            [
                text(one.program), text(one.oldest) or "none", f"{one.passed} of {one.asked}",
                _reasons(one.below), _reasons(one.gaps),
            ]
            for one in found
        ],
        headers=["program", "oldest passed", "passed", "below it", "not passed above it"],
        tablefmt="github", disable_numparse=True,
    )  # fmt: skip
    return f"## Oldest kernel of each program\n\n{made}"


def _reasons(reasons: Iterable[Reason]) -> str:
    return "; ".join(
        text(f"{', '.join(one.kernels)}: {one.verdict}{f', {one.why}' if one.why else ''}")
        for one in reasons
    )


def _instructions(run: Run) -> str:
    """What each program cost each kernel's verifier, in processed instructions."""
    said = {
        cell.kernel.name: {one.name: one for one in programs_of(cell)}
        for cell in run.cells
        if any(one.insns_processed is not None for one in programs_of(cell))
    }
    names = list(dict.fromkeys(name for programs in said.values() for name in programs))
    if not names:
        return ""
    rows = [
        [text(kernel), *(_count(programs[n].insns_processed if n in programs else None) for n in names)]
        for kernel, programs in said.items()
    ]  # fmt: skip
    limits = {one.name: one.insns_limit for programs in said.values() for one in programs.values()}
    rows.append(["limit", *(_count(limits[name]) for name in names)])
    made = tabulate(
        rows, headers=["kernel", *(text(name) for name in names)], tablefmt="github",
        disable_numparse=True, colalign=("left", *("right" for _ in names)),
    )  # fmt: skip
    return f"## Instructions that the verifier processed\n\n{made}"


def _count(value: int | None) -> str:
    return "–" if value is None else number(value)


def _relocations(relocations: tuple[Relocation, ...]) -> str:
    """Those that differ between kernels, each path once."""
    rows: dict[tuple[str, ...], None] = {}
    for one in relocations:
        if len(one.outcomes) > 1:
            outcomes = "; ".join(
                f"{o.value if o.status == 'resolved' else o.status}: {', '.join(o.kernels)}"
                for o in one.outcomes
            )
            rows[(text(one.path), text(one.kind), text(outcomes))] = None
    if not rows:
        return ""
    shown = list(rows)[:_MOVED_MAX]
    more = f"\n\n… and {len(rows) - len(shown)} more" if len(shown) < len(rows) else ""
    made = tabulate(
        shown, headers=["path", "kind", "value: kernels"], tablefmt="github", disable_numparse=True
    )
    return f"## Relocations that differ between kernels\n\n{made}{more}"


def _evidence(run: Run) -> str:
    parts = [part for cell in run.cells if (part := _cell_evidence(run, cell))]
    return "## Kernels\n\n" + "\n\n".join(parts) if parts else ""


def _cell_evidence(run: Run, cell: Cell) -> str:
    lines: list[str] = []
    for check in cell.checks:
        if check.verdict in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.UNSUPPORTED):
            for item in check.evidence:
                if item.text:
                    lines.append(_fenced(f"{item.title}\n{item.text}"))
                if item.path:
                    lines.append(f"- {text(item.title) or 'file'}: {_link(item.path)}")
            lines.append(f"- again: {_code(reproduce(run, cell, check.check))}")
    lines += [f"- console: {_link(path)}" for path in (cell.console, *cell.consoles_alone) if path]
    if cell.kernel.note:
        lines.append(f"- note: {text(cell.kernel.note)}")
    if not lines:
        return ""
    source = f" — {text(cell.kernel.source)}" if cell.kernel.source else ""
    return f"### {text(cell.kernel.name)}{source}\n\n" + "\n".join(lines)


def _link(path: str) -> str:
    """A link to a file beside the report; anything else is shown and not linked."""
    plain = os.path.normpath(path)
    inside = not (plain.startswith(("/", "..")) or ":" in plain or any(c in plain for c in "()<> "))
    return f"[{text(path)}]({plain})" if inside else text(path)


def _code(words: str) -> str:
    """A code span that the text cannot close."""
    plain = intake.line(words, len(words))
    fence = "`"
    while fence in plain:
        fence += "`"
    blank = " " if len(fence) > 1 else ""
    return f"{fence}{blank}{plain}{blank}{fence}"


def _fenced(text: str) -> str:
    """A block that the text cannot close."""
    words = intake.plain(text)
    fence = "```"
    while fence in words:
        fence += "`"
    return f"{fence}\n{words}\n{fence}"
