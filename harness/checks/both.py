# SPDX-License-Identifier: Apache-2.0
"""With sampling and the limit both on: does what comes out follow from what was sent?

The settings are the manifest's (the plan's default: 1 in 10 above 1,000 a second, 1,000 events a
second). Two loads in one run, each beside as many datagrams that are not DNS: the rate that the
manifest offers, then as fast as every CPU can. Expected is first the sample, then the limit:

- The kept (matched - sampled_out) are 1 in n. The sample is a hash over (port, id, name) and the
  send driver never repeats a name, whose random label is drawn for the run: each datagram is kept
  with probability 1/n, none with another, so their number is binomial. Sampling starts when a
  100 ms window, or the one before, has seen threshold / 10 datagrams; those before are all kept. The
  start, and each 100 ms in which next to nothing came, may cost two windows of threshold / 10 + CPUs:
  one that the load enters at its end, too late to be above, and the next. (Next to nothing: events,
  at most a quarter of threshold / 10. Of so many sampled datagrams more are kept once in 100,000
  windows.) Binomial tails of 1e-5 together, exact.
- What is kept then meets the limit: no second over rate_limit + rate_burst, and no more in all than
  the time from first to last event allows.
- Where twice the limit was kept, the mean is what the rate-limit check asks (harness.checks.timeline).
- At the manifest's rate, which keeps about the limit: half of the smaller of kept and limit. How
  much of a random stream passes depends on how even it is (95 % of an even one by xadd's windows,
  nearly all by gcra); half is far below, and five times what a sample taken after the limit would
  leave (limit / n). A flood that stood still catches up in one burst, of which a window passes its
  burst alone: less than half is a failure where it is less than half of what the limiter passes, on
  the average, of what was sent for certain and when (timeline.due), else `unknown`. With a driver
  that does not say when, what comes to half without the silences of more than a window is.

Sampling after the limit, or tokens spent on other traffic, break the first, the third or the
account. What the machine could not offer is `unknown`, after a second try; when that one passes, the
summary says what was wrong at first, and the manifest's rate if it was not reached.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from harness.checks import binomial, observer, offered, ratelimit, timeline
from harness.checks.context import Check, Context, Need, Where
from harness.checks.observer import Events, Observed, Stats
from harness.checks.offered import Load, Offered
from harness.checks.timeline import BIN_NS, NS_PER_S, Delivered, Part, Promise, Timeline
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict
from harness.subject import Traffic

_SECONDS = 1  # each flood
_ERROR = 1e-5  # of the binomial interval, both tails
_ENOUGH = 2  # times the threshold must be offered for the sampling to be on
_MANY = 100  # kept at random, half of them come: less is no chance (1e-7)
_LOADS = ("as planned", "as fast as possible")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Datagrams in the sample, and how many may be."""

    count: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The verdict on one run."""

    verdict: Verdict
    says: str  # why it is none better
    drawn: Timeline | None = None
    kept: Kept | None = None
    delivered: Delivered | None = None  # of the faster load
    sent: Offered | None = None
    at_first: str = ""  # why the try before this one said nothing


def _ask(context: Context) -> CheckResult:
    traffic = context.subject.manifest.traffic
    if traffic is None:
        raise HarnessError("the manifest promises nothing about rates", hint="add [traffic]")
    evidence: list[Evidence] = []
    first = _try(context, traffic, "both", evidence)
    if isinstance(first, CheckResult):
        return first
    last = first
    if first.verdict is Verdict.UNKNOWN:
        again = _try(context, traffic, "both-again", evidence)
        if isinstance(again, CheckResult):
            return again
        last = replace(again, at_first=first.says)
    return answer(
        last, asked_per_s=traffic.offered_per_s, emulated=context.emulated, evidence=evidence
    )


def _try(
    context: Context, traffic: Traffic, name: str, evidence: list[Evidence]
) -> Judged | CheckResult:
    """One run and its verdict; a finished answer when the observer did not live through it."""
    seen = _run(context, traffic, name)
    evidence += seen.evidence
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    judged = judge(seen, offered.read_floods(seen.command_output, _LOADS, beside=True), traffic)
    if judged.drawn is not None:
        content = msgspec.json.encode(judged.drawn)
        evidence.append(context.keep("rate: both", f"rate-{name}.json", content))
    return judged


def _run(context: Context, traffic: Traffic, name: str) -> Observed:
    flood = f"--duration-s {_SECONDS} --unroutable"
    rate = f"--rate {traffic.offered_per_s}"
    label = secrets.token_hex(8)
    return observer.observe(
        context,
        offered.floods(
            context.driver,
            [f"{flood} --label {label}-planned {rate} --threads 2", f"{flood} --label {label}-fast all"],
            beside=f"{flood} --non-dns {rate}",
        ),
        name=name, events=Events.BRIEF, options=offered.LARGE_BUFFER,
        settings={
            "sample_n": traffic.sample_n, "sample_threshold": traffic.sample_threshold,
            "rate_limit": traffic.rate_limit, "rate_burst": traffic.rate_burst,
        },
    )  # fmt: skip


def judge(seen: Observed, sent: Offered, traffic: Traffic) -> Judged:
    """The verdict on a run with both stages on: the load as planned, then the fast one."""
    ready, stats = seen.ready, seen.stats
    wrong = observer.wrong_with(seen)
    if wrong or ready is None or stats is None:
        return Judged(verdict=Verdict.FAIL, says=wrong)
    promise = Promise(
        limiter=ready.limiter, limit=traffic.rate_limit, burst=traffic.rate_burst, cpus=sent.cpus
    )
    at = ratelimit.event_times(seen)
    parts = [
        Part(name=load.name, start_ns=load.span.start_ns, end_ns=load.span.end_ns,
             offered_per_s=load.per_s)
        for load in sent.loads if load.span is not None
    ]  # fmt: skip
    bound = promise.limit + promise.burst
    drawn = timeline.timeline(at, scenario="both", promise=promise, bound=bound, parts=parts)
    kept = expected_kept(stats, drawn, traffic, sent.cpus)
    base = Judged(verdict=Verdict.PASS, says="", drawn=drawn, kept=kept, sent=sent)
    asked = {"sample_n": traffic.sample_n, "sample_threshold": traffic.sample_threshold}
    failure = (
        ratelimit.told_otherwise(ready, promise, asked)
        or _account(stats, sent, len(at))
        or _sampled(kept, traffic)
        or _limited(drawn, at, promise)
    )
    if failure:
        return replace(base, verdict=Verdict.FAIL, says=failure)
    if stats.ring_full:
        return replace(base, verdict=Verdict.UNKNOWN,
                       says=f"{stats.ring_full} admitted events found no room")  # fmt: skip
    planned, fast = (replace(load, per_s=load.per_s / traffic.sample_n) for load in sent.loads)
    held, doubt, failure = ratelimit.judge_load(fast, at, promise, sample_n=traffic.sample_n)
    base = replace(base, delivered=held)
    slow, short = _planned(planned, at, promise, traffic.sample_n)
    doubt = doubt or slow
    if failure := failure or short:
        return replace(base, verdict=Verdict.FAIL, says=failure)
    if not doubt and planned.per_s * traffic.sample_n <= _ENOUGH * traffic.sample_threshold:
        doubt = (
            f"{planned.name}: {planned.per_s * traffic.sample_n:.0f} datagrams a second were sent"
        )
    return replace(base, verdict=Verdict.UNKNOWN, says=doubt) if doubt else base


def expected_kept(stats: Stats, drawn: Timeline, traffic: Traffic, cpus: int) -> Kept:
    """How many may be in the sample: see above."""
    free = traffic.sample_threshold * BIN_NS // NS_PER_S
    starts = 1 + sum(count <= free // 4 for count in drawn.counts)
    unsampled = min(stats.matched, 2 * starts * (free + cpus)) if traffic.sample_threshold else 0
    chance = 1 / traffic.sample_n
    if traffic.sample_n <= 1:
        low = high = stats.matched
    else:
        low, _ = binomial.interval(stats.matched, chance, _ERROR)
        _, high = binomial.interval(stats.matched - unsampled, chance, _ERROR)
        high += unsampled
    return Kept(count=stats.matched - stats.sampled_out, low=low, high=high)


def _account(stats: Stats, sent: Offered, events: int) -> str:
    if stats.matched != sent.matched:
        return f"of {sent.matched} questions it matched {stats.matched}"
    if stats.other_port != sent.beside:
        return f"of {sent.beside} datagrams to other ports it counted {stats.other_port}"
    return "" if events else f"{sent.matched} questions, no event"


def _sampled(kept: Kept, traffic: Traffic) -> str:
    if kept.low <= kept.count <= kept.high:
        return ""
    return (
        f"{kept.count} questions are in the sample, 1 in {traffic.sample_n} are "
        f"{kept.low} to {kept.high}"
    )


def _limited(drawn: Timeline, at: Sequence[int], promise: Promise) -> str:
    if drawn.max_in_a_second > drawn.bound:
        return f"{drawn.max_in_a_second} events in one second, at most {drawn.bound} are agreed"
    # Windows may be spent whole at the first and the last event, a bucket once.
    seconds = (at[-1] - at[0]) / NS_PER_S
    most = promise.limit * seconds + promise.burst * (2 if promise.in_windows else 1) + 1
    if len(at) > most:
        return f"{len(at)} events in {seconds:.2f} s, at most {most:.0f} are agreed"
    return ""


def _planned(load: Load, at: Sequence[int], promise: Promise, sample_n: int) -> tuple[str, str]:
    """Why nothing can be said; what is missing. load.per_s: of what the sample keeps."""
    span = timeline.whole_windows(load.span, promise.window_ns) if load.span else None
    if span is None:
        return f"{load.name}: the generator sent for too short a time", ""
    (came,) = timeline.counts(at, span.start_ns, span.end_ns - span.start_ns, 1)
    per_s, wanted = came / span.seconds, min(load.per_s, promise.limit) / 2
    if per_s >= wanted:
        return "", ""
    short = (
        f"{load.name}: {per_s:.0f} events a second of {load.per_s:.0f} in the sample, the limit is "
        f"{promise.limit}"
    )
    due = timeline.due(span, promise, load.sends, sample_n=sample_n)
    if due is not None:
        says = f"{short}, {due / span.seconds:.0f} of what was sent for certain"
        return ("", says) if due >= _MANY and came < due / 2 else (says, "")
    silent_s = timeline.silences_ns(at, span, promise.window_ns) / NS_PER_S
    if came >= wanted * (span.seconds - silent_s):
        return f"{short}, but it is silent for {silent_s:.2f} of {span.seconds:.2f} s", ""
    return "", short


def answer(
    judged: Judged, *, asked_per_s: int, emulated: bool, evidence: Sequence[Evidence]
) -> CheckResult:
    """As a check says it. asked_per_s: of the load as planned."""
    figures: list[Figure] = []
    if judged.drawn is not None:
        figures.append(Figure(name="events in any second", value=float(judged.drawn.max_in_a_second),
                              unit="1", limit=float(judged.drawn.bound)))  # fmt: skip
    if judged.kept is not None:
        figures.append(Figure(name="in the sample", value=float(judged.kept.count), unit="1",
                              limit=float(judged.kept.high)))  # fmt: skip
    if judged.delivered is not None:
        figures.append(Figure(name="mean of the fast load", value=judged.delivered.per_s, unit="1/s",
                              emulated=emulated))  # fmt: skip
    figures += [
        Figure(name=f"offered: {load.name}", value=load.per_s, unit="1/s", emulated=emulated)
        for load in (judged.sent.loads if judged.sent else ())
    ]
    drawn = (judged.drawn,) if judged.drawn else ()
    plotted = tuple(timeline.series(one, emulated=emulated) for one in drawn)
    if judged.verdict is not Verdict.PASS:
        return CheckResult(
            check=CHECK.name, verdict=judged.verdict, summary=judged.says, figures=tuple(figures),
            cause=Cause.BEHAVIOUR if judged.verdict is Verdict.FAIL else Cause.INFRA,
            remedy="the timeline (rate-both.json) says when how many events came",
            evidence=tuple(evidence), series=plotted,
        )  # fmt: skip
    kept, sent = judged.kept, judged.sent
    if kept is None or sent is None:
        raise HarnessError("a run passed of which nothing is known")
    remarks = [
        f"{kept.count} of {sent.matched} in the sample ({kept.low} to {kept.high})",
        offered.shortage(sent.loads[0], asked_per_s),
        judged.at_first and f"at first: {judged.at_first}",
    ]
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=tuple(figures), evidence=tuple(evidence),
        series=plotted, summary="; ".join(words for words in remarks if words),
    )  # fmt: skip


CHECK = Check(
    name="both", question="Sample first, then limit: does what comes out follow from what was sent?",
    ask=_ask, estimate_s=3.5, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC), where=Where.ALONE,
    thorough=True,
)  # fmt: skip
