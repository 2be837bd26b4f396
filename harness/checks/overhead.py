# SPDX-License-Identifier: Apache-2.0
"""What does the subject cost the machine, a datagram it wants and one it does not?

Offered load: `[traffic] offered_per_s` questions a second from the subject's driver, the manifest's
settings, the subject's own loader. Three things are measured in one guest:

1. `run_time_ns` and `run_cnt` of the subject's programs (the kernel's statistics, `sysctl
   kernel.bpf_stats_enabled`) in SAMPLES slices of that load and in some slices of UDP that is not
   DNS. The statistics time a program's body only. What they measure of a program that does nothing
   is the clock's own cost and is taken off; the trap, which they do not see, is added: it is what
   an empty kprobe program costs on `udp_sendmsg` (`objcheck kprobe`, statistics off, the median
   call with and without it, SAMPLES times).
2. The share of the machine: cost of a datagram × `offered_per_s` / CPUs, against `[limits]
   cpu_share`. The high end is taken at the offered rate, the low one at the rate that was reached
   if that was less: more load never costs less in all. Below half of the offered load the answer is
   `unknown`, unless even so little costs more than is allowed.
3. Throughput of a UDP flood with the subject over that without, in the order A B B A A B B A; its
   interval is Student's t on the logarithms of neighbours' ratios, 95 %. No limit: a report.

On hardware (KVM included) the share is compared as measured. **Under emulation no time is the
hardware's**, and the share is estimated: the cost of a datagram is counted in empty kprobes *of the
same guest*, (traps × e + body) / e, and an empty kprobe is taken for the 47 to 108 ns (x86-64; to
137 ns elsewhere) that were published for hardware, with a margin of 1.25 either way (`yardstick`).
`pass` only when the high end of all that is below the limit, `fail` only when the low end is above
it, else `unknown`. The slices send in bursts of a twentieth of the rate, for at an even pace the
emulator loses its translated addresses at every switch of tasks and a datagram costs up to 5 times
as much, which is a property of the emulator; that figure is given too.

How far to trust the estimate: a kprobe that counts in a hash map by process, time and command costs
331 ns on the Xeon of the second publication and 229 ns on the M1 of the third. Under TCG (x86-64)
it cost 3.2 empty kprobes on 6.1 and 3.8 on 7.3, which estimates 120 to 430 ns and 140 to 510 ns:
both lie inside. It is one program on two machines, though. What an emulator slows down most (locked
instructions, interrupts, so the wake-up of a loader by each event) weighs too much here, cache
misses nothing at all: maps larger than a cache are not what this check can judge.
A correct subject fails less than once in 10,000 runs: each of the two low ends that make the share's
is safe to 1.6e-5 (`yardstick`).
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from harness.checks import observer, yardstick
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.checks.observer import Events, Observed
from harness.checks.yardstick import SAMPLES, Interval, Unit
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_CALLS = 2000  # of a block of the yardstick
_ROUNDS = (8, SAMPLES - 8)  # of the yardstick, before and after all else
_SLICES = (8, SAMPLES - 8)  # of the offered load, one number for each time the observer runs
_SLICE_S = 0.1
_BURSTS_A_SECOND = 20  # under emulation
_OTHER_SLICES = 3  # of UDP that is not DNS, each time the observer runs
_OTHER_COUNT = 2000
_LEGS = 2  # floods of each kind on each side of a change between with and without
_LEG_COUNT = 2000
_PAIRS = 4 * _LEGS
_STUDENT = 2.365  # two-sided 95 %, _PAIRS - 1 = 7 degrees of freedom
_REACHED = 0.5  # of the offered load
_TIMEOUT_S = 120.0
_NS = 1e9

# $1: the driver. Floods of both kinds, as fast as it goes.
_FLOODS = r"""
legs() {
	i=0
	while [ $i -lt $2 ]; do
		for kind in --non-dns ""; do
			echo "{\"type\":\"step\",\"what\":\"leg$kind\"}"
			"$1" flood --count $3 $kind || exit 41
		done
		i=$((i + 1))
	done
}
"""
# Without the subject. $1: driver, $2: legs, $3: datagrams in each.
_WITHOUT = _FLOODS + 'legs "$1" $2 $3\n'
# With it: $4: slices, $5: their options, $6: slices of other UDP, $7: their datagrams, $8: options
# of an evenly paced slice.
_WITH = (
    _FLOODS
    + r"""
step() {
	echo "{\"type\":\"step\",\"what\":\"$1\"}"
	shift
	"$@" || exit 41
	objcheck runs || exit 42
}
stats=/proc/sys/kernel/bpf_stats_enabled
legs "$1" $2 $3
trap 'echo 0 >$stats' EXIT
echo 1 >$stats || exit 43
echo '{"type":"step","what":"start"}'
objcheck runs || exit 42
step warm "$1" flood $5
i=0; while [ $i -lt $4 ]; do step load "$1" flood $5; i=$((i + 1)); done
i=0; while [ $i -lt $6 ]; do step other "$1" flood --non-dns --count $7; i=$((i + 1)); done
[ -z "$8" ] || step paced "$1" flood $8
echo 0 >$stats
legs "$1" $2 $3
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A flood, and what the subject's programs did meanwhile."""

    attempts: int  # datagrams
    duration_s: float
    runs: int = 0
    run_time_ns: int = 0

    @property
    def per_s(self) -> float:
        return self.attempts / self.duration_s

    def body_ns(self, clock_ns: float) -> float:
        """Of the programs, for one datagram."""
        return max(0.0, self.run_time_ns - self.runs * clock_ns) / self.attempts


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What one script told: floods without statistics by kind, and slices by kind."""

    legs: tuple[Slice, ...]  # at port 53
    other_legs: tuple[Slice, ...]  # at another
    load: tuple[Slice, ...] = ()
    other: tuple[Slice, ...] = ()
    paced: tuple[Slice, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything that decides."""

    unit: Unit
    load: tuple[Slice, ...]  # the offered load, SAMPLES or more
    other: tuple[Slice, ...]  # UDP that is not DNS
    paced: tuple[Slice, ...]  # the offered load at an even pace, where `load` is not
    ratio: Interval  # throughput with over without, of DNS
    other_ratio: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What it is judged by."""

    offered_per_s: int
    limit: float  # share of the machine
    cpus: int
    emulated: bool
    machine: str  # uname -m


class _Step(msgspec.Struct, frozen=True):
    what: str


class _Flood(msgspec.Struct, frozen=True):
    attempts: int
    duration_us: int


def _ask(context: Context) -> CheckResult:
    traffic, limit = context.subject.manifest.traffic, context.subject.manifest.limits.cpu_share
    if traffic is None or limit is None:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the manifest states no [limits] cpu_share",
        )  # fmt: skip
    if context.features.run_stats is None:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNSUPPORTED, cause=Cause.FEATURE_MISSING,
            summary="this kernel keeps no run time statistics of BPF programs (5.1)",
        )  # fmt: skip
    terms = Terms(
        offered_per_s=traffic.offered_per_s, limit=limit, cpus=context.features.cpus_online,
        emulated=context.emulated,
        machine=context.features.uname.machine,
    )  # fmt: skip
    base = frozenset(yardstick.read_runs(yardstick.lines_of(_run(context, [OBJCHECK, "runs"]))))
    said = [_run(context, yardstick.kprobe_argv(OBJCHECK, _ROUNDS[0], _CALLS))]
    without, within = [_without(context)], list[Told]()
    evidence: list[Evidence] = []
    for number, slices in enumerate(_SLICES):
        seen = _observed(context, terms, slices, number)
        if observer.wrong_with(seen):
            return observer.failed(CHECK.name, seen)
        observer.require_command(seen, "load")
        within.append(told(seen.command_output, base))
        lines = seen.command_output.encode()
        evidence += [
            *seen.evidence,
            context.keep("load", f"overhead-load-{number + 1}.jsonl", lines),
        ]
        without.append(_without(context, sides=1 if number == len(_SLICES) - 1 else 2))
    said.append(_run(context, yardstick.kprobe_argv(OBJCHECK, _ROUNDS[1], _CALLS)))
    evidence.append(context.keep("empty kprobe", "overhead-kprobe.jsonl", "".join(said).encode()))
    measured = gathered(yardstick.read_unit(said), without, within)
    return judged(measured, terms, tuple(evidence))


def _run(context: Context, argv: Sequence[str]) -> str:
    answer = context.guest.run(argv, timeout_s=_TIMEOUT_S)
    if answer.status != 0:
        raise HarnessError(
            f"{argv[0]} ended with status {answer.status}: {answer.error_text.strip()[-300:]}"
        )
    return answer.text


def _without(context: Context, *, sides: int = 1) -> Told:
    words = [context.driver, str(sides * _LEGS), str(_LEG_COUNT)]
    return told(_run(context, ["/bin/sh", "-c", _WITHOUT, "overhead", *words]), frozenset())


def _observed(context: Context, terms: Terms, slices: int, number: int) -> Observed:
    rate = terms.offered_per_s
    even = ["--rate", str(rate), "--count", str(max(1, round(rate * _SLICE_S)))]
    burst = ["--burst", str(max(1, rate // _BURSTS_A_SECOND))] if terms.emulated else []
    paced = ["--rate", str(rate), "--duration-s", "1"] if terms.emulated and not number else []
    words = [
        context.driver, str(_LEGS), str(_LEG_COUNT), str(slices), shlex.join([*even, *burst]),
        str(_OTHER_SLICES), str(_OTHER_COUNT), shlex.join(paced),
    ]  # fmt: skip
    return observer.observe(
        context, ["/bin/sh", "-c", _WITH, "overhead", *words], name=f"overhead-{number + 1}",
        settings={}, events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip


def told(text: str, base: frozenset[int]) -> Told:
    """What a script wrote; programs of `base` were there before the subject."""
    found: dict[str, list[Slice]] = {}
    what, before = "", (0, 0)
    flood: _Flood | None = None
    totals = (0, 0)
    for kind, line in yardstick.lines_of(text):
        match kind:
            case "step":
                what, totals = yardstick.decoded(line, _Step).what, (0, 0)
            case "flood":
                flood = yardstick.decoded(line, _Flood)
                if not flood.attempts or not flood.duration_us:
                    raise HarnessError("the driver's flood sent nothing")
                if what.startswith("leg"):
                    found.setdefault(what, []).append(_slice(flood, (0, 0)))
            case "run":
                run = yardstick.decoded(line, yardstick.Run)
                if run.id not in base:
                    totals = (totals[0] + run.run_cnt, totals[1] + run.run_time_ns)
            case "end":
                if flood is not None and what != "start":
                    gone = (totals[0] - before[0], totals[1] - before[1])
                    found.setdefault(what, []).append(_slice(flood, gone))
                before = totals
            case _:
                raise HarnessError(f"not an answer of this check's: '{line.decode()[:80]}'")
    return Told(
        legs=tuple(found.get("leg", ())), other_legs=tuple(found.get("leg--non-dns", ())),
        load=tuple(found.get("load", ())), other=tuple(found.get("other", ())),
        paced=tuple(found.get("paced", ())),
    )  # fmt: skip


def _slice(flood: _Flood, gone: tuple[int, int]) -> Slice:
    return Slice(
        attempts=flood.attempts, duration_s=flood.duration_us / 1e6, runs=gone[0],
        run_time_ns=gone[1],
    )  # fmt: skip


def gathered(unit: Unit, without: Sequence[Told], within: Sequence[Told]) -> Measured:
    """All of a guest's measurements; floods without and with are paired in order of time."""
    return Measured(
        unit=unit,
        load=tuple(one for part in within for one in part.load),
        other=tuple(one for part in within for one in part.other),
        paced=tuple(one for part in within for one in part.paced),
        ratio=throughput_ratio(
            [one for part in without for one in part.legs],
            [one for part in within for one in part.legs],
        ),
        other_ratio=throughput_ratio(
            [one for part in without for one in part.other_legs],
            [one for part in within for one in part.other_legs],
        ),
    )


def throughput_ratio(without: Sequence[Slice], within: Sequence[Slice]) -> Interval:
    """Geometric mean of `within` over `without`, pair by pair, with its 95 % t-interval."""
    if len(without) != len(within) or len(without) != _PAIRS:
        raise HarnessError(
            f"{len(without)} floods without the subject, {len(within)} with it: not {_PAIRS} pairs"
        )
    logs = [
        math.log(b.per_s / a.per_s) for a, b in zip(without, within, strict=True)
    ]  # fmt: skip
    mean, half = statistics.mean(logs), _STUDENT * statistics.stdev(logs) / math.sqrt(_PAIRS)
    return Interval(low=math.exp(mean - half), mid=math.exp(mean), high=math.exp(mean + half))


def share_of(measured: Measured, terms: Terms) -> Interval:
    """Of the machine, at the offered load: as measured, or on hardware by the yardstick."""
    unit = measured.unit
    bodies = [one.body_ns(unit.clock_ns) for one in measured.load]
    body = yardstick.interval(bodies, emulated=terms.emulated)
    traps = _traps(measured.load)
    if terms.emulated:
        ns = yardstick.on_hardware(unit.count_in(body, traps), terms.machine)
    else:
        ns = Interval(
            low=body.low + traps * unit.cost.low,
            mid=body.mid + traps * unit.cost.mid,
            high=body.high + traps * unit.cost.high,
        )
    share = ns.times(terms.offered_per_s / _NS / terms.cpus)
    return replace(share, low=share.low * min(1.0, _reached(measured) / terms.offered_per_s))


def _reached(measured: Measured) -> float:
    """Datagrams a second, of the median slice."""
    return statistics.median(one.per_s for one in measured.load)


def judged(measured: Measured, terms: Terms, evidence: tuple[Evidence, ...] = ()) -> CheckResult:
    """The verdict on everything that was measured."""
    trouble = _cannot_tell(measured)
    if trouble:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.INFRA, summary=trouble,
            remedy="measure on a machine with less to do, or with KVM", evidence=evidence,
        )  # fmt: skip
    share, reached = share_of(measured, terms), _reached(measured)
    words = (
        f"{_percent(share.low)} to {_percent(share.high)} of {terms.cpus} CPUs at "
        f"{terms.offered_per_s:,} a second, {_percent(terms.limit)} allowed"
    )
    if terms.emulated:
        words = f"estimated from emulation: {words}"
    if share.low > terms.limit:
        verdict, cause = Verdict.FAIL, Cause.LIMIT_EXCEEDED
        remedy = "decide earlier which datagrams matter: the port before anything is read"
    elif reached < _REACHED * terms.offered_per_s:
        verdict, cause = Verdict.UNKNOWN, Cause.INFRA
        words = (
            f"{reached:,.0f} datagrams a second were reached of {terms.offered_per_s:,}; {words}"
        )
        remedy = "measure on a machine with less to do, or with KVM"
    elif share.high <= terms.limit:
        verdict, cause, remedy = Verdict.PASS, Cause.NONE, ""
    else:
        verdict, cause = Verdict.UNKNOWN, Cause.INFRA
        remedy = "measure with KVM: an estimate from emulation cannot be narrower"
    return CheckResult(
        check=CHECK.name, verdict=verdict, cause=cause, summary=words, remedy=remedy,
        figures=figures(measured, terms, share),
        evidence=(Evidence(title="how", text=_account(measured, terms)), *evidence),
    )  # fmt: skip


def _cannot_tell(measured: Measured) -> str:
    silent = sum(1 for one in (*measured.load, *measured.other) if not one.runs)
    if silent:
        return f"no program of the subject was counted in {silent} slices of the load"
    unit = measured.unit.divisor
    if unit.low <= 0:
        return (
            f"an empty kprobe costs {unit.low:,.0f} to {unit.high:,.0f} ns here: the machine is too "
            "busy to measure by it"
        )
    return ""


def figures(measured: Measured, terms: Terms, share: Interval) -> tuple[Figure, ...]:
    """The one that is compared first: the high end, the low one of what fails."""
    emulated, unit = terms.emulated, measured.unit
    decides = share.low if share.low > terms.limit else share.high
    said = "CPU share (estimated)" if emulated else "CPU share"

    def timed(name: str, value: float, unit: str = "ns") -> Figure:
        return Figure(name=name, value=value, unit=unit, emulated=emulated)

    found = [
        Figure(name=said, value=100 * decides, unit="%", emulated=emulated,
               limit=100 * terms.limit),
        timed("cost of a DNS datagram", _cost_ns(measured.load, unit)),
        timed("cost of another UDP send", _cost_ns(measured.other, unit)),
        timed("empty kprobe", unit.cost.mid),
        timed("DNS datagram, empty kprobes", _cost_ns(measured.load, unit) / unit.cost.mid, "1"),
        timed("UDP send, empty kprobes", _cost_ns(measured.other, unit) / unit.cost.mid, "1"),
        timed("DNS throughput, with/without", measured.ratio.mid, "1"),
        timed("UDP throughput, with/without", measured.other_ratio.mid, "1"),
    ]  # fmt: skip
    if measured.paced:
        found.append(timed("cost of an evenly paced DNS datagram", _cost_ns(measured.paced, unit)))
    if emulated:
        ns = _cost_ns(measured.load, unit) * terms.offered_per_s / _NS / terms.cpus
        found.append(timed("CPU share as emulated", 100 * ns, "%"))
    return tuple(found)


def _traps(slices: Sequence[Slice]) -> float:
    """Runs for each datagram: a v4-mapped destination enters two hooks."""
    return sum(one.runs for one in slices) / sum(one.attempts for one in slices)


def _cost_ns(slices: Sequence[Slice], unit: Unit) -> float:
    """Trap and body of the median slice, for one datagram."""
    body = statistics.median(one.body_ns(unit.clock_ns) for one in slices)
    return body + _traps(slices) * unit.cost.mid


def _account(measured: Measured, terms: Terms) -> str:
    unit = measured.unit
    bodies = [one.body_ns(unit.clock_ns) for one in measured.load]
    body = yardstick.interval(bodies, emulated=terms.emulated)
    units = unit.count_in(body, _traps(measured.load))
    lines = [
        f"an empty kprobe: {_ns(unit.cost)} a call (median of {SAMPLES} differences of median "
        f"calls), {unit.clock_ns:,.0f} ns of clock in each run",
        f"a program's body: {_ns(body)} a DNS datagram (statistics, clock taken off; "
        f"{len(bodies)} slices: {', '.join(f'{value:,.0f}' for value in bodies)}); the trap is not "
        "in it and is added, as an empty kprobe",
        f"its share alone, as measured: "
        f"{_percent(body.mid * terms.offered_per_s / _NS / terms.cpus)} of {terms.cpus} CPUs",
        f"with the trap: {units.low:.1f} to {units.high:.1f} empty kprobes",
        f"reached: {_reached(measured):,.0f} a second",
        f"throughput of a flood with the subject, over without: DNS {_ratio(measured.ratio)}, "
        f"other UDP {_ratio(measured.other_ratio)} ({_PAIRS} pairs, ABBA, t-interval of the "
        "logarithms, 95 %)",
    ]
    if terms.emulated:
        low, high = yardstick.published_ns(terms.machine)
        lines.append(
            f"on hardware an empty kprobe costs {low:g} to {high:g} ns (published), taken with a "
            f"margin of {yardstick.MARGIN:g} either way: an estimate"
        )
    return "\n".join(lines)


def _ns(one: Interval) -> str:
    return f"{one.mid:,.0f} ns ({one.low:,.0f} to {one.high:,.0f})"


def _ratio(one: Interval) -> str:
    return f"{one.mid:.3f} ({one.low:.3f} to {one.high:.3f})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


CHECK = Check(
    name="overhead", question="What share of the machine does it take at the offered load?",
    ask=_ask, estimate_s=12.0, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC), alone=True,
    thorough=True,
)  # fmt: skip
