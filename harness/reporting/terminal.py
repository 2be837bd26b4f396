# SPDX-License-Identifier: Apache-2.0
"""Results → a table and paragraphs for a terminal."""

from __future__ import annotations

from tabulate import tabulate

from harness.reporting.problems import problems
from harness.reporting.words import SYMBOL, printable, symbol_and_short
from harness.results import Cell, Run


def table(run: Run) -> str:
    """Kernels down, checks across, one symbol and word a cell."""
    return tabulate(rows(run), headers=headers(run), tablefmt="simple", disable_numparse=True)


def headers(run: Run) -> list[str]:
    """The table's columns."""
    return ["kernel", "release", *map(printable, run.check_names), "verdict"]


def rows(run: Run) -> list[list[str]]:
    """The table's rows."""
    return [[printable(word) for word in _row(cell, run.check_names)] for cell in run.cells]


def problems_text(run: Run) -> str:
    """The problems as paragraphs, "" without any."""
    lines: list[str] = []
    for problem in problems(run):
        lines.append(
            f"{SYMBOL[problem.verdict]} {', '.join(problem.kernels)}: {problem.check} "
            f"{problem.verdict}{f' ({problem.cause})' if problem.cause else ''}"
        )
        lines += [f"    {line}" for line in problem.summary.splitlines()]
        if problem.remedy:
            lines.append(f"    → {problem.remedy}")
    return printable("\n".join(lines))


def _row(cell: Cell, names: tuple[str, ...]) -> list[str]:
    by_name = {check.check: check for check in cell.checks}
    checks = [symbol_and_short(by_name.get(name)) for name in names]
    verdict = f"{SYMBOL[cell.verdict]} {cell.verdict}"
    return [cell.kernel.name, cell.kernel.release or "–", *checks, verdict]
