# SPDX-License-Identifier: Apache-2.0
"""Does anything grow with the events, or stay when the observer is gone?

A million events ([traffic] leak_events) go through load, run and unload of the subject's own
loader, as sends that fail for want of a route: they enter the hook all the same. Sampler and
limiter work, with settings that drop nothing, so that what they keep would be seen to grow.
Readings are taken at rest, after each twentieth of the events:

- resident memory of the loader (smaps_rollup: exact to a page),
- kernel memory (footprint.py): every byte of the machine's slabs, per-CPU memory and vmalloc, save
  slabs that pressure gives back. A memory cgroup is no third thing beside them: it is charged for
  pages that are in these figures (BPF maps since 5.11, sockets, slabs), whosever they are; and here
  all processes are in the root cgroup, which keeps no count of kernel memory,
- before and after the events: memory and elements of each map. A map of which the kernel takes all
  memory when it is made can leak without either of the above moving; its elements are counted.

Growth is the slope of a least squares line over the samples after the first tenth (buffers are
touched for the first time there) times the events. What is allowed is 2 bytes an event, and not
less than 1 MiB in all. A correct subject grows by nothing: on 5.10, 6.1 and 7.3, with another guest
on the same two cores, the samples scatter around the line by 60 kB (kernel) and 0 (loader), so the
slope's standard error is 0.06 bytes an event. It fails when the slope minus 5 standard errors is
above that, for the kernel above that and what grew in the empty run (the same sends and samples
without an observer: all that the guest does by itself); with 17 points or more, 15 degrees of freedom, Student's t exceeds 5 with probability
0.8e-4, and only a true growth of 2 bytes an event makes it matter. When 5 standard errors are more
than the allowance, or the empty run grew by more, the guest was too noisy: `unknown`. So what is
always caught is 4 bytes an event in the loader (a page each 1,000 events is 4.1) and 6 in the
kernel, usually 2.2; a 64-byte element in a slab takes 128. Elements of a hash map: a thousandth of
the events, or a map of more than 16 entries that became full (a smaller one may be full by design,
with an entry for each CPU, interface or setting); asked again for 6 seconds, for what user space
tidies up.

The loader reads, checks and counts every event but writes none (--events none: a million lines
take minutes under emulation), so what grows where lines are made is not seen here. Nor is it asked
here whether the counts are right: enough events must have been received, that is all.

After the end no program, map, link or BTF may be left that was not there before (a whole map a load
is found by its id, whatever its size), and kernel memory no more than 2 MiB (0.45 MiB was seen on
6.1) above what it was before the load; waited for, since the kernel frees maps later.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness import objcheck
from harness.checks import footprint, growth, observer
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.checks.growth import Measured
from harness.checks.observer import Events, Observed
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_TIMEOUT_S = 900.0  # 25 s on an idle machine
_STAGES = 20
_STAGES_MAX = 60  # what finds no room in the buffer is sent again
_MORE_PERCENT = 101  # of the events are sent at first: a few are lost where CPUs meet in a limiter
_WARM_UP_EVENTS = 2000
_PATIENCE_S = 5  # until the kernel has freed what was deferred
# 0.2 s of events: a consumer that waits for its CPU still keeps up. Of perf, each CPU's buffer,
# which becomes resident page by page: small enough to be whole within the first tenth.
_RING_BYTES, _PERF_BYTES = 4 << 20, 1 << 20
# Nothing is dropped, but sampler and limiter do their work on every event.
_SETTINGS = {
    "sample_n": 2, "sample_threshold": 4_000_000_000,
    "rate_limit": 100_000_000, "rate_burst": 10_000_000,
}  # fmt: skip
# $1: datagrams a stage; $2: stages at least; $3: stages at most; $4: events wanted, 0 without
# observer. The loader's counters tell how many events there were.
_TRAFFIC = r"""
count=$1 stages=$2 most=$3 want=$4 stage=0
sample $OBSERVER_PID
while [ $stage -lt $most ]; do
	"$driver" flood --count $count --unroutable --threads 2 --cpu 0,1 || exit 5
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
# $5: elements by which no map may grow; $6: entries of a map that may become full. What user space
# tidies up is given 6 s.
_OBSERVED = (
    _HEAD
    + r"""
m=/tmp/leak-maps
grown() {
	awk -v limit=$1 -v few=$2 '
	function of(key) {
		return match($0, "\"" key "\":[0-9]+") ? substr($0, RSTART + length(key) + 3) + 0 : -1
	}
	/"elements":[0-9]/ && !/"of":"lru/ {
		id = of("id"); n = of("elements")
		if (FNR == NR) was[id] = n
		else if (n - was[id] >= limit) bad = 1
		else if (n > was[id] && n == of("max_entries") && n > few) bad = 1
	}
	END { exit !bad }' $m.start $m.end
}
"$objcheck" maps >$m.start
"""
    + _TRAFFIC
    + r"""
tries=0
"$objcheck" maps >$m.end
while [ $tries -lt 6 ] && grown $5 $6; do
	sleep 1
	tries=$((tries + 1))
	"$objcheck" maps >$m.end
done
echo @start; cat $m.start; echo @end; cat $m.end
rm $m.start $m.end
"""
)
_EMPTY = _HEAD + "settle\n" + _TRAFFIC + "settle\nsample\n"
# $1: how many BPF objects there were before. The kernel frees them when it comes to it.
_AFTER = (
    _HEAD
    + r"""
tries=0
while [ $tries -lt 50 ] && [ "$("$objcheck" ids | grep -c '"type":"id"')" -gt $1 ]; do
	tries=$((tries + 1))
	sleep 0.2
done
settle
sample
"$objcheck" ids
"""
)


def _ask(context: Context) -> CheckResult:
    known = _run(context, ["/bin/sh", "-c", f"exec {OBJCHECK} ids"])
    first = _loaded_once(context, known)
    if first is not None:
        return first
    traffic = context.subject.manifest.traffic
    events = traffic.leak_events if traffic else 0
    ring = _RING_BYTES if context.features.has("map:ringbuf") else _PERF_BYTES
    stage = str(-(-events * _MORE_PERCENT // (100 * _STAGES)))
    empty = _run(context, _words(context, _EMPTY, stage, str(_STAGES), str(_STAGES), "0"))
    seen = observer.observe(
        context,
        _words(context, _OBSERVED, stage, str(_STAGES), str(_STAGES_MAX), str(events),
               str(growth.elements_allowed(events)), str(growth.FEW_ENTRIES)),
        name="leak", settings=_SETTINGS, options=("--ring-bytes", str(ring)),
        events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    after = _unloaded(context, known)
    measured = read(events, known, empty, seen, after)
    for _ in range(_PATIENCE_S):
        if measured.stayed <= growth.LEFT_BYTES or measured.stays:
            break
        context.guest.run(["/bin/sleep", "1"], timeout_s=_TIMEOUT_S)
        after = _unloaded(context, known)
        measured = read(events, known, empty, seen, after)
    parts = {"known": known, "empty": empty, "observed": seen.command_output, "after": after}
    text = "".join(f"# {name}\n{part}" for name, part in parts.items())
    kept = context.keep("readings", "leak.txt", text.encode())
    return _result(measured, (kept, *seen.evidence))


def _loaded_once(context: Context, known: str) -> CheckResult | None:
    """What a guest's first load leaves in the kernel's caches is no leak; what has an id is one.

    None: go on. Else the verdict: one load was enough, and would disturb all further readings.
    """
    seen = observer.observe(
        context,
        [context.driver, "flood", "--count", str(_WARM_UP_EVENTS), "--unroutable"],
        name="leak-warm-up", settings=_SETTINGS, events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    after = _unloaded(context, known)
    stays = left_behind(known, after)
    if not stays:
        return None
    return CheckResult(
        check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.LIMIT_EXCEEDED, summary=stays,
        remedy="close what holds them: a pin, a process that inherited them",
        evidence=(context.keep("ids", "leak-ids.txt", after.encode()), *seen.evidence),
    )  # fmt: skip


def _unloaded(context: Context, known: str) -> str:
    """Readings when the kernel holds what it held before, or after 10 s."""
    return _run(context, _words(context, _AFTER, str(known.count('"type":"id"'))))


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
        before=samples[-1], after=settled[-1], stays=left_behind(known, after),
    )  # fmt: skip


def left_behind(known: str, after: str) -> str:
    """What objcheck's ids name at the end of `after` and not in `known`, in words."""
    held = {(each.kind, each.id) for each in objcheck.parse_ids(known).objects}
    now = objcheck.parse_ids(after.rpartition("\n@\n")[2])
    new = [each for each in now.objects if (each.kind, each.id) not in held]
    if not new:
        return ""
    names = ", ".join(f"{each.kind} {each.name or each.of or each.id}" for each in new[:5])
    return f"{len(new)} BPF objects are left after the unload: {names}"


def _result(m: Measured, evidence: tuple[Evidence, ...]) -> CheckResult:
    said = growth.judge(m)
    figures = [
        Figure(name=f"growth of {each.what} per event", value=each.bytes / m.events, unit="B",
               limit=m.allowed / m.events)
        for each in said.growths
    ]  # fmt: skip
    figures += [
        Figure(
            name="kernel memory left",
            value=float(m.stayed),
            unit="B",
            limit=float(growth.LEFT_BYTES),
        ),
        Figure(name="events received", value=float(m.received), unit="1"),
    ]
    table = Evidence(title="memory by events", text=growth.samples_table(m.run))
    cause = {Verdict.FAIL: Cause.LIMIT_EXCEEDED, Verdict.UNKNOWN: Cause.INFRA}.get(
        said.verdict, Cause.NONE
    )
    return CheckResult(
        check=CHECK.name, verdict=said.verdict, cause=cause, summary=said.summary,
        remedy=said.remedy, figures=tuple(figures), evidence=(table, *evidence),
    )  # fmt: skip


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
    ask=_ask, estimate_s=22.0, needs=(Need.OBJECT, Need.LOADER, Need.DRIVER, Need.TRAFFIC), thorough=True,
)  # fmt: skip
