# SPDX-License-Identifier: Apache-2.0
"""Results → a terminal table and Markdown. Pure: reads results and nothing else of the run."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from harness.results import Cause, Cell, CheckResult, Run, Verdict

SYMBOL = {
    Verdict.PASS: "✔",
    Verdict.FAIL: "✘",
    Verdict.UNSUPPORTED: "○",
    Verdict.SKIPPED: "–",
    Verdict.UNKNOWN: "?",
    Verdict.UNAVAILABLE: "∅",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A cause, and every kernel and check that it struck."""

    kernels: tuple[str, ...]
    check: str
    verdict: Verdict
    cause: str
    summary: str
    remedy: str


def table(run: Run) -> str:
    """Kernels down, checks across, one symbol and word a cell, for a terminal."""
    return tabulate(_rows(run), headers=_headers(run), tablefmt="simple", disable_numparse=True)


def verdict_line(run: Run) -> str:
    """ "pass: 12 kernels — 9 pass, 3 unavailable"."""
    counts = dict.fromkeys(Verdict, 0)
    for cell in run.cells:
        counts[cell.verdict] += 1
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{run.verdict}: {len(run.cells)} kernels — {parts or 'none'}"


def problems(run: Run) -> list[Problem]:
    """What is not a pass, kernels with the same words together, in order of appearance."""
    found: dict[tuple[str, str, str, str], tuple[CheckResult, list[str]]] = {}
    for check in run.checks:
        if check.verdict is not Verdict.PASS:
            _collect(found, "all", check)
    for cell in run.cells:
        for check in cell.checks:
            decides = check.cause is not Cause.NOT_REACHED
            if decides and check.verdict not in (Verdict.PASS, Verdict.SKIPPED):
                _collect(found, cell.kernel.name, check)
    return [
        Problem(
            kernels=tuple(kernels), check=check.check, verdict=check.verdict,
            cause=check.cause, summary=check.summary, remedy=check.remedy,
        )
        for check, kernels in found.values()
    ]  # fmt: skip


def problems_text(run: Run) -> str:
    """The problems as paragraphs for a terminal, "" without any."""
    lines: list[str] = []
    for problem in problems(run):
        lines.append(
            f"{SYMBOL[problem.verdict]} {', '.join(problem.kernels)}: {problem.check} "
            f"{problem.verdict}{f' ({problem.cause})' if problem.cause else ''}"
        )
        lines += [f"    {line}" for line in problem.summary.splitlines()]
        if problem.remedy:
            lines.append(f"    → {problem.remedy}")
    return "\n".join(lines)


def markdown(run: Run) -> str:
    """The whole report: verdict, table, problems with evidence, and how it was made."""
    facts = run.run
    parts = [
        f"# Kernel matrix: {_cell_text(run.subject.name)}",
        f"**{_cell_text(verdict_line(run))}**",
        tabulate(
            [[_cell_text(word) for word in row] for row in _rows(run)],
            headers=_headers(run), tablefmt="github", disable_numparse=True,
        ),
        _legend(run),
        "\n".join(f"{check.check}: {SYMBOL[check.verdict]} {check.verdict}" for check in run.checks),
    ]  # fmt: skip
    found = problems(run)
    if found:
        parts.append("## What is not a pass")
        parts += [_problem_markdown(problem) for problem in found]
    parts.append(_instructions_markdown(run))
    parts.append(_evidence_markdown(run))
    parts.append("## How it was made")
    made = [
        ("object", f"{run.subject.path} (sha256 {run.subject.sha256})"),
        ("programs", ", ".join(run.subject.programs)),
        ("command", facts.command),
        ("started", f"{facts.started}, took {facts.duration_s:.0f} s"),
        ("backend", facts.backend),
        ("accelerator", f"{facts.accelerator} ({facts.accelerator_reason})"),
        ("QEMU", next((cell.boot.qemu for cell in run.cells if cell.boot), "none ran")),
        ("compiler", facts.compiler),
        ("host", facts.host),
        ("commit", facts.commit or "not in git"),
        ("kernels.lock", facts.lock_sha256 or "none"),
        *(("note", note) for note in facts.notes),
    ]
    parts.append(
        tabulate([[k, _cell_text(v)] for k, v in made], tablefmt="github", headers=["", ""])
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _headers(run: Run) -> list[str]:
    return ["kernel", "release", *run.check_names, "verdict"]


def _rows(run: Run) -> list[list[str]]:
    return [_row(cell, run.check_names) for cell in run.cells]


def _row(cell: Cell, names: tuple[str, ...]) -> list[str]:
    by_name = {check.check: check for check in cell.checks}
    checks = [_short(by_name.get(name)) for name in names]
    verdict = f"{SYMBOL[cell.verdict]} {cell.verdict}"
    return [cell.kernel.name, cell.kernel.release or "–", *checks, verdict]


def _short(check: CheckResult | None) -> str:
    if check is None:
        return ""
    figure = check.figures[0] if check.figures else None
    if check.verdict is Verdict.PASS and figure is not None:
        shown = (
            f"{figure.value:,.0f}"
            if figure.value >= 100 or figure.unit == "1"
            else f"{figure.value:.3g}"
        )
        unit = "" if figure.unit == "1" else f" {figure.unit}"
        return f"{SYMBOL[check.verdict]} {'~' if figure.emulated else ''}{shown}{unit}"
    word = check.cause or check.verdict
    return (
        f"{SYMBOL[check.verdict]} {word}"
        if check.verdict is not Verdict.PASS
        else SYMBOL[Verdict.PASS]
    )


def _collect(
    found: dict[tuple[str, str, str, str], tuple[CheckResult, list[str]]],
    kernel: str,
    check: CheckResult,
) -> None:
    key = (check.check, check.verdict, check.cause, check.summary)
    found.setdefault(key, (check, []))[1].append(kernel)


def _legend(run: Run) -> str:
    words = [f"{SYMBOL[verdict]} {verdict}" for verdict in Verdict]
    emulated = any(cell.boot and cell.boot.accelerator == "tcg" for cell in run.cells)
    note = (
        "; ~ an emulated figure, measured under TCG: not a property of hardware" if emulated else ""
    )
    return f"{', '.join(words)}{note}."


def _problem_markdown(problem: Problem) -> str:
    title = f"### {SYMBOL[problem.verdict]} {problem.check}: {problem.cause or problem.verdict}"
    lines = [title, f"Kernels: {', '.join(problem.kernels)}", _fenced(problem.summary)]
    if problem.remedy:
        lines.append(f"What to do: {_cell_text(problem.remedy)}")
    return "\n\n".join(lines)


def _instructions_markdown(run: Run) -> str:
    """What each program cost each kernel's verifier, in processed instructions."""
    by_kernel = {
        cell.kernel.name: {p.name: p for p in check.programs if p.verdict is Verdict.PASS}
        for cell in run.cells
        for check in cell.checks
        if check.check == "verifier" and check.programs
    }
    programs = sorted({name for found in by_kernel.values() for name in found})
    if not programs:
        return ""
    rows = [
        [
            kernel,
            *(_count(found[name].insns_processed if name in found else None) for name in programs),
        ]
        for kernel, found in by_kernel.items()
    ]
    limits = {p.name: p.insns_limit for found in by_kernel.values() for p in found.values()}
    rows.append(["limit", *(_count(limits[name]) for name in programs)])
    made = tabulate(
        rows,
        headers=["kernel", *(_cell_text(name) for name in programs)],
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *("right" for _ in programs)),
    )
    return f"## Instructions that the verifier processed\n\n{made}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _evidence_markdown(run: Run) -> str:
    parts: list[str] = []
    for cell in run.cells:
        lines = [
            _fenced(f"{item.title}\n{item.text}")
            if item.text
            else f"- {item.title}: [{item.path}]({item.path})"
            for check in cell.checks
            if check.verdict in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.UNSUPPORTED)
            for item in check.evidence
        ]
        if cell.console:
            lines.append(f"- console: [{cell.console}]({cell.console})")
        if cell.kernel.note:
            lines.append(f"- note: {_cell_text(cell.kernel.note)}")
        if lines:
            source = f" — {_cell_text(cell.kernel.source)}" if cell.kernel.source else ""
            parts.append(f"### {cell.kernel.name}{source}\n\n" + "\n".join(lines))
    return "## Kernels\n\n" + "\n\n".join(parts) if parts else ""


def _fenced(text: str) -> str:
    """A block that the text cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def _cell_text(text: str) -> str:
    """Text from outside, safe in a Markdown table or line."""
    out = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return out.replace("`", "\\`")
