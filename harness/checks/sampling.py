# SPDX-License-Identifier: Apache-2.0
"""Does the subject keep a fair 1 in N, all where it must keep all, and say so in each event?

Three runs of the observer, without rate limit and with a buffer that holds all that may be kept:
sampling of 1 in 1; of 1 in [traffic] sample_n at any load; and above sample_threshold only, with a
flood far below it, one far above and one far below again, then a second each at 0.75 and at 1.5
times a threshold of 200 to 5,000. The sends fail for want of a route: they enter the hook, and a
hundred thousand of them take a second. What is fair: `harness.checks.sampled`; where sampling
begins: `harness.checks.switched`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.checks import binomial, compare, observer, sampled, switched
from harness.checks.context import Check, Context, Need
from harness.checks.observer import Observed
from harness.checks.sampled import Flood, Kept
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict
from harness.subject import Traffic

_ALL = 1_000  # datagrams at 1 in 1
_SAMPLED = 100_000  # with names of their own
_ONE_NAME = 10_000
_SOCKETS = 16
_RETRIES = 2
_QUESTIONS_KEPT = 50  # with retries and answers, expected
# Datagrams below and above the threshold. Fewer than a window may have are below it at any speed.
_ABOVE = 6_000
_OFFERED = 20  # times the threshold
_REACHED = 2  # times the threshold: less says nothing
_GRACE_S = 120  # to write what is still in the buffer; 1.5 s on an idle machine
_RING_BYTES = 4 << 20  # some 20,000 events of this driver's questions
# $1: the driver; the rest: floods, each as one word. The number of CPUs comes first.
_SCRIPT = r"""
driver=$1; shift
cpus=$(grep -c ^processor /proc/cpuinfo)
echo $cpus
for flood do
	case $flood in
	pause) sleep 0.3 ;; # three windows
	*) "$driver" flood --cpu 0-$((cpus - 1)) $flood || exit ;;
	esac
done
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """The floods of one run and what was kept of them."""

    floods: dict[str, Flood]  # by label
    kept: dict[str, list[Kept]]
    cpus: int
    wrong: tuple[str, ...]  # with the account: counters against events
    evidence: tuple[Evidence, ...]


def _ask(context: Context) -> CheckResult:
    traffic = context.subject.manifest.traffic or Traffic()
    if traffic.sample_n < 2:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the subject's manifest promises no sampling ([traffic] sample_n)",
        )  # fmt: skip
    run, n = secrets.token_hex(4), traffic.sample_n
    everything = _run(
        context, "sampling-1", {"sample_n": 1, "sample_threshold": 0},
        [f"--unroutable --threads 4 --count {_ALL} --label {run}a"],
    )  # fmt: skip
    if isinstance(everything, CheckResult):
        return everything
    share = _run(
        context, f"sampling-{n}", {"sample_n": n, "sample_threshold": 0},
        [f"--unroutable --threads {_SOCKETS} --count {_SAMPLED} --label {run}b",
         f"--unroutable --threads {_SOCKETS} --count {_ONE_NAME} --one-name --label {run}c",
         f"--answers --retries {_RETRIES} --threads 4 --count {_QUESTIONS_KEPT * n}"
         f" --label {run}d"],
    )  # fmt: skip
    if isinstance(share, CheckResult):
        return share
    runs = [everything, share]
    if (threshold := traffic.sample_threshold) > 0:
        few = f"--unroutable --count {max(threshold // 20, 1)} --rate {max(threshold // 2, 1)}"
        floods = [
            f"{few} --label {run}e",
            f"--unroutable --threads 4 --count {_ABOVE} --rate {_OFFERED * threshold} --label {run}f",
            "pause", f"{few} --label {run}g",
        ]  # fmt: skip
        if threshold in switched.THRESHOLDS:
            for load, letter in ((switched.BELOW, "h"), (switched.ABOVE, "i")):
                second = int(load * threshold)
                floods += [
                    "pause", f"--unroutable --count {second} --rate {second} --label {run}{letter}",
                ]  # fmt: skip
        at_load = _run(
            context, "sampling-threshold", {"sample_n": n, "sample_threshold": threshold}, floods
        )
        if isinstance(at_load, CheckResult):
            return at_load
        runs.append(at_load)
    return judged(runs, traffic, emulated=context.emulated)


def _run(
    context: Context, name: str, settings: dict[str, int], floods: Sequence[str]
) -> Sampled | CheckResult:
    """The floods with the observer set so; a result when there is nothing to judge."""
    settings = {**settings, "rate_limit": 0}
    if "sample_seed" in context.subject.manifest.rodata:
        settings["sample_seed"] = secrets.randbits(31)
    seen = observer.observe(
        context, ["/bin/sh", "-c", _SCRIPT, name, context.driver, *floods], name=name,
        settings=settings, options=("--ring-bytes", str(_RING_BYTES)), members=sampled.MEMBERS,
        grace_s=_GRACE_S, timeout_s=2 * _GRACE_S,
    )  # fmt: skip
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    return read(seen)


def read(seen: Observed) -> Sampled:
    """What a run left. Raises HarnessError for a driver that does not speak as it must."""
    first, _, rest = seen.command_output.partition("\n")
    if not first.isdigit() or int(first) < 1:
        raise HarnessError(f"the guest has no number of CPUs: '{first[:100]}'")
    floods = sampled.read_floods(rest)
    kept, wrong = sampled.by_label(seen.events, floods)
    if told := observer.wrong_with(seen):
        wrong.append(told)
    if seen.stats is not None:
        sent = sum(flood.attempts for flood in floods.values())
        out = seen.stats.sampled_out
        # Whatever is not an event was left out by the sampler, and by nothing else.
        wrong += compare.class_differences(
            {"sampled_out": out, "submitted": sent - out}, seen.stats.classes()
        )
    return Sampled(
        floods=floods, kept=kept, cpus=int(first), wrong=tuple(wrong), evidence=seen.evidence
    )


def judged(runs: Sequence[Sampled], traffic: Traffic, *, emulated: bool) -> CheckResult:
    """The verdict on the floods; the last letter of a label says which it is (`_ask`)."""
    n, threshold = traffic.sample_n, traffic.sample_threshold
    floods = {label[-1]: flood for one in runs for label, flood in one.floods.items()}
    kept = {label[-1]: events for one in runs for label, events in one.kept.items()}
    wrong = [text for one in runs for text in one.wrong]
    wrong += sampled.all_of(floods["a"], kept["a"], "at 1 in 1")
    wrong += sampled.fair(floods["b"], kept["b"], n, runs[1].cpus)
    wrong += sampled.fair_of_one_name(floods["c"], kept["c"], n)
    whole, torn = sampled.whole(floods["d"], kept["d"], n, _RETRIES)
    wrong += torn
    low, high = binomial.interval(floods["b"].attempts, 1 / n, sampled.ERROR_MAIN)
    figures = [
        Figure(name=f"kept, 1 in {n}", value=len(kept["b"]), unit="1"),
        Figure(name="sent", value=floods["b"].attempts, unit="1"),
        Figure(name="fewest believed", value=low, unit="1"),
        Figure(name="most believed", value=high, unit="1"),
        Figure(name="kept of one name", value=len(kept["c"]), unit="1"),
        Figure(name="questions kept whole", value=whole, unit="1"),
    ]
    short = ""
    if "f" in floods:
        wrong += sampled.all_of(floods["e"], kept["e"], f"below the threshold of {threshold}/s")
        wrong += sampled.all_of(floods["g"], kept["g"], "below the threshold again")
        offered = sampled.rate(floods["f"])
        figures.append(
            Figure(name="offered above the threshold", value=offered, unit="1/s",
                   emulated=emulated)
        )  # fmt: skip
        if offered < _REACHED * threshold:
            short = f"only {offered:.0f}/s were reached, {_REACHED * threshold}/s are needed"
        else:
            wrong += sampled.above_threshold(floods["f"], kept["f"], n, threshold)
    if "h" in floods:
        found, doubt, judged_there = _where(floods, kept, n, threshold)
        wrong += found
        short = short or doubt
        figures += judged_there
    evidence = tuple(item for one in runs for item in one.evidence)
    if wrong:
        return observer.differs(
            CHECK.name, wrong, figures=figures, evidence=evidence,
            remedy="decide by a hash of the client's port, the id and the name, and of nothing else",
        )  # fmt: skip
    if short:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.INFRA, figures=tuple(figures),
            summary=f"the threshold was not shown to be kept: {short}", evidence=evidence,
            remedy="run it on a machine with less to do",
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=tuple(figures), evidence=evidence,
        summary=(
            f"{len(kept['b'])} of {floods['b'].attempts} kept at 1 in {n}, believed {low} to {high} "
            f"(error {sampled.ERROR_MAIN:g}); {whole} questions with all retries and answers"
            + (f"; all below {threshold}/s" if "f" in floods else "")
            + (f" and a sample above, asked at {switched.BELOW:g} and {switched.ABOVE:g} times that"
               if "h" in floods else "")
        ),
    )  # fmt: skip


def _where(
    floods: Mapping[str, Flood], kept: Mapping[str, Sequence[Kept]], n: int, threshold: int
) -> tuple[list[str], str, list[Figure]]:
    """What is wrong with where sampling begins, why that cannot be told ("": it can), figures."""
    wrong: list[str] = []
    below = above = 0
    for letter in "hi":
        said = switched.judge(floods[letter], kept[letter], n, threshold)
        wrong += [*sampled.as_sent(floods[letter], kept[letter], n), *said.wrong]
        below += said.kept_below
        above += said.sampled_above
    few = switched.needed(threshold)
    figures = [
        Figure(name="judged just below the threshold", value=below, unit="1"),
        Figure(name="judged just above it", value=above, unit="1"),
    ]
    if min(below, above) >= few:
        return wrong, "", figures
    doubt = (
        f"of {below} datagrams just below it and {above} just above the load is known, not of {few}"
    )
    return wrong, doubt, figures


CHECK = Check(
    name="sampling", question="Is what the subject keeps a fair sample, and all where it must be?",
    ask=_ask, estimate_s=19.0, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC), thorough=True,
)  # fmt: skip
