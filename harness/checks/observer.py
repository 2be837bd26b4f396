# SPDX-License-Identifier: Apache-2.0
"""Run the subject's observer around a command in the guest, and read what it wrote.

The observer writes JSON lines (bpf/README.md): "ready" once, "event" for each datagram, "stats"
at its end after SIGTERM.
"""

from __future__ import annotations

import io
import shlex
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from harness.checks.context import GUEST_BTF, Context
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

Scalar = str | int | float | bool | None
Event = Mapping[str, Scalar]  # an event's line, "type" left out

# Every hit of a hook ends in exactly one of them.
CLASSES = (
    "v4_mapped", "other_port", "not_udp", "corked", "kernel_pages", "gso_multi", "fault",
    "segments", "not_dns", "malformed", "sampled_out", "rate_limited", "ring_full", "submitted",
)  # fmt: skip
# Each event is asked for: neither sampling nor the rate limit may drop it.
EVERYTHING = {"sample_n": 1, "rate_limit": 0}
_TIMEOUT_S = 120.0
_GUEST_DIR = "/tmp/observed"
LINES = f"{_GUEST_DIR}/observer.jsonl"  # as they are written, for the command
_KILLED = 128 + 9
_GRACE_S = 30  # from SIGTERM to SIGKILL; detaching takes 0.1 s on an idle machine
_MOST_UNPACKED = 256 << 20  # bytes of what a guest packed; the largest, of sampling, has 1.4 MB
# An event's line, but only with the members named in `keep`. Where they stand is learnt from the
# first line; a line that differs stays whole. Split at quotation marks: of a key in $i the value
# is in $(i + 1), or in $(i + 2) when it is text. 0.6 s for 12,000 lines under TCG; sed takes 10.
_MEMBERS = r"""
BEGIN { count = split(keep, name, " ") }
!/"type":"event"/ { print; next }
!known {
	for (i = 1; i <= NF; i++)
		if (!($i in at)) at[$i] = i
	known = 1
}
{
	line = "{\"type\":\"event\""
	for (k = 1; k <= count; k++) {
		i = at[name[k]]
		value = $(i + 1)
		if ($i != name[k] || value !~ /^:/) { line = ""; break }
		if (value == ":")
			value = ":\"" $(i + 2) "\""
		else
			value = substr(value, 1, length(value) - 1)
		if (value ~ /\\/) { line = ""; break }
		line = line ",\"" name[k] "\"" value
	}
	print line == "" ? $0 : line "}"
}
"""
# $1: a directory; $2: seconds of grace; $3: the observer's command, quoted; $4: what keeps its
# lines, quoted; the rest: the command to run meanwhile, with the observer's pid in OBSERVER_PID.
# The pipe tells of "ready" without polling. Whatever happens, the observer is told to end, also
# when it is stopped. One that is killed while its lines still grow leaves observer.writing behind.
_SCRIPT = r"""
d=$1 grace=$2 observer=$3 keep=$4; shift 4
rm -rf "$d"; mkdir "$d"; mkfifo "$d/pipe" || exit 3
sh -c "exec $observer" >"$d/pipe" 2>"$d/observer.err" &
pid=$!
exec 3<"$d/pipe"
IFS= read -r line <&3
printf '%s\n' "$line" >"$d/observer.jsonl"
sh -c "exec $keep" <&3 >>"$d/observer.jsonl" &
reader=$!
case $line in
*'"ready"'*)
	OBSERVER_PID=$pid "$@" >"$d/command.out" 2>"$d/command.err" 3<&- </dev/null
	echo $? >"$d/command.status" ;;
esac
kill -TERM $pid 2>/dev/null
kill -CONT $pid 2>/dev/null
sh -c '
	sleep $(($2 / 2))
	size=$(wc -c <"$3")
	sleep $(($2 - $2 / 2))
	[ $(wc -c <"$3") -eq $size ] || : >"$4"
	kill -KILL $1
' dog $pid "$grace" "$d/observer.jsonl" "$d/observer.writing" >/dev/null 2>&1 3<&- &
dog=$!
wait $pid
echo $? >"$d/observer.status"
wait $reader
kill $dog
rm "$d/pipe"
tar -C "$d" -cf - . | gzip -c
rm -rf "$d"
"""


class Events(StrEnum):
    """What the observer writes of each event; it reads, checks and counts every one."""

    FULL = "full"
    BRIEF = "brief"  # ts_ns alone
    NONE = "none"


class ProgramInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A program's own account."""

    name: str
    run_cnt: int = 0
    run_time_ns: int = 0  # 0 unless the kernel was told to measure
    recursion_misses: int = 0


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The observer is attached."""

    buffer: str  # "ringbuf" or "perf"
    limiter: str = ""  # "xadd" or "gcra"
    programs: tuple[str, ...] = ()
    sample_n: int = 1
    sample_threshold: int = 0
    rate_limit: int = 0
    rate_burst: int = 0
    max_events_any_second: int | None = None  # as it announces it; None: no limit
    ring_bytes: int = 0


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Totals since the observer was loaded; what user space counted is in the last line only."""

    hits: int
    v4_mapped: int
    other_port: int
    not_udp: int
    corked: int
    kernel_pages: int
    gso_multi: int
    fault: int
    segments: int
    not_dns: int
    malformed: int
    sampled_out: int
    rate_limited: int
    ring_full: int
    submitted: int
    received: int = 0
    perf_lost: int = 0
    short_records: int = 0
    program_info: tuple[ProgramInfo, ...] = ()

    def classes(self) -> dict[str, int]:
        """Hits by what became of them."""
        return {name: int(getattr(self, name)) for name in CLASSES}

    @property
    def matched(self) -> int:
        """Datagrams that came as far as the sampling: each is an event, or counted as none."""
        return self.sampled_out + self.rate_limited + self.ring_full + self.submitted


class _Kind(msgspec.Struct, frozen=True):
    type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What the observer said around a command, and how both ended."""

    ready: Ready | None  # None: it never attached, the command was not run
    events: tuple[Event, ...]
    stats: Stats | None
    unreadable: tuple[str, ...]  # lines that are not what bpf/README.md says
    observer_status: int
    observer_error: str
    command_status: int
    command_output: str
    command_error: str
    evidence: tuple[Evidence, ...]
    asked: Events = Events.FULL
    cut_off: bool = False  # it was killed in the midst of writing: it hung nowhere

    @property
    def lived(self) -> bool:
        """It attached and was there until it was told to end: the command had an observer."""
        return self.ready is not None and self.observer_status == 0


def observe(
    context: Context,
    command: Sequence[str],
    *,
    name: str,
    settings: Mapping[str, int] = EVERYTHING,
    options: Sequence[str] = (),
    members: Sequence[str] = (),
    events: Events = Events.FULL,
    grace_s: int | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Observed:
    """Run `command` in the guest while the subject's observer is attached.

    The observer's lines are kept as `name`.jsonl; settings go over the manifest's rodata. members:
    of many events, only these leave the guest; () for all. grace_s: what the observer may take to
    end, for one that has many events to write yet.
    """
    argv = [context.loader, "run", "--object", context.object, *options]
    if events is not Events.FULL:  # a loader that writes no other needs no such option
        argv += ["--events", events]
    if context.detached_btf:
        argv += ["--btf", GUEST_BTF]
    words = context.subject.rodata_words + [f"{key}={value}" for key, value in settings.items()]
    for word in words:
        argv += ["--set", word]
    keep = ["awk", "-F", '"', "-v", f"keep={' '.join(members)}", _MEMBERS] if members else ["cat"]
    answer = context.guest.run(
        ["/bin/sh", "-c", _SCRIPT, "observe", _GUEST_DIR, str(grace_s or _GRACE_S), shlex.join(argv),
         shlex.join(keep), *command],
        timeout_s=timeout_s,
    )  # fmt: skip
    if answer.status != 0:
        raise HarnessError(
            f"the guest could not run the observer: status {answer.status}, "
            f"{answer.error_text.strip()[-300:]}"
        )
    files = _unpacked(answer.stdout)
    lines = files.get("observer.jsonl", b"")
    ready, written, stats, unreadable = read_lines(lines)
    error = _text(files, "observer.err")
    evidence = [context.keep("observer's lines", f"{name}.jsonl", lines)]
    if error.strip():
        evidence.append(Evidence(title="observer's errors", text=error[-2000:]))
    return Observed(
        ready=ready, events=written, stats=stats, unreadable=unreadable, asked=events,
        observer_status=_status(files, "observer.status"), observer_error=error,
        command_status=_status(files, "command.status"),
        command_output=_text(files, "command.out"), command_error=_text(files, "command.err"),
        evidence=tuple(evidence), cut_off="observer.writing" in files,
    )  # fmt: skip


def read_lines(
    content: bytes,
) -> tuple[Ready | None, tuple[Event, ...], Stats | None, tuple[str, ...]]:
    """Ready, events, the last stats and the lines that are none of these."""
    ready: Ready | None = None
    stats: Stats | None = None
    events: list[Event] = []
    unreadable: list[str] = []
    for line in content.splitlines():
        if not line.strip():
            continue
        try:
            kind = msgspec.json.decode(line, type=_Kind).type
            if kind == "event":
                fields = msgspec.json.decode(line, type=dict[str, Scalar])
                events.append({key: value for key, value in fields.items() if key != "type"})
            elif kind == "ready":
                ready = msgspec.json.decode(line, type=Ready)
            elif kind == "stats":
                stats = msgspec.json.decode(line, type=Stats)
            else:
                unreadable.append(line.decode(errors="replace")[:200])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            unreadable.append(f"{line.decode(errors='replace')[:200]} ({error})")
    return ready, tuple(events), stats, tuple(unreadable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """Why the observer gave up, in its own words (bpf/README.md)."""

    cause: str
    message: str
    hint: str = ""


# What the observer calls a cause is one of ours, but for what only it knows.
_CAUSES = {str(cause): cause for cause in Cause} | {"privilege": Cause.INFRA}


_SHOWN = 3  # differences in a summary; a hundred are evidence


def differs(
    check: str, wrong: Sequence[str], *, remedy: str, figures: Sequence[Figure] = (),
    evidence: Sequence[Evidence] = (),
) -> CheckResult:  # fmt: skip
    """The verdict of an observer that did not do what it must: the first differences, all kept."""
    more = f"\nand {len(wrong) - _SHOWN} more differences" if len(wrong) > _SHOWN else ""
    return CheckResult(
        check=check, verdict=Verdict.FAIL, cause=Cause.BEHAVIOUR,
        summary="\n".join(wrong[:_SHOWN]) + more, remedy=remedy, figures=tuple(figures),
        evidence=(Evidence(title="what is wrong", text="\n".join(wrong[:100])), *evidence),
    )  # fmt: skip


def wrong_with(seen: Observed) -> str:
    """How the observer did not attach, end, or account as it must; "" when it did."""
    if seen.ready is None:
        told = _told(seen.observer_error)
        if told is not None:
            return f"the observer did not start (status {seen.observer_status}): {told.message}"
        said = seen.observer_error.strip() or " ".join(seen.unreadable) or "nothing"
        return f"the observer did not start (status {seen.observer_status}): {said[-300:]}"
    if seen.cut_off and seen.observer_status == _KILLED:
        return "the observer was killed while it still wrote events: the guest is too slow to tell"
    if seen.observer_status != 0:
        how = "had to be killed after SIGTERM" if seen.observer_status == _KILLED else "ended"
        said = seen.observer_error.strip()[-300:] or "it said nothing"
        return f"the observer {how} with status {seen.observer_status}: {said}"
    if seen.unreadable:
        return f"a line that is none of the observer's: {seen.unreadable[0]}"
    if seen.stats is None:
        return "the observer wrote no totals at its end"
    return "; ".join(unaccounted(seen.stats, len(seen.events), seen.asked))


def failed(check: str, seen: Observed) -> CheckResult:
    """The verdict of an observer of which `wrong_with` has something to say.

    One that a starved guest did not let write all its events in time is `unknown`: nothing is known
    against it.
    """
    if seen.cut_off and seen.observer_status == _KILLED:
        return CheckResult(
            check=check, verdict=Verdict.UNKNOWN, cause=Cause.INFRA, summary=wrong_with(seen),
            remedy="ask again on a machine with less to do, or with KVM", evidence=seen.evidence,
        )  # fmt: skip
    told = _told(seen.observer_error) if seen.ready is None else None
    cause = _CAUSES.get(told.cause, Cause.BEHAVIOUR) if told else Cause.BEHAVIOUR
    return CheckResult(
        check=check, verdict=Verdict.UNKNOWN if cause is Cause.INFRA else Verdict.FAIL, cause=cause,
        summary=wrong_with(seen),
        remedy=(told.hint if told else "") or "run it by hand: inv shell --kernel NAME",
        evidence=seen.evidence,
    )  # fmt: skip


def _told(errors: str) -> Told | None:
    """The last reason that the observer gave as JSON, None when it gave none."""
    for line in reversed(errors.splitlines()):
        if line.startswith("{"):
            try:
                return msgspec.json.decode(line, type=Told)
            except msgspec.MsgspecError:
                continue
    return None


def require_command(seen: Observed, name: str) -> None:
    """Raises HarnessError when the command, ours, did not do its part."""
    if seen.command_status != 0:
        raise HarnessError(
            f"the {name} ended with status {seen.command_status}: "
            f"{seen.command_error.strip()[-300:] or 'it said nothing'}"
        )


def unaccounted(stats: Stats, events: int, asked: Events = Events.FULL) -> list[str]:
    """Where the conservation law is broken, in words.

    hits = sum of the classes; submitted = received = lines written, none if none were asked for.
    What the kernel reports as lost of a perf buffer is what the program counted as ring_full
    already, told later.
    """
    broken: list[str] = []
    total = sum(stats.classes().values())
    if stats.hits != total:
        broken.append(f"{stats.hits} hits, but {total} in all classes")
    if stats.submitted != stats.received:
        broken.append(f"{stats.submitted} events submitted, but {stats.received} received")
    if stats.perf_lost > stats.ring_full:
        broken.append(f"{stats.perf_lost} events reported lost, but {stats.ring_full} counted so")
    if stats.short_records:
        broken.append(f"{stats.short_records} records shorter than they say")
    whole = stats.received - stats.short_records
    if asked is Events.NONE and events:
        broken.append(f"{events} events written, but none were asked for")
    elif asked is not Events.NONE and whole != events:
        broken.append(f"{stats.received} events received, but {events} written")
    for program in stats.program_info:
        if program.recursion_misses:
            broken.append(f"{program.name} was not run {program.recursion_misses} times")
    return broken


def _unpacked(packed: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        content = unpacker.decompress(packed, _MOST_UNPACKED)
        if unpacker.unconsumed_tail:
            raise HarnessError(f"what the guest packed is over {_MOST_UNPACKED >> 20} MiB")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    found[member.name.removeprefix("./")] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise HarnessError(f"what the guest packed cannot be read: {error}") from error
    return found


def _text(files: Mapping[str, bytes], name: str) -> str:
    return files.get(name, b"").decode(errors="replace")


def _status(files: Mapping[str, bytes], name: str) -> int:
    """Of a command that was not run: -1."""
    try:
        return int(files.get(name, b"-1"))
    except ValueError as error:
        raise HarnessError(f"'{name}' holds no exit status: {files[name]!r:.80}") from error
