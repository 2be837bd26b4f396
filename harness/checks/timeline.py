# SPDX-License-Identifier: Apache-2.0
"""Events over time: what a second held at most, and what was delivered while load was offered.

All times are ns of the guest's CLOCK_MONOTONIC: an event's `ts_ns`, and /proc/uptime, which counts
the same in a guest that was never suspended.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from harness.results import Series

NS_PER_S = 1_000_000_000
BIN_NS = 100_000_000  # of a timeline that is drawn
UPTIME_NS = 10_000_000  # /proc/uptime is cut to hundredths of a second
_ENDS = 4  # at which a bucket's promise is asked for
_BINS = 5  # in a window: fewer do not tell when a generator sent
_PAUSE = 0.02  # of the time: a generator's pause that may cover every one of them


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a timeline in which one generator sent without a pause."""

    name: str
    start_ns: int
    end_ns: int
    offered_per_s: float  # datagrams that the hook must match


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Events per second against the limit: a file of evidence, `rate-….json`, made to be drawn.

    `counts[i]` events have a time stamp in [start_ns + i * bin_ns, start_ns + (i + 1) * bin_ns):
    times 1e9 / bin_ns it is a rate to hold against `limit_per_s`. `bound` is what no second may
    exceed, `max_in_a_second` what one did. Bins are cut at multiples of bin_ns.
    """

    scenario: str
    limiter: str
    start_ns: int
    bin_ns: int
    counts: tuple[int, ...]
    limit_per_s: int
    burst: int
    bound: int
    max_in_a_second: int
    parts: tuple[Part, ...]


def series(drawn: Timeline, *, emulated: bool) -> Series:
    """For the report's plot: a bin's events as a rate, held against the limit of a second."""
    per_s = NS_PER_S / drawn.bin_ns
    return Series(
        name=drawn.scenario, unit="1/s", step_s=drawn.bin_ns / NS_PER_S, emulated=emulated,
        values=tuple(count * per_s for count in drawn.counts), limit=float(drawn.limit_per_s),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """[start_ns, end_ns)."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / NS_PER_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Sends:
    """What a generator sent, and when: hits[i] for certain in bin first_bin + i of its clock.

    Of the events' clock, that is; bin n is [n * bin_ns, (n + 1) * bin_ns). Some that it sent are in
    no bin: it does not know in which.
    """

    bin_ns: int
    first_bin: int
    hits: tuple[int, ...]

    def within(self, start_ns: int, end_ns: int) -> int:
        """In the bins that lie in [start_ns, end_ns) whole."""
        first, end = -(-start_ns // self.bin_ns), end_ns // self.bin_ns
        return sum(self.hits[max(0, first - self.first_bin) : max(0, end - self.first_bin)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What a limiter promises of a load that is always above its limit."""

    limiter: str  # "xadd": counts in windows; any other: lets events pass one after another
    limit: int  # events a second
    burst: int
    cpus: int

    @property
    def window_ns(self) -> int:
        """The stretch in which a limiter may spend its burst: the windows that xadd counts in."""
        return max(1, self.burst * NS_PER_S // self.limit)

    @property
    def in_windows(self) -> bool:
        return self.limiter == "xadd"


def most_in_a_second(sorted_ns: Sequence[int]) -> int:
    """The most events in any [t, t + 1 s); one that starts at an event holds the most."""
    most = first = 0
    for last, at in enumerate(sorted_ns):
        while sorted_ns[first] <= at - NS_PER_S:
            first += 1
        most = max(most, last - first + 1)
    return most


def counts(sorted_ns: Sequence[int], start_ns: int, width_ns: int, bins: int) -> tuple[int, ...]:
    """Events in each of `bins` bins of that width, the first one at start_ns."""
    edges = [bisect_left(sorted_ns, start_ns + i * width_ns) for i in range(bins + 1)]
    return tuple(after - before for before, after in pairwise(edges))


def core(before_ns: int, after_ns: int, sending_ns: int, margin_ns: int) -> Span | None:
    """When a generator was sending for certain; None: it cannot be said of any instant.

    Somewhere between two readings of /proc/uptime, each up to 10 ms early, it sent for `sending_ns`
    on end: it began at after - sending or earlier, and ended at before + sending or later. The
    margin is for its threads, which begin and end one after another.
    """
    start = after_ns + UPTIME_NS - sending_ns + margin_ns
    end = before_ns + sending_ns - margin_ns
    return Span(start_ns=start, end_ns=end) if end > start else None


def whole_windows(span: Span, width_ns: int) -> Span | None:
    """The windows [n * width, (n + 1) * width) that lie in `span` whole: edge windows are left out."""
    first, last = -(-span.start_ns // width_ns), span.end_ns // width_ns
    if last <= first:
        return None
    return Span(start_ns=first * width_ns, end_ns=last * width_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """Events of a saturated stretch, held against what the limiter promises."""

    per_s: float
    floor_per_s: float  # the promise
    ceiling_per_s: float  # the limit
    windows: tuple[int, ...]  # events in each window
    supplied_per_s: float  # what windows without a silence say: see `delivered`

    @property
    def kept(self) -> bool:
        return self.per_s >= self.floor_per_s

    @property
    def kept_but_for_silences(self) -> bool:
        return self.supplied_per_s >= self.floor_per_s


def delivered(sorted_ns: Sequence[int], span: Span, promise: Promise) -> Delivered:
    """What the limiter let pass in `span`, a whole number of its windows, load all the while.

    A limiter that counts in windows ("xadd") refuses at most CPUs-1 too many in each: of the calls
    that add and then load, those in flight when the window fills. So each window holds burst-(CPUs-1)
    events or more and burst at most, and so does their mean. No tolerance: these are the design's.

    Any other is held to a bucket's promise: limit * T - 1 events in T seconds that begin and end with
    the bucket empty. With two times the limit offered it fills only while the generator pauses (the
    scheduler's turn of another thread, a stall of the emulated machine), and what it has saved
    follows at once. So one of four ends is asked, a window apart, of which the best decides, and a
    pause of 2 % of T is allowed at it. What a pause before the span has saved comes on top: it may
    hide a shortage, never make one; with it, no more than limit * T + burst come.

    A machine that stood still for a window or more has offered nothing, and where the generator did
    not say when it sent (else see `due`), nothing tells but the silence itself. `supplied_per_s`
    leaves silences out, so that it is the promise at least however often the machine stood still.
    For windows it is the best one: of twice the limit on the average, one had that much. For a
    bucket it is the mean of the time without silences of more than one and a half of its intervals:
    only in them can it overflow, or save what has not come yet. If that keeps the promise and the
    whole does not, it is not known who was silent.
    """
    width, limit = promise.window_ns, promise.limit
    held = counts(sorted_ns, span.start_ns, width, (span.end_ns - span.start_ns) // width)
    if promise.in_windows:
        floor = max(0, promise.burst - (promise.cpus - 1)) * NS_PER_S / width
        per_s = sum(held) / len(held) * NS_PER_S / width
        supplied = max(held) * NS_PER_S / width
        return Delivered(
            per_s=per_s, floor_per_s=floor, ceiling_per_s=promise.burst * NS_PER_S / width,
            windows=held, supplied_per_s=supplied,
        )  # fmt: skip
    ends = range(max(len(held) // 2 + 1, len(held) - _ENDS + 1), len(held) + 1)
    best = max(ends, key=lambda end: (sum(held[:end]) + 1) / end)
    seconds = best * width / NS_PER_S
    return Delivered(
        per_s=sum(held[:best]) / seconds, floor_per_s=limit * (1 - _PAUSE) - 1 / seconds,
        ceiling_per_s=limit + (promise.burst + 1) / seconds, windows=held,
        supplied_per_s=_without_silences(sorted_ns, span, limit),
    )  # fmt: skip


def due(
    span: Span, promise: Promise, sends: Sends | None, *, sample_n: int = 1, deviations: float = 0.0
) -> float | None:
    """Events that a limiter lets through in `span`, whole windows, of what was sent for certain.

    None: the generator did not say, or windows are too short for its bins.

    A limiter that counts in windows passes what comes in one, and of more than it holds what
    `delivered` says. A bucket is empty when the span begins; all of a step comes at its beginning, so
    that what the step accrues is there for the next one; and what it holds is less than the burst by
    a step's, so that load that comes later, and finds a full one, makes up for what then overflows.
    Both are the fewest that any order in a step can give.

    A sample of 1 in n that is taken before has a chance for each datagram: with `deviations`, so
    many standard deviations less than the mean of each window, or half window, are counted on.
    """
    width = promise.window_ns
    if sends is None or width < _BINS * sends.bin_ns:
        return None
    step = width if promise.in_windows else width // (2 if sample_n > 1 else _BINS)
    found = 0.0
    held, accrued = 0.0, promise.limit * step / NS_PER_S
    for start in range(span.start_ns, span.end_ns - step + 1, step):
        mean = sends.within(start, start + step) / max(1, sample_n)
        came = max(0.0, mean - deviations * mean**0.5) if sample_n > 1 else mean
        if promise.in_windows:
            found += min(came, max(0, promise.burst - (promise.cpus - 1)))
            continue
        passed = min(came, held // 1)
        found += passed
        held = min(promise.burst - accrued, held - passed + accrued)
    return found


def _without_silences(sorted_ns: Sequence[int], span: Span, limit: int) -> float:
    """Events a second of the time that is left; one at either end of a stretch of it is not missed."""
    (came,) = counts(sorted_ns, span.start_ns, span.end_ns - span.start_ns, 1)
    left_ns = (
        span.end_ns - span.start_ns - silences_ns(sorted_ns, span, 3 * NS_PER_S // (2 * limit))
    )
    return (came + 2) * NS_PER_S / max(1, left_ns)


def silences_ns(sorted_ns: Sequence[int], span: Span, longer_than_ns: int) -> int:
    """How much of a span is silences that are longer than this."""
    inside = sorted_ns[bisect_left(sorted_ns, span.start_ns) : bisect_left(sorted_ns, span.end_ns)]
    edges = [span.start_ns, *inside, span.end_ns]
    gaps = [after - before for before, after in pairwise(edges)]
    return sum(gap for gap in gaps if gap > longer_than_ns)


def timeline(
    sorted_ns: Sequence[int], *, scenario: str, promise: Promise, bound: int, parts: Sequence[Part]
) -> Timeline:
    """What is drawn: from the first part or event to the last."""
    times = [
        *sorted_ns[:1],
        *sorted_ns[-1:],
        *(edge for p in parts for edge in (p.start_ns, p.end_ns)),
    ]
    start = min(times, default=0) // BIN_NS * BIN_NS
    bins = (max(times, default=0) - start) // BIN_NS + 1
    return Timeline(
        scenario=scenario, limiter=promise.limiter, start_ns=start, bin_ns=BIN_NS,
        counts=counts(sorted_ns, start, BIN_NS, bins), limit_per_s=promise.limit,
        burst=promise.burst, bound=bound, max_in_a_second=most_in_a_second(sorted_ns),
        parts=tuple(parts),
    )  # fmt: skip
