# SPDX-License-Identifier: Apache-2.0
"""Does sampling begin at the threshold, no sooner and no later? Pure: a flood and events in, words out.

Promised is (bpf/README.md) that a datagram is sampled where its window of 100 ms so far, or the
window before, held more than the threshold allows; windows begin at multiples of 100 ms of ts_ns.
Asked are floods of one thread at a steady rate, one below and one above. No flood is steady, though:
a machine that stood still for 50 ms sends at once what is due. So each datagram is judged by the
load before it, as the events tell it. They are numbered as they were sent, so that of those left out
between two, number and time are known within bounds:

  stands for n, or was left out   wrong where neither window can have held more than is allowed
  stands for itself               wrong where the window before held more for certain

What lies between is no evidence, and too little evidence is no pass. So a stall costs evidence and
is never taken for a fault: both bounds hold whatever the times are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.checks.sampled import WINDOW_S, Flood, Kept

BELOW, ABOVE = 0.75, 1.5  # loads asked, of the threshold
# Thresholds asked for: a window must hold some datagrams, and a second of them must fit a buffer.
THRESHOLDS = range(200, 5001)
_NEAR = 0.7  # of what is allowed: a lesser load says nothing of where sampling begins
# Windows' worth of datagrams that must have been judged, of seven and twelve on a quiet machine: each
# of those kept below is proof by itself, as an observer that begins there had said n in it.
_WINDOWS = 1
_WINDOW_NS = round(WINDOW_S * 1e9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What a flood shows of a threshold."""

    wrong: tuple[str, ...]
    kept_below: int  # datagrams that stand for themselves, and must, at a load just below
    sampled_above: int  # datagrams that others stand for, and must, at a load above


def needed(threshold: int) -> int:
    """How many datagrams must have been judged."""
    return _WINDOWS * int(threshold * WINDOW_S)


def judge(flood: Flood, kept: Sequence[Kept], n: int, threshold: int) -> Judged:
    """By the events of one thread's flood. Whether these were sent, and once, `sampled` asks."""
    may = int(threshold * WINDOW_S)
    marks = sorted(kept, key=lambda one: one.number)
    loads = _Loads(flood.attempts, [one.number for one in marks], [one.at_ns for one in marks])
    early: list[tuple[int, int]] = []  # datagrams and their load
    late: list[int] = []  # loads
    below = above = 0
    for k, one in enumerate(marks):
        most, least = loads.most(k), loads.least(k)
        if one.weight == 1:
            below += _NEAR * may < most <= may
            late += [least] if least > may else []
        else:
            above += one.weight if least > may else 0
            early += [(1, most)] if most <= may else []
    for k in range(len(marks) + 1):
        left_out, most = loads.left_out(k)
        early += [(left_out, most)] if left_out and most <= may else []
    wrong: list[str] = []
    if early:
        wrong.append(
            f"sampled below the threshold of {threshold}/s, from "
            f"{min(load for _, load in early) / WINDOW_S:.0f}/s on: "
            f"{sum(count for count, _ in early)} datagrams were left out or stand for {n}"
        )
    if late:
        wrong.append(
            f"not sampled above the threshold of {threshold}/s, up to "
            f"{max(late) / WINDOW_S:.0f}/s: {len(late)} datagrams stand for themselves"
        )
    if any(later < sooner for sooner, later in pairwise(loads.times)):
        wrong.append("ts_ns of an event is before that of one sent earlier by the same thread")
    return Judged(wrong=tuple(wrong), kept_below=below, sampled_above=above)


class _Loads:
    """How many datagrams the windows that count for one can have held at most, and held at least.

    numbers, times: of the datagrams that were kept, as they were sent; `attempts` were sent.
    """

    def __init__(self, attempts: int, numbers: Sequence[int], times: Sequence[int]) -> None:
        self.times = times
        self._windows = [at // _WINDOW_NS for at in times]
        self._numbers = [*numbers, attempts]
        self._before = [-1, *numbers]  # the one that was kept before k

    def most(self, k: int) -> int:
        """In k's window so far, k among them, or in the one before: the fuller one."""
        return self._most(range(self._windows[k] - 1, self._windows[k] + 1), self._numbers[k])

    def left_out(self, k: int) -> tuple[int, int]:
        """How many were left out between k and what was kept before it, and `most` for these."""
        count = self._numbers[k] - self._before[k] - 1
        if not count or not self._windows:
            return count, count
        since = self._windows[max(k - 1, 0)]
        until = self._windows[min(k, len(self._windows) - 1)]
        # After the last that was kept: in its window, or in one of which nothing else is known.
        until += k == len(self._windows)
        return count, self._most(range(since - 1, until + 1), self._numbers[k] - 1)

    def least(self, k: int) -> int:
        """In the window before k's."""
        first, after = self._ends(self._windows[k] - 1)
        return self._numbers[after - 1] - self._numbers[first] + 1 if after > first else 0

    def _most(self, windows: range, last: int) -> int:
        """In the fullest of these windows, of the datagrams up to number `last`."""
        return max(
            min(self._numbers[after] - 1, last) - self._before[first]
            for first, after in map(self._ends, windows)
        )

    def _ends(self, window: int) -> tuple[int, int]:
        """[first, after) were kept in it."""
        return bisect_left(self._windows, window), bisect_left(self._windows, window + 1)
