# SPDX-License-Identifier: Apache-2.0
"""Results → a table and paragraphs for a terminal."""

from __future__ import annotations

from tabulate import tabulate

from harness.reporting.problems import problems
from harness.reporting.words import MARK, SYMBOL, printable, quarantine_lines, symbol_and_short
from harness.results import Cell, Held, Run


def table(run: Run, width: int = 0) -> str:
    """Kernels down, checks across, one symbol and word a cell.

    Where `width` columns are fewer than it takes, in pieces one under the other, each with the
    kernels' names; 0: as wide as it is.
    """
    columns = list(zip(headers(run), *rows(run), strict=True))
    pieces: list[list[tuple[str, ...]]] = [columns[:1]]
    for column in columns[1:]:
        if width and len(pieces[-1]) > 1 and _width([*pieces[-1], column]) > width:
            pieces.append(columns[:1])
        pieces[-1].append(column)
    return "\n\n".join(
        tabulate(
            list(zip(*piece, strict=True))[1:], headers=[column[0] for column in piece],
            tablefmt="simple", disable_numparse=True,
        )
        for piece in pieces
    )  # fmt: skip


def _width(columns: list[tuple[str, ...]]) -> int:
    # Two blanks between columns; tabulate leaves two more beside a heading.
    return sum(2 + max(len(head) + 2, *map(len, cells)) for head, *cells in columns) - 2


def headers(run: Run) -> list[str]:
    """The table's columns."""
    arch = ["arch"] if _several_archs(run) else []
    return ["kernel", *arch, "release", "verdict", *map(printable, run.check_names)]


def rows(run: Run) -> list[list[str]]:
    """The table's rows."""
    names = run.check_names  # looks at every cell
    arch = _several_archs(run)
    return [[printable(word) for word in _row(cell, names, arch=arch)] for cell in run.cells]


def _several_archs(run: Run) -> bool:
    return len({cell.kernel.arch for cell in run.cells if cell.kernel.arch}) > 1


def problems_text(run: Run) -> str:
    """The problems as paragraphs, "" without any."""
    lines: list[str] = []
    for problem in problems(run):
        lines.append(
            f"{SYMBOL[problem.verdict]} {', '.join(problem.kernels)}: {problem.check} "
            f"{problem.verdict}{f' ({problem.cause})' if problem.cause else ''}"
        )
        lines += [f"    {line}" for line in problem.summary.splitlines()]
        if problem.quarantine:
            lines.append(f"    {MARK} {problem.quarantine}")
        if problem.remedy:
            lines.append(f"    → {problem.remedy}")
    # Those that are in force stand with the failures they are about.
    lines += quarantine_lines(run, Held.EXPIRED, Held.STALE)
    return printable("\n".join(lines))


def _row(cell: Cell, names: tuple[str, ...], *, arch: bool) -> list[str]:
    by_name = {check.check: check for check in cell.checks}
    checks = [symbol_and_short(by_name.get(name)) for name in names]
    verdict = f"{SYMBOL[cell.verdict]} {cell.verdict}"
    named = [cell.kernel.name, *([cell.kernel.arch or "–"] if arch else [])]
    return [*named, cell.kernel.release or "–", verdict, *checks]
