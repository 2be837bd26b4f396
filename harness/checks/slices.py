# SPDX-License-Identifier: Apache-2.0
"""What the driver's floods and the kernel's statistics told: slices of a load, and their ratio.

Pure. Lines of the scripts of `overhead`: "step" names what follows, "flood" is the driver's, "run"
and "end" are those of `objcheck runs`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.checks import yardstick
from harness.checks.yardstick import Interval
from harness.errors import HarnessError

LEGS = 4  # floods of each kind on each side of a change between with and without
PAIRS = 2 * LEGS
_STUDENT = 2.365  # two-sided 95 %, PAIRS - 1 = 7 degrees of freedom


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A flood, and what the subject's programs did meanwhile."""

    attempts: int  # datagrams
    duration_s: float
    runs: int = 0
    run_time: int = 0  # ns, or instructions

    @property
    def per_s(self) -> float:
        return self.attempts / self.duration_s

    def body(self, clock: float) -> float:
        """Of the programs, for one datagram."""
        return max(0.0, self.run_time - self.runs * clock) / self.attempts


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What one script told: floods without statistics by kind, and slices by kind."""

    legs: tuple[Slice, ...]  # at port 53
    other_legs: tuple[Slice, ...]  # at another
    load: tuple[Slice, ...] = ()
    other: tuple[Slice, ...] = ()


class _Step(msgspec.Struct, frozen=True):
    what: str


class _Flood(msgspec.Struct, frozen=True):
    attempts: int
    duration_us: int


def told(text: str, base: frozenset[int]) -> Told:
    """What a script wrote; programs of `base` were there before the subject."""
    found: dict[str, list[Slice]] = {}
    what, before = "", (0, 0)
    flood: _Flood | None = None
    totals = (0, 0)
    for kind, line in yardstick.lines_of(text):
        match kind:
            case "step":
                what, totals = yardstick.decoded(line, _Step).what, (0, 0)
            case "flood":
                flood = yardstick.decoded(line, _Flood)
                if not flood.attempts or not flood.duration_us:
                    raise HarnessError("the driver's flood sent nothing")
                if what.startswith("leg"):
                    found.setdefault(what, []).append(_slice(flood, (0, 0)))
            case "run":
                run = yardstick.decoded(line, yardstick.Run)
                if run.id not in base:
                    totals = (totals[0] + run.run_cnt, totals[1] + run.run_time_ns)
            case "end":
                if flood is not None and what != "start":
                    gone = (totals[0] - before[0], totals[1] - before[1])
                    found.setdefault(what, []).append(_slice(flood, gone))
                before = totals
            case _:
                raise HarnessError(f"not an answer of this check's: '{line.decode()[:80]}'")
    return Told(
        legs=tuple(found.get("leg", ())), other_legs=tuple(found.get("leg--non-dns", ())),
        load=tuple(found.get("load", ())), other=tuple(found.get("other", ())),
    )  # fmt: skip


def _slice(flood: _Flood, gone: tuple[int, int]) -> Slice:
    return Slice(
        attempts=flood.attempts, duration_s=flood.duration_us / 1e6, runs=gone[0],
        run_time=gone[1],
    )  # fmt: skip


def throughput_ratio(without: Sequence[Slice], within: Sequence[Slice]) -> Interval:
    """Geometric mean of `within` over `without`, pair by pair, with its 95 % t-interval.

    The pairs come in two blocks of LEGS and are taken for independent (`overhead`).
    """
    if len(without) != len(within) or len(without) != PAIRS:
        raise HarnessError(
            f"{len(without)} floods without the subject, {len(within)} with it: not {PAIRS} pairs"
        )
    logs = [
        math.log(b.per_s / a.per_s) for a, b in zip(without, within, strict=True)
    ]  # fmt: skip
    mean, half = statistics.mean(logs), _STUDENT * statistics.stdev(logs) / math.sqrt(PAIRS)
    return Interval(low=math.exp(mean - half), mid=math.exp(mean), high=math.exp(mean + half))
