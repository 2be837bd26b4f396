# SPDX-License-Identifier: Apache-2.0
"""Past runs in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness import job, reporting
from harness.reporting import html
from harness.reporting.trends import trends
from harness.results import Run
from tests.report.runs import matrix


def _past(day: int, kernels: int, **values: float) -> reporting.Past:
    return reporting.Past(
        started=f"2026-11-{day:02}T10:00:00+00:00", commit=f"c{day}",
        quantities={
            name: {f"k{number}": value + number for number in range(kernels)}
            for name, value in values.items()
        },
    )  # fmt: skip


def test_runs_are_drawn_oldest_first_whatever_their_order() -> None:
    """Time goes to the right."""
    (chart,) = trends([_past(12, 2, boot=3.0), _past(11, 2, boot=4.0)])

    assert [row[0][:10] for row in chart.rows] == ["2026-11-11", "2026-11-12"]
    assert chart.rows[0][2:] == ("4", "5")


def test_one_run_is_no_trend() -> None:
    """Neither are two runs that measured different things."""
    assert trends([_past(11, 2, boot=4.0)]) == []
    assert trends([_past(11, 2, boot=4.0), _past(12, 2, memory=2.0)]) == []


def test_sixty_kernels_are_three_lines() -> None:
    """Sixty lines in one plot say nothing."""
    (chart,) = trends([_past(11, 60, boot=4.0), _past(12, 60, boot=5.0)])

    assert chart.headers[2:] == ("highest", "median", "lowest")
    assert chart.rows[0][2:] == ("63", "33.5", "4")


def _of(day: int, made: Run) -> Run:
    return replace(made, run=replace(made.run, started=f"2026-11-{day:02}T10:00:00+00:00"))


def test_a_report_draws_the_runs_before_it_and_no_later_one(tmp_path: Path) -> None:
    """Redrawn a year later, a report is still about its own time."""
    reports = tmp_path / "reports"
    for day in (10, 11, 12):
        job.write_reports(_of(day, matrix(3)), reports / f"run-{day}")
    job.redraw(reports / "run-11" / "results.json")
    pages = {day: (reports / f"run-{day}" / "report.html").read_text() for day in (10, 11, 12)}

    assert "Past runs" not in pages[10]
    assert "in the last 2 runs" in pages[11]
    assert "in the last 3 runs" in pages[12]
    assert "Past runs: instructions of the dearest program" in pages[12]


def test_hostile_names_of_the_past_are_text() -> None:
    """The history is a file that anybody may have written."""
    evil = "<script>alert(1)</script>"
    past = [
        reporting.Past(started=evil, commit=evil, quantities={evil: {evil: 1.0}}) for _ in range(2)
    ]
    page = html.html(matrix(2), None, past)

    assert evil not in page
    assert "&lt;script&gt;alert(1)" in page
