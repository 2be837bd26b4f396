# SPDX-License-Identifier: Apache-2.0
"""Text from outside shows, and does nothing else, in a terminal and in the log of a CI."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import intake


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "�[2J�]0;title�"),
        ("\x9b31m", "�31m"),
        ("fine\roverwritten", "fine�overwritten"),
        ("a\r\nb", "a\nb"),
        ("\u202eexe.fdp", "�exe.fdp"),
        ("a\u2066b\u2069c\u200fd\u061ce", "a�b�c�d�e"),
        ("half \udcff of a pair", "half � of a pair"),
        ("::error file=x::y", "\\::error file=x::y"),
        ("x\n  ::set-output name=a::b", "x\n  \\::set-output name=a::b"),
        ("x ##[error]y", "x #\\#[error]y"),
        ("##vso[task.setvariable]x", "#\\#vso[task.setvariable]x"),
        ("std::sort, ## heading, é 日本 😀 ✔ → …", "std::sort, ## heading, é 日本 😀 ✔ → …"),
    ],
    ids=[
        "escape", "c1", "carriage-return", "dos-line", "right-to-left", "isolates", "surrogate",
        "github", "github-after-blanks", "old-github", "azure", "innocent",
    ],
)  # fmt: skip
def test_what_a_terminal_or_a_ci_would_obey_is_defused(words: str, shown: str) -> None:
    """A program's name is chosen by whoever compiled the object."""

    assert intake.shown(words) == shown


@given(st.text())
def test_nothing_but_line_ends_and_tabs_controls_what_is_shown(words: str) -> None:
    """Whatever the text is; and shown twice, it is the same."""
    found = intake.shown(words)

    assert not [c for c in found if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert not [c for c in found if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE")]
    assert intake.shown(found) == found
    assert not [line for line in found.splitlines() if line.lstrip().startswith("::")]
    assert "##[" not in found


def test_a_line_is_one_and_bounded() -> None:
    """Names stand in tables."""

    assert intake.line("a\n\nb\tc") == "a b c"
    assert intake.line("x" * 50, 10) == "x" * 10 + "…"
