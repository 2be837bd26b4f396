# SPDX-License-Identifier: Apache-2.0
"""Events as limiters of a known kind let them pass, times in ns, and runs made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from harness.checks.observer import CLASSES, Events, Observed, Ready, Stats
from harness.checks.timeline import NS_PER_S, Sends, Span

WINDOW_NS = NS_PER_S // 10
_EVERY_NS = 50_000  # a datagram is offered so often


def even(span: Span, per_s: float) -> list[int]:
    """Events at even distances."""
    count = int(span.seconds * per_s)
    return [span.start_ns + int(i * NS_PER_S / per_s) for i in range(count)]


def windows(span: Span, held: Sequence[int]) -> list[int]:
    """So many events in each window of 100 ms, close together at its beginning."""
    return [
        span.start_ns + number * WINDOW_NS + i * _EVERY_NS
        for number, count in enumerate(held) for i in range(count)
    ]  # fmt: skip


def sends(at: Sequence[int]) -> Sends:
    """What a generator says of what it sent at these times."""
    bin_ns = WINDOW_NS // 10
    first = min(at, default=0) // bin_ns
    in_bins = Counter(one // bin_ns - first for one in at)
    hits = tuple(in_bins[number] for number in range(max(in_bins, default=-1) + 1))
    return Sends(bin_ns=bin_ns, first_bin=first, hits=hits)


def offered(span: Span, pauses: Sequence[Span] = ()) -> list[int]:
    """20,000 a second at even distances, but for the pauses."""
    return [
        at for at in range(span.start_ns, span.end_ns, _EVERY_NS)
        if not any(pause.start_ns <= at < pause.end_ns for pause in pauses)
    ]  # fmt: skip


def windowed(
    span: Span, *, pauses: Sequence[Span] = (), burst: int = 100, every: int = 1
) -> list[int]:
    """At most `burst` in each window of 100 ms, whenever one is offered: each `every`th."""
    found: list[int] = []
    used: dict[int, int] = {}
    for at in offered(span, pauses)[::every]:
        number = at // WINDOW_NS
        if used.get(number, 0) < burst:
            used[number] = used.get(number, 0) + 1
            found.append(at)
    return found


def bucket(
    span: Span, *, pauses: Sequence[Span] = (), limit: int = 1000, burst: int = 100, every: int = 1
) -> list[int]:
    """A generic cell rate limiter, full of load since long before the span begins."""
    found: list[int] = []
    interval = NS_PER_S // limit
    arrival = span.start_ns + interval * (burst - 1)
    for at in offered(span, pauses)[::every]:
        following = max(arrival, at) + interval
        if following <= at + interval * burst:
            arrival = following
            found.append(at)
    return found


def ready(**changes: object) -> Ready:
    """An observer that is ready as it was asked to be."""
    honest = Ready(buffer="ringbuf", limiter="xadd", sample_n=1, rate_limit=1000, rate_burst=100,
                   max_events_any_second=1100)  # fmt: skip
    return msgspec.structs.replace(honest, **changes)


def stats(*, matched: int, submitted: int, **classes: int) -> Stats:
    """Totals that add up; what was matched and is in no class named was rate_limited."""
    counted = dict.fromkeys(CLASSES, 0) | {"submitted": submitted} | classes
    counted["rate_limited"] += matched - sum(
        counted[name] for name in ("sampled_out", "rate_limited", "ring_full", "submitted")
    )
    return msgspec.convert(counted | {"hits": sum(counted.values()), "received": submitted}, Stats)


def seen(at: Sequence[int], *, matched: int, says: Ready | None = None, **classes: int) -> Observed:
    """A run of an observer with events at these times."""
    return Observed(
        ready=says or ready(), events=tuple({"ts_ns": one} for one in at),
        stats=stats(matched=matched, submitted=len(at), **classes), unreadable=(),
        observer_status=0, observer_error="", command_status=0, command_output="",
        command_error="", evidence=(), asked=Events.BRIEF,
    )  # fmt: skip
