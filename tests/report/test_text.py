# SPDX-License-Identifier: Apache-2.0
"""The table for a terminal, the problems below it, and Markdown."""

from __future__ import annotations

from dataclasses import replace

from harness import reporting
from harness.reporting import markdown
from harness.results import Cause, Evidence, Figure, Verdict
from tests.report.runs import FAIL, PASS, UNAVAILABLE, UNKNOWN, cell, check, run


def test_no_symbol_but_that_of_a_pass_looks_like_one() -> None:
    """The table is read at a glance."""
    assert len(set(reporting.SYMBOL.values())) == len(Verdict)
    text = reporting.table(run(cell("a", PASS), cell("b", UNKNOWN), cell("c", UNAVAILABLE)))

    passing = [line for line in text.splitlines() if reporting.SYMBOL[Verdict.PASS] in line]
    assert len(passing) == 1


def test_the_same_trouble_on_many_kernels_is_told_once() -> None:
    """Four unavailable kernels are one paragraph."""
    found = reporting.problems(run(cell("a", FAIL), cell("b", FAIL), cell("c", UNKNOWN)))

    assert [problem.kernels for problem in found] == [("a", "b"), ("c",)]
    assert "a, b: load fail (verifier-rejected)" in reporting.problems_text(
        run(cell("a", FAIL), cell("b", FAIL))
    )


def test_checks_behind_a_lost_guest_are_not_told_again() -> None:
    """One deciding line, not five."""
    behind = check("attach", Verdict.UNKNOWN, Cause.NOT_REACHED)

    assert len(reporting.problems(run(cell("a", UNKNOWN, behind)))) == 1


def test_an_emulated_figure_says_so() -> None:
    """A time measured under TCG must not be quoted as hardware's."""
    figure = Figure(name="guest ready", value=3.21, unit="s", emulated=True)
    text = reporting.table(run(cell("a", replace(PASS, figures=(figure,)))))

    assert "~3.21 s" in text


def test_hostile_text_cannot_leave_itscell() -> None:
    """Verifier logs and names come from elsewhere; Markdown must stay a table."""
    evil = "a|b`c` <script>alert(1)</script>\n```\n# head"
    check = replace(FAIL, summary=evil, evidence=(Evidence(title="log", text=evil),))
    text = markdown.full(run(cell("a|b", check)))

    assert "<script>" not in text.replace("````\n", "").split("## What")[0]
    assert "a\\|b" in text
    assert "\n````\n" in text
