# SPDX-License-Identifier: Apache-2.0
"""What an empty kprobe costs in a guest, and what a cost counted in empty kprobes may be elsewhere.

Pure. A cost is in ns of the guest's clock, or in instructions where that counts them. Intervals are
of order statistics of SAMPLES values, so that no distribution is assumed: the median lies below the
least of 16 once in 2^16 runs, and above the fifth largest in 3.8 % of them. So the low end, which
must be above a limit for a failure, is safe to 1.6e-5; the high end, which must be below it for a
pass, to 3.8e-2, and four values that an interrupt or a busy host spoilt do not move it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from harness.errors import HarnessError

_T = TypeVar("_T")
SAMPLES = 16
_SPOILT = 4  # values above the high end of an interval

# What an empty kprobe program adds to a call on hardware, as published, in ns:
#   46.8  x86-64, with an atomic add (1/6.431 - 1/9.200 µs: Linux commit c5d420c32cb4, "selftest/bpf:
#         Add BPF triggering benchmark", 2020)
#   108   x86-64, Xeon E5-2630 v3 at 2.4 GHz, Linux 4.14, and that with a count in a hash map: an
#         empty one is below it (cloudflare/ebpf_exporter, benchmark/README.md at 45f98c367918)
#   137   arm64, Apple M1, a guest of QEMU, Linux 6.5-rc1 (the same file, later)
_PUBLISHED_NS = {"x86_64": (46.8, 108.0)}
_PUBLISHED_ELSEWHERE_NS = (46.8, 137.0)
# Beyond the spread of the publications, either way: for caches that are cold at 10,000 a second and
# warm in a benchmark, and for instructions that are not all as dear as those of a kprobe's trap.
MARGIN = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Of a median; the level of each end is in this module's docstring."""

    low: float
    mid: float
    high: float

    def times(self, factor: float) -> Interval:
        return Interval(low=self.low * factor, mid=self.mid * factor, high=self.high * factor)


def interval(values: Sequence[float]) -> Interval:
    """Of SAMPLES values."""
    if len(values) != SAMPLES:
        raise HarnessError(f"{len(values)} measurements, {SAMPLES} are needed")
    ordered = sorted(values)
    return Interval(
        low=ordered[0], mid=statistics.median(ordered), high=ordered[SAMPLES - 1 - _SPOILT]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """An empty kprobe in one guest."""

    cost: Interval  # trap and run
    clock: float  # what the kernel's own statistics measure of a run that does nothing

    def count_in(self, body: Interval, traps: float) -> Interval:
        """A cost in empty kprobes: `traps` of them, and a body.

        Opposite ends meet, so that their risks add up. Without end where the unit may be nothing.
        """
        unit = self.cost
        return Interval(
            low=traps + body.low / unit.high if unit.high > 0 else 0.0,
            mid=traps + body.mid / unit.mid if unit.mid > 0 else math.inf,
            high=traps + body.high / unit.low if unit.low > 0 else math.inf,
        )


class _Block(msgspec.Struct, frozen=True):
    attached: bool
    median_ns: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A program's run time statistics since it was loaded."""

    id: int
    name: str
    run_cnt: int
    run_time_ns: int
    recursion_misses: int = 0


class _Error(msgspec.Struct, frozen=True):
    text: str


class _Kind(msgspec.Struct, frozen=True):
    type: str


def kprobe_argv(objcheck: str, calls: int) -> list[str]:
    """Time `calls` calls SAMPLES times without and with an empty program on udp_sendmsg."""
    return [
        objcheck, "kprobe", "--function", "udp_sendmsg", "--rounds", str(SAMPLES),
        "--calls", str(calls),
    ]  # fmt: skip


def lines_of(text: str) -> list[tuple[str, bytes]]:
    """JSON lines by their type; HarnessError on one that is none, with what it says."""
    lines: list[tuple[str, bytes]] = []
    for line in text.splitlines():
        if line.strip():
            try:
                lines.append((msgspec.json.decode(line, type=_Kind).type, line.encode()))
            except (msgspec.MsgspecError, UnicodeEncodeError) as error:
                raise HarnessError(f"not an answer from the guest: '{line[:80]}'") from error
    return lines


def read_unit(answer: str) -> Unit:
    """From the answer to `kprobe_argv`."""
    lines = lines_of(answer)
    for kind, line in lines:
        if kind == "error":
            raise HarnessError(f"objcheck kprobe: {decoded(line, _Error).text}")
    if not lines or lines[-1][0] != "end":
        raise HarnessError("the answer of objcheck kprobe is cut off")
    blocks = [decoded(line, _Block) for kind, line in lines if kind == "block"]
    runs = [decoded(line, Run) for kind, line in lines if kind == "run"]
    differences: list[float] = []
    for one, other in zip(blocks[::2], blocks[1::2], strict=True):
        with_it, without = (one, other) if one.attached else (other, one)
        if with_it.attached == without.attached:
            raise HarnessError("objcheck kprobe: a pair of blocks of one kind")
        differences.append(float(with_it.median_ns - without.median_ns))
    if len(runs) != 1 or not runs[0].run_cnt:
        raise HarnessError("objcheck kprobe: the empty program did not run")
    clock = runs[0].run_time_ns / runs[0].run_cnt
    return Unit(cost=interval(differences), clock=clock)


def read_runs(lines: Sequence[tuple[str, bytes]]) -> Mapping[int, Run]:
    """Each program of an answer to `objcheck runs`, by id."""
    runs = [decoded(line, Run) for kind, line in lines if kind == "run"]
    return {run.id: run for run in runs}


def published_ns(machine: str) -> tuple[float, float]:
    """The least and the most that an empty kprobe is known to cost on `machine` (uname -m)."""
    return _PUBLISHED_NS.get(machine, _PUBLISHED_ELSEWHERE_NS)


def on_hardware(kprobes: Interval, machine: str) -> Interval:
    """ns on hardware of a cost in empty kprobes, with MARGIN; the middle is the geometric one."""
    least, most = published_ns(machine)
    return Interval(
        low=kprobes.low * least / MARGIN,
        mid=kprobes.mid * math.sqrt(least * most),
        high=kprobes.high * most * MARGIN,
    )


def decoded(line: bytes, into: type[_T]) -> _T:
    """One line as what it should be, or HarnessError."""
    try:
        return msgspec.json.decode(line, type=into)
    except msgspec.MsgspecError as error:
        raise HarnessError(f"a strange answer from the guest: {error}") from error
