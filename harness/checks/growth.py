# SPDX-License-Identifier: Apache-2.0
"""Readings of a run with many events → what grows with them. Pure; `leak` says what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.checks import footprint
from harness.checks.footprint import Line, Sample
from harness.objcheck import HeldMap
from harness.results import Verdict

TOO_FEW = 17  # points of a line
ERRORS = 5.0  # standard errors
PER_EVENT_BYTES = 2.0
MIB = 1 << 20
LEFT_BYTES = 2 * MIB
ELEMENTS_SHARE = 1e-3  # of the events
_EVICTS = ("lru_hash", "lru_percpu_hash")  # full by design
# As are maps with an entry for each CPU, interface or setting, made when the first event comes.
FEW_ENTRIES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All readings of a run: what `judge` needs."""

    events: int  # wanted
    received: int
    empty: tuple[Sample, ...]  # the sends without an observer
    run: tuple[Sample, ...]  # with one
    start: tuple[HeldMap, ...]  # maps, before the events
    end: tuple[HeldMap, ...]
    before: Sample  # at rest, before the load
    after: Sample  # at rest, after the unload
    stays: str  # what of BPF is there after the unload that was not before the load, in words

    @property
    def allowed(self) -> float:
        """Bytes that memory may grow by while the events pass."""
        return max(PER_EVENT_BYTES * self.events, float(MIB))

    @property
    def stayed(self) -> int:
        """Bytes of kernel memory that were not in use before."""
        return self.after.kernel - self.before.kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """By how many bytes memory grows over all events."""

    what: str
    bytes: float
    error: float  # standard error of it

    @property
    def least(self) -> float:
        """What it grows by at least."""
        return self.bytes - ERRORS * self.error


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    verdict: Verdict
    summary: str
    remedy: str
    growths: tuple[Growth, ...]  # loader, kernel, the empty run


def judge(measured: Measured) -> Judgement:
    """The verdict on the readings, by the rules of `leak`."""
    m = measured
    growths = (
        _growth("the loader", [(s.submitted, s.resident) for s in m.run]),
        _growth("the kernel", [(s.submitted, s.kernel) for s in m.run]),
        _growth("the empty run", [(s.attempts, s.kernel) for s in m.empty]),
    )
    loader, kernel, empty = growths
    wrong = [*([m.stays] if m.stays else []), *_maps_grown(m)]
    if loader is not None and loader.least > m.allowed:
        wrong.append(f"the loader's memory grows by {_per_event(loader, m)}")
    floor = max(0.0, empty.bytes) if empty is not None else 0.0
    if kernel is not None and kernel.least > m.allowed + floor:
        wrong.append(f"the kernel's memory grows by {_per_event(kernel, m)}")
    if m.stayed > LEFT_BYTES:
        wrong.append(f"{m.stayed / MIB:.1f} MiB of kernel memory stay after the unload")
    measurable = tuple(growth for growth in growths if growth is not None)
    if wrong:
        return Judgement(
            verdict=Verdict.FAIL, summary="; ".join(wrong), growths=measurable,
            remedy="the samples say when it grows: free, delete or bound what each event makes",
        )  # fmt: skip
    doubt = _doubt(m, measurable, floor)
    return Judgement(
        verdict=Verdict.UNKNOWN if doubt else Verdict.PASS, summary=doubt, growths=measurable,
        remedy="run it again on a machine with less to do" if doubt else "",
    )  # fmt: skip


def _doubt(m: Measured, growths: Sequence[Growth], floor: float) -> str:
    """Why the readings do not show that nothing leaks, "" when they do."""
    if m.received < m.events:
        return f"only {m.received:,} of {m.events:,} events came through"
    if len(growths) < 3:
        return f"fewer than {TOO_FEW} samples: too few for a line"
    if floor > m.allowed:
        return f"the guest's own memory grows by {floor / MIB:.1f} MiB without an observer"
    for growth in growths:
        if ERRORS * growth.error > m.allowed:
            scatter = ERRORS * growth.error / MIB
            return f"the memory of {growth.what} varies by {scatter:.1f} MiB: nothing can be told"
    return ""


def _maps_grown(m: Measured) -> list[str]:
    wrong: list[str] = []
    was = {held.id: held for held in m.start}
    for held in m.end:
        old = was.get(held.id)
        # Of a map that was made meanwhile nobody knows how it began.
        more = (held.elements or 0) - (old.elements or 0) if old else 0
        full = more > 0 and held.elements == held.max_entries > FEW_ENTRIES
        if held.of not in _EVICTS and (full or more >= elements_allowed(m.events)):
            count = f"{more:,} or more" if held.more else f"{more:,}"
            wrong.append(
                f"map {held.name} has {count} elements more after {m.received:,} events"
                + (f" and is full ({held.max_entries:,})" if full else "")
            )
        took = (held.memlock_bytes or 0) - ((old.memlock_bytes or 0) if old else 0)
        if took > m.allowed:
            wrong.append(f"map {held.name} takes {took / MIB:.1f} MiB more")
    return wrong


def _growth(what: str, read: Sequence[tuple[int | None, int | None]]) -> Growth | None:
    """Along the events (or sends); None: too few points."""
    whole = [(x, y) for x, y in read if x is not None and y is not None]
    last = max((x for x, _ in whole), default=0)
    points = [(float(x), float(y)) for x, y in whole if x >= 0.1 * last]
    if len({x for x, _ in points}) < TOO_FEW:
        return None
    line: Line = footprint.fit(points)
    return Growth(what=what, bytes=line.slope * last, error=line.error * last)


def _per_event(growth: Growth, m: Measured) -> str:
    received = max(1, m.received)
    each, error = growth.bytes / received, ERRORS * growth.error / received
    return f"{each:.1f} ± {error:.1f} bytes an event ({growth.bytes / MIB:.1f} MiB)"


def elements_allowed(events: int) -> int:
    return max(1, int(events * ELEMENTS_SHARE))


def samples_table(samples: Sequence[Sample]) -> str:
    """The samples for a person: a line each."""
    lines = ["   events   loader KiB   kernel KiB     slab KiB  per-CPU KiB"]
    lines += [
        f"{s.submitted or 0:9,} {(s.resident or 0) // 1024:12,} {s.kernel // 1024:12,} "
        f"{s.slab // 1024:12,} {s.percpu // 1024:12,}"
        for s in samples
    ]
    return "\n".join(lines) + "\n"
