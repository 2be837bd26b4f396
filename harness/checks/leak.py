# SPDX-License-Identifier: Apache-2.0
"""Does anything grow with the events, or stay when the observer is gone?

A million events ([traffic] leak_events) go through load, run and unload of the subject's own
loader, as sends that fail for want of a route: they enter the hook all the same. Sampler and
limiter work, with settings that drop nothing, so that what they keep would be seen to grow.
Readings are taken at rest, after each twentieth of the events:

- resident memory of the loader (smaps_rollup: exact to a page),
- kernel memory (footprint.py): every slab, per-CPU and vmalloc byte of the machine,
- before and after the events: memory and elements of each map. A map of which the kernel takes all
  memory when it is made can leak without either of the above moving; its elements are counted.

Growth is the slope of a least squares line over the samples after the first tenth (buffers are
touched for the first time there) times the events. What is allowed is 2 bytes an event, and not
less than 1 MiB in all. A correct subject grows by nothing: on 6.1 the samples scatter by 60 kB
(kernel) and 0 (loader) around the line, so the slope's standard error is 0.04 bytes an event. It
fails when the slope minus 5 standard errors is above that, for the kernel above that and what grew
in the empty run (the same sends and samples without an observer: all that the guest does by
itself); with 17 points or more, 15 degrees of freedom, Student's t exceeds 5 with probability
0.8e-4, and only a true growth of 2 bytes an event makes it matter. When 5 standard errors are more
than the allowance, or the empty run grew by more, the guest was too noisy: `unknown`. So what is
always caught is 4 bytes an event in the loader (a page each 1,000 events is 4.1) and 6 in the
kernel, usually 2.2; a 64-byte element in a slab takes 128. Elements of a hash map: a thousandth of
the events, or a map that became full; asked again for 6 seconds, for what user space tidies up.

After the end no program, map, link or BTF may be left that was not there before (a whole map a load
is found by its id, whatever its size), and kernel memory no more than 2 MiB (0.45 MiB was seen on
6.1) above what it was before the load; waited for, since the kernel frees maps later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness import objcheck
from harness.checks import footprint, observer
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.checks.footprint import Line, Sample
from harness.checks.observer import Events, Observed
from harness.errors import HarnessError
from harness.objcheck import HeldMap, IdsAnswer
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_TIMEOUT_S = 900.0  # 25 s on an idle machine
_STAGES = 20
_STAGES_MAX = 60  # what finds no room in the buffer is sent again
_MORE_PERCENT = 101  # of the events are sent at first: a few are lost where CPUs meet in a limiter
_WARM_UP_EVENTS = 2000
_TOO_FEW = 17  # points of a line
_ERRORS = 5.0  # standard errors
_PER_EVENT_BYTES = 2.0
_MIB = 1 << 20
_LEFT_BYTES = 2 * _MIB
_PATIENCE_S = 5  # until the kernel has freed what was deferred
_ELEMENTS_SHARE = 1e-3  # of the events
_RING_BYTES = 4 * _MIB  # 0.2 s of events: a consumer that waits for its CPU still keeps up
# Nothing is dropped, but sampler and limiter do their work on every event.
_SETTINGS = {
    "sample_n": 2, "sample_threshold": 4_000_000_000,
    "rate_limit": 100_000_000, "rate_burst": 10_000_000,
}  # fmt: skip
_EVICTS = ("lru_hash", "lru_percpu_hash")  # full by design
# $1: datagrams a stage; $2: stages at least; $3: stages at most; $4: events wanted, 0 without
# observer. The loader's counters tell how many events there were.
_TRAFFIC = r"""
count=$1 stages=$2 most=$3 want=$4 stage=0
sample $OBSERVER_PID
while [ $stage -lt $most ]; do
	"$driver" flood --count $count --unroutable --threads 2 || exit 5
	sample $OBSERVER_PID
	stage=$((stage + 1))
	[ $stage -ge $stages ] || continue
	[ $want -gt 0 ] || break
	told=$("$loader" stats) || exit 4
	told=${told#*'"submitted":'}
	[ "${told%%,*}" -lt $want ] || break
done
"""
_HEAD = "driver=$1 loader=$2 objcheck=$3; shift 3\n" + footprint.SHELL
# $5: elements by which no map may grow. What user space tidies up is given 6 s.
_OBSERVED = (
    _HEAD
    + r"""
m=/tmp/leak-maps
grown() {
	awk -v limit=$1 '
	function of(key) {
		return match($0, "\"" key "\":[0-9]+") ? substr($0, RSTART + length(key) + 3) + 0 : -1
	}
	/"elements":[0-9]/ && !/"of":"lru/ {
		id = of("id"); n = of("elements")
		if (FNR == NR) was[id] = n
		else if (n - was[id] >= limit || (n > was[id] && n == of("max_entries"))) bad = 1
	}
	END { exit !bad }' $m.start $m.end
}
"$objcheck" maps >$m.start
"""
    + _TRAFFIC
    + r"""
tries=0
"$objcheck" maps >$m.end
while [ $tries -lt 6 ] && grown $5; do
	sleep 1
	tries=$((tries + 1))
	"$objcheck" maps >$m.end
done
echo @start; cat $m.start; echo @end; cat $m.end
rm $m.start $m.end
"""
)
_EMPTY = _HEAD + "settle\n" + _TRAFFIC + "settle\nsample\n"
# $1: the ids' totals as they were before. The kernel frees programs and maps when it comes to it.
_AFTER = (
    _HEAD
    + r"""
tries=0
while [ $tries -lt 50 ] && [ "$("$objcheck" ids | grep '"type":"ids"')" != "$1" ]; do
	tries=$((tries + 1))
	sleep 0.2
done
settle
sample
"$objcheck" ids
"""
)


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
    known: IdsAnswer  # what the kernel held before
    left: IdsAnswer  # after

    @property
    def allowed(self) -> float:
        """Bytes that memory may grow by while the events pass."""
        return max(_PER_EVENT_BYTES * self.events, float(_MIB))

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
        return self.bytes - _ERRORS * self.error


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    verdict: Verdict
    summary: str
    remedy: str
    growths: tuple[Growth, ...]  # loader, kernel, the empty run


def _ask(context: Context) -> CheckResult:
    traffic = context.subject.manifest.traffic
    events = traffic.leak_events if traffic else 0
    stage = str(-(-events * _MORE_PERCENT // (100 * _STAGES)))
    known = _run(context, ["/bin/sh", "-c", f"exec {OBJCHECK} ids"])
    # What the first load of a guest leaves in the kernel's caches is no leak.
    warm_up = observer.observe(
        context,
        [context.driver, "flood", "--count", str(_WARM_UP_EVENTS), "--unroutable"],
        name="leak-warm-up", settings=_SETTINGS, events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    _run(context, _words(context, _AFTER, _totals(known)))
    empty = _run(context, _words(context, _EMPTY, stage, str(_STAGES), str(_STAGES), "0"))
    seen = observer.observe(
        context,
        _words(context, _OBSERVED, stage, str(_STAGES), str(_STAGES_MAX), str(events),
               str(_elements_allowed(events))),
        name="leak", settings=_SETTINGS, options=("--ring-bytes", str(_RING_BYTES)),
        events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    for each in (warm_up, seen):
        if not each.lived:
            return observer.failed(CHECK.name, each)
        observer.require_command(each, "send driver")
    after = _run(context, _words(context, _AFTER, _totals(known)))
    measured = read(events, known, empty, seen, after)
    for _ in range(_PATIENCE_S):
        if measured.stayed <= _LEFT_BYTES:
            break
        context.guest.run(["/bin/sleep", "1"], timeout_s=_TIMEOUT_S)
        after = _run(context, _words(context, _AFTER, _totals(known)))
        measured = read(events, known, empty, seen, after)
    text = f"# empty run\n{empty}\n# observed\n{seen.command_output}\n# after\n{after}"
    kept = context.keep("readings", "leak.txt", text.encode())
    return _result(measured, observer.wrong_with(seen), (kept, *seen.evidence))


def read(events: int, known: str, empty: str, seen: Observed, after: str) -> Measured:
    """The commands' outputs as readings; HarnessError when one is missing."""
    samples = footprint.read_samples(empty)
    run, _, maps = seen.command_output.partition("@start\n")
    start, _, end = maps.partition("@end\n")
    settled = footprint.read_samples(after)
    if not samples or not settled:
        raise HarnessError("readings of the guest's memory are missing")
    return Measured(
        events=events, received=seen.stats.received if seen.stats else 0,
        empty=tuple(samples[:-1]), run=tuple(footprint.read_samples(run)),
        start=objcheck.parse_maps(start), end=objcheck.parse_maps(end),
        before=samples[-1], after=settled[-1],
        known=objcheck.parse_ids(known), left=objcheck.parse_ids(after.rpartition("\n@\n")[2]),
    )  # fmt: skip


def judge(measured: Measured) -> Judgement:
    """The verdict on the readings; see the module."""
    m = measured
    growths = (
        _growth("the loader", [(s.submitted, s.resident) for s in m.run]),
        _growth("the kernel", [(s.submitted, s.kernel) for s in m.run]),
        _growth("the empty run", [(s.attempts, s.kernel) for s in m.empty]),
    )
    loader, kernel, empty = growths
    wrong = [*_left(m), *_maps_grown(m)]
    if loader is not None and loader.least > m.allowed:
        wrong.append(f"the loader's memory grows by {_per_event(loader, m)}")
    floor = max(0.0, empty.bytes) if empty is not None else 0.0
    if kernel is not None and kernel.least > m.allowed + floor:
        wrong.append(f"the kernel's memory grows by {_per_event(kernel, m)}")
    if m.stayed > _LEFT_BYTES:
        wrong.append(f"{m.stayed / _MIB:.1f} MiB of kernel memory stay after the unload")
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
        return f"fewer than {_TOO_FEW} samples: too few for a line"
    if floor > m.allowed:
        return f"the guest's own memory grows by {floor / _MIB:.1f} MiB without an observer"
    for growth in growths:
        if _ERRORS * growth.error > m.allowed:
            scatter = _ERRORS * growth.error / _MIB
            return f"the memory of {growth.what} varies by {scatter:.1f} MiB: nothing can be told"
    return ""


def _left(m: Measured) -> list[str]:
    """What is there now and was not before."""
    known = {(each.kind, each.id) for each in m.known.objects}
    new = [each for each in m.left.objects if (each.kind, each.id) not in known]
    if not new:
        return []
    names = ", ".join(f"{each.kind} {each.name or each.of or each.id}" for each in new[:5])
    return [f"{len(new)} BPF objects are left after the unload: {names}"]


def _maps_grown(m: Measured) -> list[str]:
    wrong: list[str] = []
    was = {held.id: held for held in m.start}
    for held in m.end:
        old = was.get(held.id)
        if old is None:
            wrong.append(f"map {held.name} was made while the events passed")
            continue
        more = (held.elements or 0) - (old.elements or 0)
        full = more > 0 and held.elements == held.max_entries
        if held.of not in _EVICTS and (full or more >= _elements_allowed(m.events)):
            count = f"{more:,} or more" if held.more else f"{more:,}"
            wrong.append(
                f"map {held.name} has {count} elements more after {m.received:,} events"
                + (f" and is full ({held.max_entries:,})" if full else "")
            )
        took = (held.memlock_bytes or 0) - (old.memlock_bytes or 0)
        if took > m.allowed:
            wrong.append(f"map {held.name} takes {took / _MIB:.1f} MiB more")
    return wrong


def _growth(what: str, read: Sequence[tuple[int | None, int | None]]) -> Growth | None:
    """Along the events (or sends); None: too few points."""
    whole = [(x, y) for x, y in read if x is not None and y is not None]
    last = max((x for x, _ in whole), default=0)
    points = [(float(x), float(y)) for x, y in whole if x >= 0.1 * last]
    if len({x for x, _ in points}) < _TOO_FEW:
        return None
    line: Line = footprint.fit(points)
    return Growth(what=what, bytes=line.slope * last, error=line.error * last)


def _per_event(growth: Growth, m: Measured) -> str:
    each, error = growth.bytes / m.received, _ERRORS * growth.error / m.received
    return f"{each:.1f} ± {error:.1f} bytes an event ({growth.bytes / _MIB:.1f} MiB)"


def _elements_allowed(events: int) -> int:
    return max(1, int(events * _ELEMENTS_SHARE))


def _result(m: Measured, wrong: str, evidence: tuple[Evidence, ...]) -> CheckResult:
    said = judge(m)
    figures = [
        Figure(name=f"growth of {growth.what} per event", value=growth.bytes / m.events, unit="B",
               limit=m.allowed / m.events)
        for growth in said.growths
    ]  # fmt: skip
    figures += [
        Figure(
            name="kernel memory left", value=float(m.stayed), unit="B", limit=float(_LEFT_BYTES)
        ),
        Figure(name="events received", value=float(m.received), unit="1"),
    ]
    table = Evidence(title="memory by events", text=samples_table(m.run))
    verdict = Verdict.FAIL if wrong else said.verdict
    cause = {Verdict.FAIL: Cause.BEHAVIOUR, Verdict.UNKNOWN: Cause.INFRA}.get(verdict, Cause.NONE)
    return CheckResult(
        check=CHECK.name, verdict=verdict, cause=cause, summary=wrong or said.summary,
        remedy=said.remedy, figures=tuple(figures), evidence=(table, *evidence),
    )  # fmt: skip


def samples_table(samples: Sequence[Sample]) -> str:
    """The samples for a person: a line each."""
    lines = ["   events   loader KiB   kernel KiB     slab KiB  per-CPU KiB"]
    lines += [
        f"{s.submitted or 0:9,} {(s.resident or 0) // 1024:12,} {s.kernel // 1024:12,} "
        f"{s.slab // 1024:12,} {s.percpu // 1024:12,}"
        for s in samples
    ]
    return "\n".join(lines) + "\n"


def _totals(ids: str) -> str:
    return next((line for line in ids.splitlines() if '"type":"ids"' in line), "")


def _words(context: Context, script: str, *words: str) -> list[str]:
    return ["/bin/sh", "-c", script, "leak", context.driver, context.loader, OBJCHECK, *words]


def _run(context: Context, argv: Sequence[str]) -> str:
    done = context.guest.run(argv, timeout_s=_TIMEOUT_S)
    if done.status != 0:
        raise HarnessError(
            f"the guest could not be measured: status {done.status}, "
            f"{done.error_text.strip()[-300:]}"
        )
    return done.text


CHECK = Check(
    name="leak", question="Does nothing grow with the events, and is nothing left after the unload?",
    ask=_ask, estimate_s=22.0, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC), thorough=True,
)  # fmt: skip
