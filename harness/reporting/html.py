# SPDX-License-Identifier: Apache-2.0
"""Results → one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from harness.reporting import words
from harness.reporting.charts import charts
from harness.reporting.evidence import gather
from harness.reporting.minimum import by_age, minimums, span
from harness.reporting.page import environment
from harness.reporting.past import Past
from harness.reporting.problems import problems
from harness.reporting.relocations import rows, spans
from harness.reporting.trends import trends
from harness.results import Cause, Cell, CheckResult, Run, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A value to filter by, and how many kernels have it."""

    value: str
    count: int


def html(run: Run, directory: Path | None, past: Sequence[Past] = ()) -> str:
    """The page; evidence files are taken from `directory`, where the results.json is."""
    data = resources.files("harness.reporting") / "data"
    script = (data / "report.js").read_text(encoding="utf-8")
    order = [cell.kernel.name for cell in by_age(run.cells)]
    return environment().get_template("report.html.jinja").render(
        run=run,
        names=run.check_names,
        style=Markup((data / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        words=words,
        symbol=words.SYMBOL,
        problems=problems(run),
        minimums=minimums(run),
        span=span(run),
        charts=[*charts(run), *trends(past)],
        relocations=rows(run.relocations),
        spans=lambda kernels: spans(kernels, order),
        files=gather(run, directory),
        verdicts=_verdicts(run),
        causes=_causes(run),
        series=_series(run),
        cell_id=_cell_ids(run),
        by_name=_by_name,
        is_source=lambda line: line.lstrip().startswith(";"),
        told=(Verdict.FAIL, Verdict.UNKNOWN, Verdict.UNSUPPORTED, Verdict.UNAVAILABLE),
    )  # fmt: skip


def _verdicts(run: Run) -> list[Choice]:
    return [Choice(value=v, count=n) for v, n in words.counts(run).items() if n]


def _causes(run: Run) -> list[Choice]:
    found: dict[str, int] = {}
    for cell in run.cells:
        for cause in {check.cause for check in cell.checks} - {Cause.NONE}:
            found[cause] = found.get(cause, 0) + 1
    return [Choice(value=cause, count=count) for cause, count in sorted(found.items())]


def _series(run: Run) -> list[Choice]:
    found: dict[str, int] = {}
    for cell in by_age(run.cells):
        found[cell.kernel.series] = found.get(cell.kernel.series, 0) + 1
    return [Choice(value=series, count=count) for series, count in found.items()]


def _cell_ids(run: Run) -> dict[str, str]:
    """Kernel → a name for an element; kernels' own names may hold anything."""
    return {cell.kernel.name: f"k{number}" for number, cell in enumerate(run.cells)}


def _by_name(cell: Cell) -> dict[str, CheckResult]:
    return {check.check: check for check in cell.checks}
