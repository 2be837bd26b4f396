# SPDX-License-Identifier: Apache-2.0
"""Is every event counted for which the buffer has no room, and is the observer intact after it?

The smallest buffer that the kernel allows (one page; of a perf buffer, one for each CPU). The
observer is stopped, so that nothing is read, questions are sent from one CPU, it goes on, and
once it has written all that was stored some more are sent. Nothing is left to chance:

  stored + ring_full = sent while it was stopped; hits = sent in all; received = submitted
  a buffer of B octets holds (B - 1) // record (one octet less than its size, or full would look
  like empty: kernel/bpf/ringbuf.c, kernel/events/ring_buffer.c); a record is the struct and what
  was captured, with its header (8 octets, perf: 8 and a u32 length) in whole words of 8
  those stored are the first ones sent, and all that were sent afterwards are there, once each
  the kernel tells of lost perf records with the next that finds room: never more than ring_full
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.btf import BpfObject
from harness.btf.kinds import Kind
from harness.checks import compare, observer, sampled
from harness.checks.context import Check, Context, Need
from harness.checks.observer import EVERYTHING, Event, Observed
from harness.checks.sampled import Flood
from harness.errors import HarnessError
from harness.results import CheckResult, Evidence, Figure, Verdict
from harness.subject import Subject

_STOPPED = 1_000  # questions while nothing is read; a page holds some 20
_AFTERWARDS = 8  # fit into a page even if nobody reads
_PAGE = "/^KernelPageSize/ { print $2 * 1024; exit }"  # octets
# $1: driver; $2: loader; $3: label; $4: what the observer wrote so far; $5, $6: questions.
# Waits until every thread of the observer is stopped; then until it has written as many events as
# the counters say were submitted (10 s at most: a counter may be wrong).
_SCRIPT = r"""
driver=$1 loader=$2 label=$3 written=$4
flood() { "$driver" flood --unroutable --cpu 0 --count $1 --label $label$2 || exit; }
kill -STOP $OBSERVER_PID || exit 4
for try in $(seq 500); do
	[ "$(sed 's/.*) \(.\).*/\1/' /proc/$OBSERVER_PID/task/*/stat | grep -vc T)" = 0 ] && break
	[ $try = 500 ] && exit 5
	sleep 0.01
done
flood $5 a
count=$("$loader" stats | sed -n 's/.*"submitted":\([0-9]*\).*/\1/p')
kill -CONT $OBSERVER_PID
for try in $(seq 200); do
	[ "$(grep -c '"type":"event"' "$written")" -ge "$count" ] && break
	sleep 0.05
done
flood $6 b
"""
_NAME = re.compile(r"t0-([0-9a-f]{8})\.([a-z0-9-]+)\.test\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """A buffer that was filled: the facts of one run."""

    buffer: str  # "ringbuf" or "perf"
    ring_bytes: int
    stopped: Flood
    afterwards: Flood
    stored: int  # events of those sent while it was stopped
    capacity: int | None  # what the buffer must hold of them; None: the manifest does not say
    ring_full: int
    perf_lost: int
    wrong: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def _ask(context: Context) -> CheckResult:
    size = record_bytes(context.subject)
    page = context.guest.run(["awk", _PAGE, "/proc/self/smaps"], timeout_s=30).text.strip()
    auto = _run(context, "overflow", ("--ring-bytes", page), size)
    if isinstance(auto, CheckResult):
        return auto
    runs = [auto]
    if auto.buffer == "ringbuf":
        other = _run(context, "overflow-perf", ("--ring-bytes", page, "--buffer", "perf"), size)
        if isinstance(other, CheckResult):
            return other
        runs.append(other)
    return judged(runs)


def record_bytes(subject: Subject) -> int | None:
    """Octets of the struct that begins a record ([maps.NAME] record), by the object's BTF."""
    names = [one.record for one in subject.manifest.maps.values() if one.record]
    if not names or subject.object is None:
        return None
    btf = BpfObject.from_file(subject.object).btf
    found = btf.ids_named(names[0], Kind.STRUCT) if btf is not None else []
    if btf is None or not found:
        raise HarnessError(
            f"the object's BTF has no struct '{names[0]}'",
            hint="name the struct that begins each record, in the manifest under [maps.NAME] record",
        )
    return btf.size(found[0])


def _run(
    context: Context, name: str, options: Sequence[str], size: int | None
) -> Filled | CheckResult:
    label = secrets.token_hex(4)
    seen = observer.observe(
        context,
        ["/bin/sh", "-c", _SCRIPT, "overflow", context.driver, context.loader, label,
         observer.LINES, str(_STOPPED), str(_AFTERWARDS)],
        name=name, settings={**EVERYTHING, "sample_threshold": 0},
        options=options,
    )  # fmt: skip
    if not seen.lived or seen.ready is None or seen.stats is None:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver, with the observer stopped,")
    return read(seen, label, size)


def read(seen: Observed, label: str, size: int | None) -> Filled:
    """The facts of a run, each held against the others. HarnessError for a driver that cheats.

    size: octets of the struct that begins a record, None when nobody said.
    """
    floods = sampled.read_floods(seen.command_output)
    if set(floods) != {f"{label}a", f"{label}b"}:
        raise HarnessError(f"the driver's floods are {', '.join(floods) or 'none'}, not two")
    stopped, afterwards = floods[f"{label}a"], floods[f"{label}b"]
    if seen.ready is None or seen.stats is None:
        raise HarnessError("the observer left no facts")
    ready, stats = seen.ready, seen.stats
    sent: dict[str, list[int]] = {label: [] for label in floods}
    wrong: list[str] = []
    for event in seen.events:
        match = _NAME.fullmatch(str(event.get("name")))
        if match is None or match[2] not in sent or event.get("id") != int(match[1], 16):
            wrong.append(f"an event that nobody sent: {event.get('name')}, id {event.get('id')}")
        else:
            sent[match[2]].append(int(match[1], 16))
    first, later = sent[stopped.label], sent[afterwards.label]
    if told := observer.wrong_with(seen):
        wrong.append(told)
    wrong += compare.class_differences(
        {"submitted": len(first) + len(later), "ring_full": stopped.attempts - len(first)},
        stats.classes(),
    )
    twice = [number for number, count in Counter(first).items() if count > 1]
    if twice:
        wrong.append(f"question {twice[0]} was seen more than once, {len(twice)} in all")
    elif first != list(range(len(first))):
        wrong.append("the events stored are not the first ones sent, in their order")
    if later != list(range(afterwards.attempts)):
        wrong.append(
            f"of {afterwards.attempts} questions sent after it went on, {len(set(later))} were seen"
            + (", not in order or not once each" if len(later) >= afterwards.attempts else "")
        )
    if not first or len(first) == stopped.attempts:
        wrong.append(f"{len(first)} of {stopped.attempts} questions were stored, not some")
    capacity = None
    if size is not None and first:
        captured = len(str(seen.events[0].get("name"))) + 1 + 16  # a header, a type and a class
        capacity = (ready.ring_bytes - 1) // record(ready.buffer, size + captured)
        if capacity != len(first):
            wrong.append(
                f"{len(first)} events were stored, but {ready.ring_bytes} octets hold {capacity} "
                f"of {size + captured}"
            )
    return Filled(
        buffer=ready.buffer, ring_bytes=ready.ring_bytes, stopped=stopped, afterwards=afterwards,
        stored=len(first), capacity=capacity, ring_full=stats.ring_full, perf_lost=stats.perf_lost,
        wrong=(*wrong, *_lost_told(seen.events, len(first), stats.ring_full)),
        evidence=seen.evidence,
    )  # fmt: skip


def record(buffer: str, octets: int) -> int:
    """What a record with so many octets takes of a buffer: headers, in whole words of 8."""
    return 8 + -(-(octets + (4 if buffer == "perf" else 0)) // 8) * 8


def _lost_told(events: Sequence[Event], stored: int, ring_full: int) -> list[str]:
    """Each event says what its CPU lost before it: nothing, then all (they share a CPU)."""
    for number, event in enumerate(events):
        want = 0 if number < stored else ring_full
        if event.get("cpu_ring_full") != want:
            return [
                f"cpu_ring_full is {event.get('cpu_ring_full')} in event {number + 1}, not {want}"
            ]
    return []


def judged(runs: Sequence[Filled]) -> CheckResult:
    """The verdict on a run through each kind of buffer."""
    wrong = [f"{one.buffer}: {text}" for one in runs for text in one.wrong]
    figures: list[Figure] = []
    for one in runs:
        figures += [
            Figure(name=f"{one.buffer}: stored", value=one.stored, unit="1"),
            Figure(name=f"{one.buffer}: ring_full", value=one.ring_full, unit="1"),
        ]
        if one.buffer == "perf":
            figures.append(Figure(name="perf: told as lost", value=one.perf_lost, unit="1"))
    evidence = tuple(item for one in runs for item in one.evidence)
    if wrong:
        return observer.differs(
            CHECK.name, wrong, figures=figures, evidence=evidence,
            remedy="count ring_full in the program, where the buffer refuses; nowhere else",
        )  # fmt: skip
    told = [
        f"{one.buffer} of {one.ring_bytes} octets: {one.stored} stored"
        + (", as many as it holds" if one.capacity is not None else "")
        + f", {one.ring_full} counted as lost, {one.afterwards.attempts} seen afterwards"
        for one in runs
    ]
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, summary="; ".join(told), figures=tuple(figures),
        evidence=evidence,
    )  # fmt: skip


CHECK = Check(
    name="overflow", question="Is every event counted that found no room, once?",
    ask=_ask, estimate_s=4.0, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC), thorough=True,
)  # fmt: skip
