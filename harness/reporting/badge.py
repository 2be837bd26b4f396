# SPDX-License-Identifier: Apache-2.0
"""Results → a badge for a README: "kernels | 5.4 → 7.3", from what was passed alone."""

from __future__ import annotations

from typing import Final

from harness.reporting.minimum import span
from harness.reporting.page import environment
from harness.reporting.words import printable
from harness.results import Run, Verdict

# Each has a contrast of 4.5:1 or more with white.
_GREEN: Final = "#2a7d3a"
_AMBER: Final = "#8f5f00"
_RED: Final = "#b3261e"
_GREY: Final = "#5c5f66"
_CHAR_PX: Final = 6.6  # of 11 px DejaVu Sans, on average
_PAD_PX: Final = 7


def badge(run: Run) -> str:
    """An SVG of 20 px height."""
    found = span(run)
    label, words = "kernels", printable(found.text)
    left, right = (round(len(part) * _CHAR_PX) + 2 * _PAD_PX for part in (label, words))
    if run.verdict is Verdict.FAIL:
        colour = _RED
    elif not found.passed:
        colour = _GREY
    else:
        colour = _GREEN if found.whole and run.verdict is Verdict.PASS else _AMBER
    return environment().get_template("badge.svg.jinja").render(
        label=label, words=words, left=left, right=right, colour=colour,
        title=printable(f"{run.subject.name}: {found.passed} of {found.asked} kernels passed"),
    )  # fmt: skip
