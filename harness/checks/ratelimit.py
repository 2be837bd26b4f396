# SPDX-License-Identifier: Apache-2.0
"""Does the subject deliver its limit, and never more, whoever sends and from whichever CPU?

Three loads with sampling off: a real name server asked by dnsperf; every CPU sending at once; one
CPU sending everything. The last two with each limiter that the kernel can take.

The verdict is on the events' own time stamps. Never more: no second, wherever it starts, holds more
than `max_events_any_second` of the observer's line "ready", which itself may not exceed the
manifest's rate_limit + rate_burst. This holds exactly, stalls or not: both limiters decide by the
time stamp that the event carries (xadd: a second touches limit/burst + 1 windows; gcra: k events
move the arrival time by k/limit, from the first stamp at least to burst/limit after the last at
most). One exception: a CPU that stands still for eight windows between taking the time and counting
adds one event, some microseconds in which a stall of 0.8 s must begin.
Not less: `timeline.delivered` derives what must come through. A machine that stood still may take
some of that away. The send driver says when it sent: fewer events than `timeline.due` of that fail,
a shortage that is not there is the machine's. dnsperf does not say it: there, what is no shortage
without the silences is excused. What is excused is offered once more, and then it is `unknown`. The
summary of a pass says what was wrong at first, and which rate dnsperf did not reach.

So a limiter that loses some windows under dnsperf alone is `unknown`; no machine, however often it
stands still, makes a failure of a shortage.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from harness.checks import observer, offered, timeline
from harness.checks.context import Check, Context, Need, Where
from harness.checks.observer import Events, Observed, Ready, Scalar
from harness.checks.offered import Load, Offered
from harness.checks.timeline import Delivered, Part, Promise, Timeline
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict
from harness.subject import Traffic

_SECONDS = 1  # each flood: nine whole windows of 100 ms
_DNSPERF_S = 2
_WINDOWS = 5  # fewer say nothing about a mean
_ENOUGH = 2  # times the limit must be offered
_DEVIATIONS = 5.0  # that a random sample may be short of its mean, in each window


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The verdict on one run of the observer."""

    verdict: Verdict
    says: str  # why it is none better
    drawn: Timeline | None = None
    delivered: tuple[tuple[Load, Delivered], ...] = ()  # of the loads that could be judged
    sent: Offered | None = None
    at_first: str = ""  # why the try before this one said nothing


NOT_ASKED = Judged(
    verdict=Verdict.UNKNOWN,
    says="not asked: whether the kernel has its instruction could not be told",
)


def _ask(context: Context) -> CheckResult:
    traffic = context.subject.manifest.traffic
    if traffic is None:
        raise HarnessError("the manifest promises nothing about rates", hint="add [traffic]")
    takes = context.features.has("insn:atomic_fetch")
    limiters = ["xadd", *(["gcra"] if takes else [])]
    runs: dict[str, Judged] = {}
    evidence: list[Evidence] = []
    for scenario in ("dnsperf", *limiters):
        for name in (f"rate-{scenario}", f"rate-{scenario}-again"):
            seen, sent = _run(context, traffic, scenario, name)
            if not seen.lived:
                return observer.failed(CHECK.name, seen)
            judged = judge(seen, sent, traffic, scenario)
            evidence += seen.evidence
            if judged.drawn is not None:
                content = msgspec.json.encode(judged.drawn)
                evidence.append(context.keep(f"rate: {scenario}", f"{name}.json", content))
            before = runs.get(scenario)
            runs[scenario] = replace(judged, at_first=before.says if before else "")
            if judged.verdict is not Verdict.UNKNOWN:
                break
    if takes is None:
        runs["gcra"] = NOT_ASKED
    return answer(
        runs, asked_per_s=traffic.offered_per_s, emulated=context.emulated, evidence=evidence
    )


def _run(
    context: Context, traffic: Traffic, scenario: str, name: str
) -> tuple[Observed, Offered | None]:
    """One scenario: "dnsperf" with the limiter that the observer chooses, else floods with that one."""
    label = secrets.token_hex(8)
    if scenario == "dnsperf":
        command = offered.dnsperf(label, seconds=_DNSPERF_S, per_s=traffic.offered_per_s)
    else:
        flood = f"--unroutable --duration-s {_SECONDS} --label {label}"
        floods = [f"{flood}-all all", f"{flood}-one --threads 2 --cpu 0"]
        command = offered.floods(context.driver, floods)
    seen = observer.observe(
        context, command, name=name, events=Events.BRIEF,
        options=(
            *offered.LARGE_BUFFER,
            *(() if scenario == "dnsperf" else ("--limiter", scenario)),
        ),
        settings={"sample_n": 1, "rate_limit": traffic.rate_limit, "rate_burst": traffic.rate_burst},
    )  # fmt: skip
    if not seen.lived:
        return seen, None
    if scenario == "dnsperf":
        observer.require_command(seen, "name server or dnsperf")
        first_ns = next(iter(event_times(seen)), sys.maxsize)
        return seen, offered.read_dnsperf(seen.command_output, _DNSPERF_S, first_ns)
    observer.require_command(seen, "send driver")
    return seen, offered.read_floods(seen.command_output, ("all CPUs", "one CPU"))


def judge(seen: Observed, sent: Offered | None, traffic: Traffic, scenario: str) -> Judged:
    """The verdict on a run with sampling off. scenario: the limiter, or "dnsperf" for any."""
    ready, stats = seen.ready, seen.stats
    wrong = observer.wrong_with(seen)
    if wrong or ready is None or stats is None or sent is None:
        return Judged(verdict=Verdict.FAIL, says=wrong)
    limiter = ready.limiter if scenario == "dnsperf" else scenario
    promise = Promise(
        limiter=limiter, limit=traffic.rate_limit, burst=traffic.rate_burst, cpus=sent.cpus
    )
    at = event_times(seen)
    bound = promise.limit + promise.burst
    parts = [
        Part(name=load.name, start_ns=load.span.start_ns, end_ns=load.span.end_ns,
             offered_per_s=load.per_s)
        for load in sent.loads if load.span is not None
    ]  # fmt: skip
    drawn = timeline.timeline(at, scenario=scenario, promise=promise, bound=bound, parts=parts)
    most = drawn.max_in_a_second

    def say(verdict: Verdict, says: str, held: Sequence[tuple[Load, Delivered]] = ()) -> Judged:
        return Judged(verdict=verdict, says=says, drawn=drawn, delivered=tuple(held),
                      sent=sent)  # fmt: skip

    if lie := told_otherwise(ready, promise, {"limiter": limiter, "sample_n": 1}):
        return say(Verdict.FAIL, lie)
    if stats.matched != sent.matched or stats.sampled_out:
        return say(Verdict.FAIL, f"of {sent.matched} datagrams it matched {stats.matched} and left "
                   f"{stats.sampled_out} out of a sample of all")  # fmt: skip
    if not at:
        return say(Verdict.FAIL, f"{sent.matched} datagrams, no event")
    if most > bound:
        return say(Verdict.FAIL, f"{most} events in one second, at most {bound} are agreed")
    if stats.ring_full:
        return say(Verdict.UNKNOWN, f"{stats.ring_full} admitted events found no room: what the "
                   "limiter admits cannot be told from what came")  # fmt: skip
    held: list[tuple[Load, Delivered]] = []
    verdict, says = Verdict.PASS, ""
    for load in sent.loads:
        one, doubt, refusal = judge_load(load, at, promise)
        held += [(load, one)] if one else []
        if refusal:
            return say(Verdict.FAIL, refusal, held)
        if doubt and not says:
            verdict, says = Verdict.UNKNOWN, doubt
    return say(verdict, says, held)


def told_otherwise(ready: Ready, promise: Promise, asked: Mapping[str, Scalar]) -> str:
    """How the line "ready" differs from what was asked for; "" when it does not."""
    asked = {**asked, "rate_limit": promise.limit, "rate_burst": promise.burst}
    lies = [f"{name} {getattr(ready, name)!r}, not {want!r}" for name, want in asked.items()
            if getattr(ready, name) != want]  # fmt: skip
    if lies:
        return f"it is ready with {', '.join(lies)}"
    announced, bound = ready.max_events_any_second, promise.limit + promise.burst
    if announced is None or announced > bound:
        return f"it announces {announced or 'no limit'} for any second, {bound} events are agreed"
    return ""


def judge_load(
    load: Load, at: Sequence[int], promise: Promise, *, sample_n: int = 1
) -> tuple[Delivered | None, str, str]:
    """What was delivered of one load; why nothing can be said; what the limiter failed to deliver.

    sample_n: the limiter is offered 1 in so many of what was sent, at random; load.per_s is of those.
    """
    if load.per_s < _ENOUGH * promise.limit:
        return None, (
            f"{load.name}: {load.per_s:.0f} datagrams a second reached the limiter, "
            f"{_ENOUGH * promise.limit} are needed to judge it"
        ), ""  # fmt: skip
    span = timeline.whole_windows(load.span, promise.window_ns) if load.span else None
    if span is None or span.end_ns - span.start_ns < _WINDOWS * promise.window_ns:
        return None, f"{load.name}: the generator sent for too short a time", ""
    held = timeline.delivered(at, span, promise)
    if held.per_s > held.ceiling_per_s:
        return held, "", (
            f"{load.name}: {held.per_s:.1f} events a second, at most {held.ceiling_per_s:.1f} are agreed"
        )  # fmt: skip
    short = f"{load.name}: {held.per_s:.1f} events a second, {held.floor_per_s:.1f} are promised"
    if held.kept:
        return held, "", ""
    due = timeline.due(span, promise, load.sends, sample_n=sample_n, deviations=_DEVIATIONS)
    if due is not None:
        says = f"{short}, {due / span.seconds:.1f} of what was sent for certain"
        return (held, "", says) if sum(held.windows) < due else (held, says, "")
    if held.kept_but_for_silences:
        return held, f"{short}, but {held.supplied_per_s:.1f} without silences", ""
    return held, "", short


def event_times(seen: Observed) -> list[int]:
    """Time stamps in order. Raises HarnessError for an event without one."""
    times = [event.get("ts_ns") for event in seen.events]
    found = sorted(at for at in times if isinstance(at, int))
    if len(found) != len(times):
        raise HarnessError(f"{len(times) - len(found)} events carry no time stamp")
    return found


def answer(
    runs: Mapping[str, Judged], *, asked_per_s: int, emulated: bool, evidence: Sequence[Evidence]
) -> CheckResult:
    """One answer out of all runs. asked_per_s: of dnsperf."""
    verdicts = [judged.verdict for judged in runs.values()]
    verdict = next(v for v in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS) if v in verdicts)
    drawn = [judged.drawn for judged in runs.values() if judged.drawn is not None]
    plotted = tuple(timeline.series(one, emulated=emulated) for one in drawn)
    figures: list[Figure] = []
    if drawn:
        worst = max(drawn, key=lambda one: one.max_in_a_second)
        figures.append(Figure(name="events in any second", value=float(worst.max_in_a_second),
                              unit="1", limit=float(worst.bound)))  # fmt: skip
    for scenario, judged in runs.items():
        for load, held in judged.delivered:
            what = scenario if scenario == load.name else f"{scenario}, {load.name}"
            figures += [
                Figure(name=f"mean: {what}", value=held.per_s, unit="1/s", emulated=emulated),
                Figure(name=f"offered: {what}", value=load.per_s, unit="1/s", emulated=emulated),
            ]
        if judged.sent is not None and judged.sent.queries_per_s is not None:
            figures.append(Figure(name="dnsperf", value=judged.sent.queries_per_s, unit="1/s",
                                  emulated=emulated))  # fmt: skip
    if verdict is not Verdict.PASS:
        return CheckResult(
            check=CHECK.name, verdict=verdict, figures=tuple(figures), evidence=tuple(evidence),
            series=plotted,
            cause=Cause.BEHAVIOUR if verdict is Verdict.FAIL else Cause.INFRA,
            summary="\n".join(f"{name}: {one.says}" for name, one in runs.items() if one.says),
            remedy="the timelines (rate-*.json) say when how many events came",
        )  # fmt: skip
    remarks = [
        words for name, judged in runs.items()
        for words in (
            *(offered.shortage(load, asked_per_s)
              for load in (judged.sent.loads if judged.sent else ()) if name == "dnsperf"),
            judged.at_first and f"{name} at first: {judged.at_first}",
        ) if words
    ]  # fmt: skip
    means = [held.per_s for judged in runs.values() for _, held in judged.delivered]
    return CheckResult(
        check=CHECK.name, verdict=verdict, figures=tuple(figures), evidence=tuple(evidence),
        series=plotted,
        summary="; ".join([
            f"{min(means):.0f} to {max(means):.0f} events a second under {', '.join(runs)}", *remarks
        ]),
    )  # fmt: skip


CHECK = Check(
    name="rate-limit", question="Does it deliver its limit, and never more in any second?",
    ask=_ask, estimate_s=12.0, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC), where=Where.ALONE,
    thorough=True,
)  # fmt: skip
