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
3. Throughput of a UDP flood with the subject over that without. The order is four floods without
   it, four with it, the load, four with it, four without: two blocks, AB and BA, in which a steady
   drift cancels. The interval is Student's t on
   the logarithms of eight ratios, 95 % if these are independent; floods of one block share what
   the machine did meanwhile, and then it is too narrow. No limit: a report.

**Programs are judged as compiled code.** A kernel before 5.6 interprets them unless it was built
with BPF_JIT_ALWAYS_ON, as those of most distributions are (Linux commit 81c22041d9f1, "bpf, x86,
arm64: Enable jit by default when not built as always-on"). Where the JIT is there and off, the check
measures twice, and the second time, with the JIT on, decides. Both are reported.

With KVM the guest has the machine alone and the share is compared as measured. **Under emulation no
time is the hardware's.** There the guest's clock counts executed instructions (`Where.COUNTED`), so
that all of the above is in instructions, the same whatever the host does meanwhile, and the share is
estimated: the cost of a datagram in empty kprobes *of the same guest*, (traps × e + body) / e, and
an empty kprobe is taken for the 47 to 108 ns (x86-64; to 137 ns elsewhere) that were published for
hardware, with a margin of 1.25 either way (`yardstick`). `pass` only when the high end of all that
is below the limit, `fail` only when the low end is above it, else `unknown`.

How far to trust it: a kprobe that counts in a hash map by process, time and command costs 331 ns on
the Xeon of the second publication and 229 ns on the M1 of the third. Counted (x86-64) it is 2.6
empty kprobes on 6.1 and 2.8 on 7.3, which estimates 97 to 351 ns and 105 to 378 ns: both lie
inside. It is one program on two machines, though.
What the estimate cannot see: an instruction that misses the cache or locks the bus counts as one, so
maps larger than a cache are not what it can judge. A second figure says what the share is if a CPU
does but one instruction a ns, which is little (270 to 360 in 47 to 108 ns are 2.5 to 8): where
that is below the limit, too, the estimate does not depend on what was published.
A correct subject fails less than once in 10,000 runs: each of the two low ends that make the share's
is safe to 1.6e-5 (`yardstick`).
"""

from __future__ import annotations

import contextlib
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.checks import observer, yardstick
from harness.checks.context import OBJCHECK, Check, Context, Need, Where
from harness.checks.observer import Events, Observed
from harness.checks.slices import LEGS, PAIRS, Slice, Told, throughput_ratio, told
from harness.checks.yardstick import SAMPLES, Interval, Unit
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_CALLS = 1000  # of a block of the yardstick
_SLICE_S = 0.04
_OTHER_SLICES = 3  # of UDP that is not DNS
_OTHER_COUNT = 400
_LEG_COUNT = {True: 400, False: 5000}  # counted or timed
_REACHED = 0.5  # of the offered load
_SLOW_PER_NS = 1.0  # instructions: 2.5 GHz at 0.4 a cycle
_TIMEOUT_S = 120.0
_NS = 1e9
_JIT = "/proc/sys/net/core/bpf_jit_enable"

# $1: the driver. Floods of both kinds, as fast as it goes.
_FLOODS = r"""
legs() {
	i=0
	while [ $i -lt $2 ]; do
		for kind in --non-dns ""; do
			echo "{\"type\":\"step\",\"what\":\"leg$kind\"}"
			"$1" flood --cpu 0 --count $3 $kind || exit 41
		done
		i=$((i + 1))
	done
}
"""
# Without the subject. $1: driver, $2: legs, $3: datagrams in each.
_WITHOUT = _FLOODS + 'legs "$1" $2 $3\n'
# With it: $4: slices, $5: their options, $6: slices of other UDP, $7: their datagrams.
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
echo 0 >$stats
legs "$1" $2 $3
"""
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything that decides."""

    unit: Unit
    load: tuple[Slice, ...]  # the offered load, SAMPLES of it
    other: tuple[Slice, ...]  # UDP that is not DNS
    ratio: Interval  # throughput with over without, of DNS
    other_ratio: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What it is judged by."""

    offered_per_s: int
    limit: float  # share of the machine
    cpus: int
    counted: bool  # instructions, under emulation; else ns
    machine: str  # uname -m


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
        counted=context.counted,
        machine=context.features.uname.machine,
    )  # fmt: skip
    interpreted: Measured | None = None
    kept: tuple[Evidence, ...] = ()
    if context.features.jit_enable == 0:
        found = _measured(context, terms, name="overhead-interpreted")
        if isinstance(found, CheckResult):
            return found
        interpreted, kept = found
    with contextlib.nullcontext() if interpreted is None else _compiling(context):
        found = _measured(context, terms, name="overhead")
    if isinstance(found, CheckResult):
        return found
    measured, evidence = found
    return judged(measured, terms, (*evidence, *kept), interpreted=interpreted)


@contextlib.contextmanager
def _compiling(context: Context) -> Iterator[None]:
    """The JIT is on, for programs that are loaded meanwhile."""
    switch = ["/bin/sh", "-c", 'echo "$1" >"$2"', "jit"]
    _run(context, [*switch, "1", _JIT])
    try:
        yield
    finally:
        _run(context, [*switch, "0", _JIT])


def _measured(
    context: Context, terms: Terms, *, name: str
) -> tuple[Measured, tuple[Evidence, ...]] | CheckResult:
    """Everything, once; the verdict on an observer that would not run."""
    base = frozenset(yardstick.read_runs(yardstick.lines_of(_run(context, [OBJCHECK, "runs"]))))
    said = _run(context, yardstick.kprobe_argv(OBJCHECK, _CALLS))
    before = _without(context)
    seen = _observed(context, terms, name)
    if observer.wrong_with(seen):
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "load")
    without = [before, _without(context)]
    evidence = (
        *seen.evidence,
        context.keep("load", f"{name}-load.jsonl", seen.command_output.encode()),
        context.keep("empty kprobe", f"{name}-kprobe.jsonl", said.encode()),
    )
    measured = gathered(yardstick.read_unit(said), without, told(seen.command_output, base))
    return measured, evidence


def _run(context: Context, argv: Sequence[str]) -> str:
    answer = context.guest.run(argv, timeout_s=_TIMEOUT_S)
    if answer.status != 0:
        raise HarnessError(
            f"{argv[0]} ended with status {answer.status}: {answer.error_text.strip()[-300:]}"
        )
    return answer.text


def _without(context: Context) -> Told:
    words = [context.driver, str(LEGS), str(_LEG_COUNT[context.counted])]
    return told(_run(context, ["/bin/sh", "-c", _WITHOUT, "overhead", *words]), frozenset())


def _observed(context: Context, terms: Terms, name: str) -> Observed:
    rate = terms.offered_per_s
    load = ["--rate", str(rate), "--count", str(max(1, round(rate * _SLICE_S)))]
    words = [
        context.driver, str(LEGS), str(_LEG_COUNT[terms.counted]), str(SAMPLES), shlex.join(load),
        str(_OTHER_SLICES), str(_OTHER_COUNT),
    ]  # fmt: skip
    return observer.observe(
        context, ["/bin/sh", "-c", _WITH, "overhead", *words], name=name,
        settings={}, events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip


def gathered(unit: Unit, without: Sequence[Told], within: Told) -> Measured:
    """All of a guest's measurements; floods without and with are paired in order of time."""
    return Measured(
        unit=unit,
        load=within.load,
        other=within.other,
        ratio=throughput_ratio([one for part in without for one in part.legs], within.legs),
        other_ratio=throughput_ratio(
            [one for part in without for one in part.other_legs], within.other_legs
        ),
    )


def share_of(measured: Measured, terms: Terms) -> Interval:
    """Of the machine, at the offered load: as measured, or on hardware by the yardstick."""
    unit, body, traps = measured.unit, _body(measured), _traps(measured.load)
    if terms.counted:
        ns = yardstick.on_hardware(unit.count_in(body, traps), terms.machine)
    else:
        ns = Interval(
            low=body.low + traps * unit.cost.low,
            mid=body.mid + traps * unit.cost.mid,
            high=body.high + traps * unit.cost.high,
        )
    share = ns.times(terms.offered_per_s / _NS / terms.cpus)
    return replace(share, low=share.low * min(1.0, _reached(measured) / terms.offered_per_s))


def _body(measured: Measured) -> Interval:
    """Of the programs, for one DNS datagram."""
    return yardstick.interval([one.body(measured.unit.clock) for one in measured.load])


def _reached(measured: Measured) -> float:
    """Datagrams a second, of the median slice."""
    return statistics.median(one.per_s for one in measured.load)


def judged(
    measured: Measured, terms: Terms, evidence: tuple[Evidence, ...] = (), *,
    interpreted: Measured | None = None,
) -> CheckResult:  # fmt: skip
    """The verdict on everything that was measured. interpreted: with the JIT off, for comparison."""
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
    if terms.counted:
        words = f"estimated from emulation: {words}"
    if interpreted is not None:
        more = share_of(interpreted, terms)
        words += (
            "; compiled, as with net.core.bpf_jit_enable=1: interpreted, this kernel's default, "
            f"{_percent(more.low)} to {_percent(more.high)}"
        )
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
        figures=figures(measured, terms, share, interpreted),
        evidence=(Evidence(title="how", text=_account(measured, terms)), *evidence),
    )  # fmt: skip


def _cannot_tell(measured: Measured) -> str:
    silent = sum(1 for one in (*measured.load, *measured.other) if not one.runs)
    if silent:
        return f"no program of the subject was counted in {silent} slices of the load"
    unit = measured.unit.cost
    if unit.low <= 0:
        return (
            f"an empty kprobe costs {unit.low:,.0f} to {unit.high:,.0f} here: the machine is too "
            "busy to measure by it"
        )
    return ""


def figures(
    measured: Measured, terms: Terms, share: Interval, interpreted: Measured | None = None
) -> tuple[Figure, ...]:
    """The one that is compared first: the high end, the low one of what fails."""
    unit = measured.unit
    decides = share.low if share.low > terms.limit else share.high
    said = "CPU share (estimated)" if terms.counted else "CPU share"
    cost, other = (_cost(slices, unit) for slices in (measured.load, measured.other))

    def figure(name: str, value: float, unit: str = "", limit: float | None = None) -> Figure:
        return Figure(
            name=name, value=value, unit=unit or _unit(terms), emulated=terms.counted, limit=limit
        )

    found = [
        figure(said, 100 * decides, "%", 100 * terms.limit),
        figure("cost of a DNS datagram", cost),
        figure("cost of another UDP send", other),
        figure("empty kprobe", unit.cost.mid),
        figure("DNS datagram, empty kprobes", cost / unit.cost.mid, "1"),
        figure("UDP send, empty kprobes", other / unit.cost.mid, "1"),
        figure("DNS throughput, with/without", measured.ratio.mid, "1"),
        figure("UDP throughput, with/without", measured.other_ratio.mid, "1"),
    ]  # fmt: skip
    if terms.counted:
        slow = cost / _SLOW_PER_NS * terms.offered_per_s / _NS / terms.cpus
        found.append(figure("CPU share at one instruction a ns", 100 * slow, "%"))
    if interpreted is not None:
        found.append(figure("interpreted DNS datagram", _cost(interpreted.load, interpreted.unit)))
    return tuple(found)


def _unit(terms: Terms) -> str:
    return "instructions" if terms.counted else "ns"


def _traps(slices: Sequence[Slice]) -> float:
    """Runs for each datagram: a v4-mapped destination enters two hooks."""
    return sum(one.runs for one in slices) / sum(one.attempts for one in slices)


def _cost(slices: Sequence[Slice], unit: Unit) -> float:
    """Trap and body of the median slice, for one datagram."""
    body = statistics.median(one.body(unit.clock) for one in slices)
    return body + _traps(slices) * unit.cost.mid


def _account(measured: Measured, terms: Terms) -> str:
    unit, body, said = measured.unit, _body(measured), _unit(terms)
    units = unit.count_in(body, _traps(measured.load))
    slices = ", ".join(f"{one.body(unit.clock):,.0f}" for one in measured.load)
    lines = [
        f"an empty kprobe: {_within(unit.cost)} {said} a call (median of {SAMPLES} differences of "
        f"median calls), {unit.clock:,.0f} of clock in each run",
        f"a program's body: {_within(body)} {said} a DNS datagram (statistics, clock taken off; "
        f"slices: {slices}); the trap is not in it and is added, as an empty kprobe",
        f"with the trap: {units.low:.1f} to {units.high:.1f} empty kprobes",
        f"reached: {_reached(measured):,.0f} a second",
        f"throughput of a flood with the subject, over without: DNS {_ratio(measured.ratio)}, "
        f"other UDP {_ratio(measured.other_ratio)} ({PAIRS} pairs in two blocks, AB and BA; "
        "t-interval of the logarithms, 95 % if the pairs are independent)",
    ]
    if terms.counted:
        low, high = yardstick.published_ns(terms.machine)
        lines.append(
            f"on hardware an empty kprobe costs {low:g} to {high:g} ns (published), taken with a "
            f"margin of {yardstick.MARGIN:g} either way: an estimate"
        )
    return "\n".join(lines)


def _within(one: Interval) -> str:
    return f"{one.mid:,.0f} ({one.low:,.0f} to {one.high:,.0f})"


def _ratio(one: Interval) -> str:
    return f"{one.mid:.3f} ({one.low:.3f} to {one.high:.3f})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


CHECK = Check(
    name="overhead", question="What share of the machine does it take at the offered load?",
    ask=_ask, estimate_s=7.0, needs=(Need.LOADER, Need.DRIVER, Need.TRAFFIC),
    where=Where.COUNTED, thorough=True,
)  # fmt: skip
