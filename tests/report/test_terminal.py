# SPDX-License-Identifier: Apache-2.0
"""The table fits the terminal."""

from __future__ import annotations

from harness.reporting import terminal
from harness.results import Verdict
from tests.gate.runs import cell, check, run

_NAMES = [f"check-{number}" for number in range(20)]
_RUN = run(*(cell(f"{minor}-oldest", *map(check, _NAMES)) for minor in ("5.10", "6.1")))


def test_a_wide_table_comes_in_pieces_that_fit_and_lose_nothing() -> None:
    whole = terminal.table(_RUN)
    assert len(whole.splitlines()) == 4
    for width in (80, 100, 132):
        pieces = terminal.table(_RUN, width).split("\n\n")
        assert len(pieces) > 1
        assert max(len(line) for piece in pieces for line in piece.splitlines()) <= width
        assert all(piece.startswith("kernel") for piece in pieces)
        heads = [word for piece in pieces for word in piece.splitlines()[0].split()[1:]]
        assert heads == whole.splitlines()[0].split()[1:]
        assert sum(piece.count("✔") for piece in pieces) == whole.count("✔")


def test_a_terminal_too_narrow_for_anything_still_shows_all() -> None:
    pieces = terminal.table(_RUN, 5).split("\n\n")
    assert len(pieces) == 2 + 1 + len(_NAMES)
    assert str(Verdict.PASS) in pieces[1]
