# SPDX-License-Identifier: Apache-2.0
"""results.json → every form that a person or a machine reads.

Reads results, and the evidence files that lie beside them; nothing else of the run. `draw` is the
whole of it for files; a terminal gets `table` and `problems_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.reporting.past import Past
from harness.reporting.problems import Problem, problems
from harness.reporting.terminal import problems_text, table
from harness.reporting.words import SYMBOL, verdict_line
from harness.results import Run

__all__ = [
    "SYMBOL",
    "Past",
    "Problem",
    "draw",
    "problems",
    "problems_text",
    "table",
    "verdict_line",
]

SHORT = "summary.md"  # what a pull request, or GitHub's step summary, gets


def draw(run: Run, directory: Path | None, past: Sequence[Past] = ()) -> dict[str, bytes]:
    """Every report by its file name; `directory` holds the results' evidence files, None: nothing."""
    # Here, for the drawing libraries cost every other task a tenth of a second.
    from harness.reporting import badge, html, junit, markdown, sarif

    return {
        "report.html": html.html(run, directory, past).encode(),
        "report.md": markdown.full(run).encode(),
        SHORT: markdown.short(run, prefix="##").encode(),
        "junit.xml": junit.junit(run),
        "results.sarif": sarif.sarif(run),
        "badge.svg": badge.badge(run).encode(),
    }
