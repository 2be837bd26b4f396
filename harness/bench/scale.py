# SPDX-License-Identifier: Apache-2.0
"""Cells a minute over guests at once, and what the harness itself takes for a cell.

Real guests. The harness's own work is the CPU time of this process, in which no guest runs: building,
resolving, packing, asking, parsing, judging, writing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from harness.results import Run, Verdict

Once = Callable[[int], Run]  # guests at once → what was found


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """One run."""

    guests: int  # at once
    cells: int
    seconds: float  # of the whole run
    own_s: float  # CPU time of the harness
    lost: int  # cells without a verdict

    @property
    def per_minute(self) -> float:
        return self.cells / self.seconds * 60


def measure(once: Once, guests: Sequence[int], say: Callable[[str], None]) -> tuple[Pace, ...]:
    """A run for each number of guests at once, after one that fills caches and does not count."""
    say("warming up")
    once(max(guests))
    found = []
    for count in guests:
        say(f"{count} guests at once")
        started, own = time.monotonic(), time.process_time()
        run = once(count)
        found.append(
            Pace(
                guests=count, cells=len(run.cells), seconds=time.monotonic() - started,
                own_s=time.process_time() - own,
                lost=sum(cell.verdict is Verdict.UNKNOWN for cell in run.cells),
            )
        )  # fmt: skip
    return tuple(found)


def good(paces: Sequence[Pace]) -> bool:
    """Every cell had a verdict."""
    return not any(pace.lost for pace in paces)


def render(paces: Sequence[Pace], cores: int) -> str:
    """The table."""
    rows = [
        [pace.guests, pace.cells, f"{pace.seconds:.1f}", f"{pace.per_minute:.1f}",
         f"{pace.per_minute / paces[0].per_minute:.2f}", f"{pace.own_s / pace.cells:.2f}",
         f"{100 * pace.own_s / pace.seconds / cores:.1f}", pace.lost]
        for pace in paces
    ]  # fmt: skip
    titles = ["guests at once", "cells", "s", "cells a minute", "× the first",
              "own CPU s a cell", "own % of the machine", "unknown"]  # fmt: skip
    return "\n".join([
        f"Real guests on {cores} cores:",
        "",
        tabulate(rows, headers=titles, disable_numparse=True, stralign="right"),
    ])  # fmt: skip
