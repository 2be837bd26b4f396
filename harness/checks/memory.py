# SPDX-License-Identifier: Apache-2.0
"""Does the observer stay below its memory limit ([limits] memory_mib)?

With a loader: the loader's resident memory and that of the maps it made, read while it is attached
with its usual buffers, and after 20,000 questions have gone through them, so that every page of
them is touched. The pages of a ring that the loader has mapped count in both, the ring's data
twice in the first: the sum is never too low. Without a loader: the maps of the object, held
attached by objcheck. Maps are told by their ids: ours are those that were not there before.

Whether the observer accounts for its events is asked elsewhere; here they must have come through: a
reading of an idle observer is `unknown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness import objcheck
from harness.checks import footprint, observer
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.checks.observer import Events
from harness.errors import HarnessError
from harness.objcheck import HeldMap
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_TIMEOUT_S = 300.0
_EVENTS = 20_000  # a ring of 262,144 octets is full after 1,100
_EVENTS_MIN = 1000  # are received even when the loader had no CPU before all had been sent
_EXPIRE_S = 120
_MIB = 1 << 20
# $1 to $3: driver or "", loader, objcheck; $4: questions.
_OBSERVED = (
    "driver=$1 loader=$2 objcheck=$3\n"
    + footprint.SHELL
    + r"""
[ -z "$driver" ] || "$driver" flood --count $4 --unroutable --threads 2 --cpu 0,1 || exit 5
sample $OBSERVER_PID
"$objcheck" maps
"""
)
# $1: objcheck; the rest: how it holds the object. It writes its pid when it has attached.
_HELD = r"""
objcheck=$1; shift
rm -f /tmp/memory.ready
"$@" >/tmp/memory.held &
pid=$!
while [ ! -s /tmp/memory.ready ] && kill -0 $pid 2>/dev/null; do usleep 20000; done
if [ -s /tmp/memory.ready ]; then "$objcheck" maps; else cat /tmp/memory.held; fi
kill $pid 2>/dev/null
wait $pid
rm -f /tmp/memory.ready /tmp/memory.held
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Memory of an observer, in bytes."""

    resident: int | None  # of the loader; None: there is none
    maps: tuple[tuple[HeldMap, int], ...]  # each with what it takes, the dearest first

    @property
    def total(self) -> int:
        return (self.resident or 0) + sum(size for _, size in self.maps)


def _ask(context: Context) -> CheckResult:
    limit_mib = context.subject.manifest.limits.memory_mib
    if limit_mib is None:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the subject's manifest sets no limit ([limits] memory_mib)",
        )  # fmt: skip
    known = context.guest.run([OBJCHECK, *objcheck.maps_argv()[1:]], timeout_s=_TIMEOUT_S)
    before = objcheck.parse_maps(known.text)
    if context.loader:
        return _of_loader(context, before, limit_mib)
    return _of_object(context, before, limit_mib)


def _of_loader(context: Context, before: Sequence[HeldMap], limit_mib: float) -> CheckResult:
    seen = observer.observe(
        context,
        ["/bin/sh", "-c", _OBSERVED, "memory", context.driver, context.loader, OBJCHECK,
         str(_EVENTS)],
        name="memory", events=Events.NONE, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    if not seen.lived:
        return observer.failed(CHECK.name, seen)
    observer.require_command(seen, "send driver")
    kept = context.keep("readings", "memory.txt", seen.command_output.encode())
    read, _, maps = seen.command_output.rpartition("\n@\n")
    samples = footprint.read_samples(f"{read}\n@\n")
    if not samples or samples[-1].resident is None:
        raise HarnessError("the loader's resident memory could not be read in the guest")
    taken = account(before, objcheck.parse_maps(maps), context.features.cpus, samples[-1].resident)
    received = seen.stats.received if seen.stats else 0
    return judged(taken, limit_mib, (kept, *seen.evidence), idle=received < _EVENTS_MIN)


def _of_object(context: Context, before: Sequence[HeldMap], limit_mib: float) -> CheckResult:
    hold = objcheck.attach_argv(
        context.object, context.options(), hold=True, ready_file="/tmp/memory.ready",
        expire_s=_EXPIRE_S,
    )  # fmt: skip
    answer = context.guest.run(
        ["/bin/sh", "-c", _HELD, "memory", OBJCHECK, OBJCHECK, *hold[1:]], timeout_s=_TIMEOUT_S
    )
    kept = context.keep("objcheck's answer", "memory.jsonl", answer.stdout)
    if '"type":"together"' in answer.text:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="what does not load takes no memory", evidence=(kept,),
        )  # fmt: skip
    taken = account(before, objcheck.parse_maps(answer.text), context.features.cpus, None)
    return judged(taken, limit_mib, (kept,))


def account(
    before: Sequence[HeldMap], during: Sequence[HeldMap], cpus: int, resident: int | None
) -> Taken:
    """What the maps that came since `before` take; cpus: possible ones."""
    known = {held.id for held in before}
    ours = [(h, footprint.map_bytes(h, cpus)) for h in during if h.id not in known]
    return Taken(resident=resident, maps=tuple(sorted(ours, key=lambda each: -each[1])))


def judged(
    taken: Taken, limit_mib: float, evidence: tuple[Evidence, ...], *, idle: bool = False
) -> CheckResult:
    """The verdict on what was taken; idle: next to no events had come to the loader."""
    lines = [] if taken.resident is None else [f"{taken.resident:12,}  the loader, resident"]
    lines += [f"{size:12,}  {held.of} {held.name}" for held, size in taken.maps]
    table = Evidence(title="bytes", text="\n".join(lines) + "\n")
    figures = _figures(taken, limit_mib)
    if not taken.maps and taken.resident is None:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the object has no maps, and no loader", evidence=evidence,
        )  # fmt: skip
    if taken.total > limit_mib * _MIB:
        dear = ", ".join(f"{held.name} {size / _MIB:.1f}" for held, size in taken.maps[:3])
        loader = "" if taken.resident is None else f"loader {taken.resident / _MIB:.1f}, "
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.LIMIT_EXCEEDED,
            summary=f"{taken.total / _MIB:.1f} MiB, the manifest allows {limit_mib:g}: "
            f"{loader}maps: {dear}",
            remedy="make the maps smaller, or allow more in the manifest ([limits] memory_mib)",
            figures=figures, evidence=(table, *evidence),
        )  # fmt: skip
    if idle:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.BEHAVIOUR,
            summary=f"read when fewer than {_EVENTS_MIN:,} of {_EVENTS:,} events had come to the "
            "loader: an observer at work may take more",
            remedy="see what the other checks say of its events",
            figures=figures, evidence=(table, *evidence),
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=figures, evidence=(table, *evidence)
    )


def _figures(taken: Taken, limit_mib: float) -> tuple[Figure, ...]:
    maps = sum(size for _, size in taken.maps)
    found = [
        Figure(name="memory", value=taken.total / _MIB, unit="MiB", limit=limit_mib),
        Figure(name="maps", value=maps / _MIB, unit="MiB"),
    ]
    if taken.resident is not None:
        found.append(Figure(name="loader", value=taken.resident / _MIB, unit="MiB"))
    return tuple(found)


CHECK = Check(
    name="memory", question="Do loader and maps stay below the memory limit?",
    ask=_ask, estimate_s=1.5, needs=(Need.OBJECT,), thorough=True,
)  # fmt: skip
