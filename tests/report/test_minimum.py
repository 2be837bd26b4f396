# SPDX-License-Identifier: Apache-2.0
"""The oldest kernel of each program, the span of kernels, and the badge: from what was passed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as Xml

import pytest

from harness.reporting import badge
from harness.reporting.minimum import minimums, span
from harness.results import Cause, Cell, Program, Verdict
from tests.report.runs import UNAVAILABLE, UNKNOWN, cell, check, run

_VERDICTS = {"p": Verdict.PASS, "f": Verdict.FAIL, "u": Verdict.UNKNOWN, "o": Verdict.UNSUPPORTED}


def _asked(release: str, said: str, name: str = "") -> Cell:
    """A kernel; said: p(ass), f(ail), u(nknown), o: unsupported, -: unavailable."""
    series = ".".join(release.split(".")[:2])
    if said == "-":
        gone = cell(name or series, UNAVAILABLE, release="", boot=None)
        return replace(gone, kernel=replace(gone.kernel, series=series))
    program = Program(
        name="prog", verdict=_VERDICTS[said], why="" if said == "p" else f"why {said}"
    )
    cause = Cause.NONE if said == "p" else Cause.BEHAVIOUR
    answer = replace(check("load", _VERDICTS[said], cause), programs=(program,))
    return cell(name or series, answer, release=release)


def _row(words: str) -> list[Cell]:
    """ "5.4:p 5.10:f": kernels with what they said."""
    return [_asked(f"{word.partition(':')[0]}.1", word[-1]) for word in words.split()]


@pytest.mark.parametrize(
    ("kernels", "text"),
    [
        ("5.4:p 5.10:p 7.3:p", "5.4 → 7.3"),
        ("7.3:p 5.10:p 5.4:p", "5.4 → 7.3"),
        ("5.4:- 5.10:p 7.3:p", "5.10 → 7.3 (2/3)"),
        ("5.4:p 5.10:- 7.3:p", "5.4 → 7.3 (2/3)"),
        ("5.4:p 5.10:f 6.1:p 7.3:p", "6.1 → 7.3 (3/4)"),
        ("5.4:p 5.10:u 6.1:p 7.3:p", "6.1 → 7.3 (3/4)"),
        ("5.4:o 5.10:p 7.3:p", "5.10 → 7.3 (2/3)"),
        ("5.4:p 5.10:p 7.3:f", "5.4 → 5.10 (2/3)"),
        ("5.10:p", "5.10"),
        ("5.10:f", "0 of 1 kernels"),
        ("5.10:-", "0 of 1 kernels"),
    ],
)
def test_a_span_ends_where_something_did_not_pass(kernels: str, text: str) -> None:
    """5.9 is older than 5.10, and a kernel that was never run extends nothing."""
    found = span(run(*_row(kernels)))

    assert found.text == text


def test_no_kernel_is_no_span() -> None:
    """A run that did not compile."""
    assert span(run()).text == "0 of 0 kernels"
    assert not span(run()).whole


def test_half_a_series_is_not_called_by_its_name() -> None:
    """5.10's first release fails, its last passes: the badge must not say 5.10."""
    cells = [
        _asked("5.10.0-3", "f", "5.10-oldest"), _asked("5.10.0-30", "p", "5.10-newest"),
        _asked("6.1.5", "p", "6.1-oldest"),
    ]  # fmt: skip

    assert span(run(*cells)).text == "5.10-newest → 6.1 (2/3)"


def test_below_the_oldest_stand_the_reasons() -> None:
    """What a person must mend to reach further down, kernels with the same reason together."""
    (found,) = minimums(run(*_row("5.4:o 5.10:o 5.15:p 6.1:f 6.12:- 7.3:p")))

    assert (found.oldest, found.newest, found.passed, found.asked) == ("5.15", "7.3", 2, 6)
    assert [(r.kernels, r.verdict, r.why) for r in found.below] == [
        (("5.4", "5.10"), Verdict.UNSUPPORTED, "why o")
    ]
    assert [(r.kernels, r.verdict) for r in found.gaps] == [
        (("6.1",), Verdict.FAIL), (("6.12",), Verdict.UNAVAILABLE),
    ]  # fmt: skip


def test_a_kernel_that_said_nothing_of_a_program_did_not_pass_it() -> None:
    """Other checks of it may be green."""
    quiet = cell("5.4", check("boot", Verdict.PASS), release="5.4.1")
    lost = cell("5.10", UNKNOWN, release="5.10.1")
    (found,) = minimums(run(quiet, lost, *_row("6.1:p")))

    assert found.oldest == "6.1"
    assert [(r.kernels, r.verdict) for r in found.below] == [
        (("5.4",), Verdict.SKIPPED), (("5.10",), Verdict.UNKNOWN),
    ]  # fmt: skip


def test_the_verifiers_word_counts_before_that_of_a_load() -> None:
    """A program over its limit loads; the verifier check is the one that judges it."""
    loads = replace(
        check("load", Verdict.PASS), programs=(Program(name="prog", verdict=Verdict.PASS),)
    )
    dear = replace(
        check("verifier", Verdict.FAIL, Cause.LIMIT_EXCEEDED),
        programs=(Program(name="prog", verdict=Verdict.FAIL, why="dear"),),
    )
    (found,) = minimums(run(cell("5.4", loads, dear)))

    assert found.oldest == ""


@pytest.mark.parametrize(
    ("kernels", "colour"),
    [
        ("5.4:p 7.3:p", "#2a7d3a"),
        ("5.4:- 7.3:p", "#8f5f00"),
        ("5.4:u 7.3:p", "#8f5f00"),
        ("5.4:f 7.3:p", "#b3261e"),
        ("5.4:-", "#5c5f66"),
    ],
    ids=["all", "one missing", "one unknown", "one fails", "none"],
)
def test_a_badge_is_green_only_when_everything_passed(kernels: str, colour: str) -> None:
    """And says in words what it says in colour."""
    made = run(*_row(kernels))
    drawn = Xml.fromstring(badge.badge(made))
    rects = [rect.get("fill") for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]

    assert rects[-1] == colour
    assert texts == ["kernels", span(made).text]
