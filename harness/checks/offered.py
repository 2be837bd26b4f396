# SPDX-License-Identifier: Apache-2.0
"""Load in the guest: scripts that offer it while an observer is attached, and what they say of it.

Around each generator they read /proc/uptime, so that the stretch in which it was sending for certain
is known on the clock of the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.checks import timeline
from harness.checks.timeline import NS_PER_S, Sends, Span
from harness.errors import HarnessError

# $1: the driver; $2: options of a flood beside each of the others, "" for none; each other argument:
# options of a flood, "all" at their end for a thread on each CPU.
_FLOODS = r"""
driver=$1 beside=$2; shift 2
cpus=$(nproc)
echo "cpus $cpus"
for options; do
	case $options in *" all") options="${options% all} --threads $cpus --cpu 0-$((cpus - 1))" ;; esac
	[ "$beside" ] && "$driver" flood $beside >/tmp/beside &
	read -r up rest </proc/uptime; echo "before $up"
	"$driver" flood $options || exit
	read -r up rest </proc/uptime; echo "after $up"
	wait
	[ -z "$beside" ] || echo "beside $(cat /tmp/beside)"
done
"""
# $1: a label; $2: seconds; $3: queries a second; $4: queries under way at most. The kernel counts
# UDP datagrams for us, from before the first query until the server is gone.
_DNSPERF = r"""
label=$1 seconds=$2 rate=$3 outstanding=$4 i=0
while [ $i -lt 100 ]; do echo "q$i.$label.test A"; i=$((i + 1)); done >/tmp/queries
cd /proc/sys/net/core
read -r most <rmem_max; read -r usual <rmem_default
echo 8388608 >rmem_max; echo 8388608 >rmem_default
nsd -c /etc/nsd/nsd.conf || exit 21
echo $most >rmem_max; echo $usual >rmem_default; cd /
echo "cpus $(nproc)"
grep ^Udp: /proc/net/snmp
read -r up rest </proc/uptime; echo "before $up"
dnsperf -s 127.0.0.1 -d /tmp/queries -c 100 -T 10 -Q $rate -q $outstanding -l $seconds -t 2 || exit
read -r up rest </proc/uptime; echo "after $up"
kill $(pidof nsd)
i=0
while pidof nsd >/dev/null && [ $i -lt 500 ]; do usleep 10000; i=$((i + 1)); done
pidof nsd >/dev/null && exit 22
grep ^Udp: /proc/net/snmp
"""
# An observer that is kept from its buffer for a while must not lose what the limiter let through:
# 5 s of it at 1,000 events a second of 200 octets. (Losses are for the overflow check.)
LARGE_BUFFER = ("--ring-bytes", str(1 << 20))
_REACHED = 0.95  # of what was asked for: nothing to be said
_MARGIN_NS = 20_000_000  # threads of a generator that begin and end one after another


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One generator's part of a run."""

    name: str
    matched: int  # datagrams that the hook must have matched
    per_s: float  # of them
    span: Span | None  # when it was sending for certain
    sends: Sends | None = None  # None: a generator that does not say when it sent


def shortage(load: Load, asked_per_s: int) -> str:
    """A generator that was too slow, in words; "" when it reached what it was asked for."""
    if load.per_s >= _REACHED * asked_per_s:
        return ""
    return f"{load.name} reached {load.per_s:,.0f} of {asked_per_s:,}/s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """What the generators of one run say they sent."""

    cpus: int
    loads: tuple[Load, ...]
    beside: int = 0  # datagrams that the hook must have seen and found not to be DNS
    queries_per_s: float | None = None  # dnsperf's own figure

    @property
    def matched(self) -> int:
        return sum(load.matched for load in self.loads)


def floods(driver: str, options: Sequence[str], *, beside: str = "") -> list[str]:
    """A command that runs one flood of the send driver after the other, each with one beside it."""
    return ["/bin/sh", "-c", _FLOODS, "floods", driver, beside, *options]


def dnsperf(label: str, *, seconds: int, per_s: int) -> list[str]:
    """A command that asks a real name server, 100 clients in 10 threads.

    dnsperf is a closed loop: with `-q` queries under way it waits. It may have as many under way as
    it sends in 0.2 s, so that the clock sets the rate unless the emulated machine is slower. The
    server's buffer holds them all: the usual one (277 datagrams) loses most of what is under way
    on a slow machine, and then dnsperf waits out its timeout instead of sending.
    """
    return ["/bin/sh", "-c", _DNSPERF, "dnsperf", label, str(seconds), str(per_s),
            str(max(1000, per_s // 5))]  # fmt: skip


class _Flood(msgspec.Struct, frozen=True):
    attempts: int
    duration_us: int
    bin_ns: int = 0  # 0: a driver that does not say when it sent
    first_bin: int = 0
    bins: tuple[int, ...] = ()

    @property
    def sends(self) -> Sends | None:
        if self.bin_ns <= 0:
            return None
        return Sends(bin_ns=self.bin_ns, first_bin=self.first_bin, hits=self.bins)


def read_floods(output: str, names: Sequence[str], *, beside: bool = False) -> Offered:
    """What the floods wrote. Raises HarnessError for anything else."""
    words = _words(output)
    floods = [_flood(line) for line in output.splitlines() if line.startswith("{")]
    others = [
        _flood(line.removeprefix("beside "))
        for line in output.splitlines() if line.startswith("beside ")
    ]  # fmt: skip
    before, after = words.get("before", []), words.get("after", [])
    if len(others) != (len(names) if beside else 0):
        raise HarnessError(f"floods ran beside {len(others)} of {len(names)}")
    if not len(floods) == len(before) == len(after) == len(names):
        raise HarnessError(f"{len(names)} floods were asked for: '{output.strip()[-300:]}'")
    loads = [
        Load(
            name=name, matched=flood.attempts,
            per_s=flood.attempts * 1e6 / max(1, flood.duration_us),
            span=timeline.core(start, end, flood.duration_us * 1000, _MARGIN_NS),
            sends=flood.sends,
        )
        for name, flood, start, end in zip(names, floods, before, after, strict=True)
    ]  # fmt: skip
    return Offered(
        cpus=_cpus(words, output), loads=tuple(loads), beside=sum(one.attempts for one in others)
    )


def read_dnsperf(output: str, seconds: float, first_ns: int) -> Offered:
    """What the script around dnsperf wrote: it sent for `seconds`, then waited for the last answers.

    Both directions have port 53 on one side, so the hook must match every datagram that the guest
    sends meanwhile; the kernel counts them (/proc/net/snmp, Udp: OutDatagrams and, for those it
    had no room for, SndbufErrors). dnsperf's queries are among them, the rest is answers: at least
    as many as dnsperf received, at most one a query.

    first_ns: of the first event, when a query had gone out for certain. It began then, or at
    after - run time, or earlier, and sent at least until before + seconds.
    """
    words = _words(output)
    numbers = {
        name: float(rest.split()[0]) for name, _, rest in
        (line.strip().partition(":") for line in output.splitlines()) if _is_number(rest)
    }  # fmt: skip
    try:
        sent, completed = int(numbers["Queries sent"]), int(numbers["Queries completed"])
        run_ns = int(numbers["Run time (s)"] * NS_PER_S)
        (before,), (after,) = words["before"], words["after"]
        per_s = numbers["Queries per second"]
    except (KeyError, ValueError) as error:
        raise HarnessError(f"dnsperf said something else: '{output.strip()[-300:]}'") from error
    datagrams = _datagrams(output)
    if not sent + completed <= datagrams <= 2 * sent:
        raise HarnessError(
            f"the guest sent {datagrams} datagrams, dnsperf {sent} and got {completed} answers"
        )
    start = min(first_ns, after + timeline.UPTIME_NS - run_ns) + _MARGIN_NS
    end = before + int(seconds * NS_PER_S) - _MARGIN_NS
    span = Span(start_ns=start, end_ns=end) if end > start else None
    # Of the queries alone: when the answers left is not known, and the last ones are waited for.
    load = Load(name="dnsperf", matched=datagrams, per_s=sent / seconds, span=span)
    return Offered(cpus=_cpus(words, output), loads=(load,), queries_per_s=per_s)


def _words(output: str) -> dict[str, list[int]]:
    """Lines "cpus N", "before S", "after S": counts, and times in ns."""
    found: dict[str, list[int]] = {}
    for line in output.splitlines():
        name, _, value = line.partition(" ")
        if name in ("before", "after") and _is_number(value):
            found.setdefault(name, []).append(round(float(value) * 100) * (NS_PER_S // 100))
        elif name == "cpus" and value.isdigit():
            found.setdefault(name, []).append(int(value))
    return found


def _cpus(words: dict[str, list[int]], output: str) -> int:
    if len(words.get("cpus", [])) != 1:
        raise HarnessError(f"the guest did not say how many CPUs it has: '{output.strip()[:300]}'")
    return words["cpus"][0]


def _flood(line: str) -> _Flood:
    try:
        return msgspec.json.decode(line, type=_Flood)
    except msgspec.MsgspecError as error:
        raise HarnessError(f"the driver's line '{line[:200]}' is none: {error}") from error


def _datagrams(output: str) -> int:
    """UDP datagrams sent between the two copies of /proc/net/snmp's lines."""
    lines = [line.split()[1:] for line in output.splitlines() if line.startswith("Udp:")]
    try:
        names, first, again, last = lines
        before = dict(zip(names, map(int, first), strict=True))
        after = dict(zip(again, map(int, last), strict=True))
        return sum(after[name] - before[name] for name in ("OutDatagrams", "SndbufErrors"))
    except (ValueError, KeyError) as error:
        raise HarnessError("the guest's kernel did not count its datagrams twice") from error


def _is_number(text: str) -> bool:
    words = text.split()
    return bool(words) and words[0].replace(".", "", 1).isdigit()
