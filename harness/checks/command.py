# SPDX-License-Identifier: Apache-2.0
"""Do the subject's own commands succeed on this kernel, each in its time?

A command runs as root in the directory with the subject's files, as bash reads it, and passes with
status 0. Its output is kept, up to a bound; at its deadline its process group is killed. With
`attached` it runs while the object is attached: by the subject's own loader if it brings one
(`LOADER run`, as the functional checks use it), otherwise by objcheck.

A command that cannot be started says nothing of the kernel: `unknown`, never `fail`.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import closure, objcheck, session
from harness.checks import observer
from harness.checks.context import GUEST_BTF, OBJCHECK, SUBJECT_DIR, Check, Context, Need
from harness.errors import HarnessError
from harness.guest import GuestLostError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict, worst
from harness.subject import Command

# Of both streams together; a megabyte that does not compress takes 10 s out of an emulated guest.
OUTPUT_LIMIT_BYTES = 1 << 20
_EXCERPT_BYTES = 2000
_OUTSIDE_S = 120.0  # beside the command: loading, attaching, packing the output
_ATTACH_S = 60  # how long objcheck may hold after the command's deadline
_DIR = "/tmp/command"
# What km-command runs comes on our stdin. $1: its time in ms; $2: bytes of output to keep.
_RUN = rf"""
mkdir -p /.kernel-matrix
read before _ </proc/uptime
km-command $1 $2 >{_DIR}/answer
read after _ </proc/uptime
echo $before $after >{_DIR}/times
"""
_PLAIN = rf"rm -rf {_DIR}; mkdir -p {_DIR} {SUBJECT_DIR} /.kernel-matrix; cat >/.kernel-matrix/command || exit 3"
# $3: objcheck's words, quoted. It writes its pid to the pipe once it holds; when it ends before
# that, the pipe ends. Whatever happens, it is told to end.
_HELD = rf"""
mkfifo {_DIR}/ready || exit 3
sh -c "exec $3" 9>{_DIR}/ready >{_DIR}/attach 2>{_DIR}/attach.err &
holder=$!
exec 8<{_DIR}/ready
if read -r pid <&8; then
	exec 8<&-
{{run}}
fi
kill -TERM $holder 2>/dev/null
wait $holder
echo $? >{_DIR}/attach.status
"""
_NOT_STARTED = re.compile(
    r"not found|No such file or directory|Permission denied|Exec format error|cannot execute"
    r"|bad interpreter|Is a directory"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended."""

    status: int  # as a shell gives it: 128 + signal when one killed it
    timed_out: bool
    stdout: bytes
    stderr: bytes
    lost_bytes: int  # written past OUTPUT_LIMIT_BYTES
    duration_s: float  # in the guest, to 10 ms

    @property
    def last_words(self) -> str:
        """The last line that it wrote, errors first."""
        for stream in (self.stderr, self.stdout):
            lines = stream.decode(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()[-300:]
        return "it wrote nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One command's verdict; `ended` is None when it was not run."""

    command: Command
    verdict: Verdict
    cause: Cause = Cause.NONE
    summary: str = ""
    remedy: str = ""
    ended: Ended | None = None
    evidence: tuple[Evidence, ...] = ()


def _ask(context: Context) -> CheckResult:
    return together([_asked(context, one) for one in context.subject.manifest.commands])


def together(judged: Sequence[Judged]) -> CheckResult:
    """One answer for all commands: the worst verdict, a line for each that did not pass."""
    passed = [one for one in judged if one.verdict is Verdict.PASS]
    figures = [Figure(name="commands passed", value=float(len(passed)), unit="1")]
    for one in judged:
        if one.ended is not None:
            figures += [
                Figure(name=f"{one.command.name}: status", value=float(one.ended.status), unit="1"),
                Figure(name=f"{one.command.name}: time", value=one.ended.duration_s, unit="s"),
            ]
    verdict = worst(one.verdict for one in judged)
    deciding = next(one for one in judged if one.verdict is verdict)
    lines = [f"{one.command.name}: {one.summary}" for one in judged if one.summary]
    remedies = [f"{one.command.name}: {one.remedy}" for one in judged if one.remedy]
    return CheckResult(
        check=CHECK.name, verdict=verdict, cause=deciding.cause, summary="\n".join(lines),
        remedy="; ".join(remedies), figures=tuple(figures),
        evidence=tuple(evidence for one in judged for evidence in one.evidence),
    )  # fmt: skip


def _asked(context: Context, command: Command) -> Judged:
    absent = [need for need in command.needs if context.features.has(need) is False]
    if absent:
        return Judged(
            command=command, verdict=Verdict.UNSUPPORTED, cause=Cause.FEATURE_MISSING,
            summary=f"not run: this kernel has no {', '.join(absent)}",
        )  # fmt: skip
    if not command.attached:
        _run(context, command, _PLAIN + _RUN)
        return _judged(context, command, _ended(context))
    if context.loader:
        return _beside_loader(context, command)
    return _beside_objcheck(context, command)


def _beside_loader(context: Context, command: Command) -> Judged:
    _deliver(context, command)
    seen = observer.observe(
        context, ["/bin/sh", "-c", _RUN, "command", *_words(command)],
        name=f"command-{_file_name(command)}-loader", settings={},
        timeout_s=command.timeout_s + _OUTSIDE_S,
    )  # fmt: skip
    if seen.ready is None:
        failed = observer.failed(CHECK.name, seen)
        return Judged(
            command=command, verdict=failed.verdict, cause=failed.cause,
            summary=f"not run: {failed.summary}", remedy=failed.remedy, evidence=failed.evidence,
        )  # fmt: skip
    judged = _judged(context, command, _ended(context), seen.evidence)
    if judged.verdict is Verdict.PASS and seen.observer_status != 0:
        failed = observer.failed(CHECK.name, seen)
        return Judged(
            command=command, verdict=failed.verdict, cause=failed.cause, ended=judged.ended,
            summary=failed.summary, remedy=failed.remedy, evidence=judged.evidence,
        )  # fmt: skip
    return judged


def _beside_objcheck(context: Context, command: Command) -> Judged:
    words = objcheck.attach_argv(
        context.object, context.options(), hold=True, ready_file="/dev/fd/9",
        expire_s=int(command.timeout_s) + _ATTACH_S,
    )  # fmt: skip
    holder = shlex.join([OBJCHECK, *words[1:]])
    _run(context, command, _PLAIN + _HELD.replace("{run}", _RUN), holder)
    answer = context.guest.read_file(f"{_DIR}/attach")
    kept = context.keep("objcheck's answer", f"command-{_file_name(command)}.jsonl", answer)
    found = objcheck.parse_attach(answer.decode(errors="replace"), holding=True)
    attached = [program for program in found.programs if program.ok]
    if not found.together.ok:
        return Judged(
            command=command, verdict=Verdict.FAIL, cause=Cause.ATTACH_FAILED, evidence=(kept,),
            summary=f"not run: the object does not load: {found.together.why}",
            remedy="ask the load check for the program and its log",
        )  # fmt: skip
    judged = _judged(context, command, _ended(context), (kept,))
    if judged.verdict is Verdict.PASS and not attached:
        return Judged(
            command=command, verdict=Verdict.UNKNOWN, cause=Cause.NOT_STARTED, ended=judged.ended,
            summary="it passed, but nothing of the object was attached meanwhile",
            remedy="programs whose sections name no target need their own loader: "
            "run that as a command, without attached", evidence=judged.evidence,
        )  # fmt: skip
    return judged


def _deliver(context: Context, command: Command) -> None:
    """The script that km-command runs, for a shell whose stdin is somebody else's."""
    _checked(
        context.guest.run(
            ["/bin/sh", "-c", _PLAIN], timeout_s=60.0, stdin=_script(context, command)
        ).status,
        command,
    )


def _run(context: Context, command: Command, script: str, holder: str = "") -> None:
    done = context.guest.run(
        ["/bin/sh", "-c", script, "command", *_words(command), holder],
        timeout_s=command.timeout_s + _OUTSIDE_S, stdin=_script(context, command),
    )  # fmt: skip
    _checked(done.status, command)


def _checked(status: int, command: Command) -> None:
    if status != 0:
        raise HarnessError(f"the guest could not prepare '{command.name}': status {status}")


def _words(command: Command) -> list[str]:
    return [str(round(command.timeout_s * 1000)), str(OUTPUT_LIMIT_BYTES)]


def _script(context: Context, command: Command) -> bytes:
    return session.script(
        session.Command(
            argv=("/bin/bash", "-c", command.run), directory=SUBJECT_DIR,
            environment=environment(context),
        )
    )  # fmt: skip


def environment(context: Context) -> Mapping[str, str]:
    """What a command is told beside its own words (docs/subjects.md)."""
    told = {"HOME": "/root", "KERNEL_MATRIX_KERNEL": context.kernel.name}
    if context.subject.object is not None:
        told["KERNEL_MATRIX_OBJECT"] = context.object
    if context.detached_btf:
        told["KERNEL_MATRIX_BTF"] = GUEST_BTF
    return told


def _ended(context: Context) -> Ended:
    answer = context.guest.read_file(f"{_DIR}/answer")
    try:
        status, timed_out, out, err, lost = session.parse_answer(answer)
    except GuestLostError as error:  # the guest answers: only the runner is gone
        raise HarnessError(
            error.message, hint="does the command kill what it did not start?"
        ) from error
    times = context.guest.read_file(f"{_DIR}/times")
    try:
        before, after = (float(word) for word in times.split())
    except ValueError as error:  # a command is root in its guest
        raise HarnessError(f"the guest's clock reads {times!r:.80} around a command") from error
    return Ended(
        status=status, timed_out=timed_out, stdout=out, stderr=err, lost_bytes=lost,
        duration_s=after - before,
    )  # fmt: skip


def _judged(
    context: Context, command: Command, ended: Ended, before: tuple[Evidence, ...] = ()
) -> Judged:
    kept = [
        context.keep(f"{command.name}: {title}", f"command-{_file_name(command)}.{title}", stream)
        for title, stream in (("stdout", ended.stdout), ("stderr", ended.stderr))
        if stream
    ]
    verdict, cause, summary, remedy = judge(
        command, ended, context.subject.files, context.kernel.arch
    )
    excerpts = [
        Evidence(title=f"{command.name}: end of {title}", text=_end(stream))
        for title, stream in (("stdout", ended.stdout), ("stderr", ended.stderr))
        if stream and verdict is not Verdict.PASS
    ]
    return Judged(
        command=command, verdict=verdict, cause=cause, summary=summary,
        remedy=remedy.replace("KERNEL", context.kernel.name), ended=ended,
        evidence=(*excerpts, *kept, *before),
    )  # fmt: skip


def judge(
    command: Command, ended: Ended, files: Sequence[Path], arch: str = "x86_64"
) -> tuple[Verdict, Cause, str, str]:
    """(verdict, cause, summary, remedy) of a command that was run."""
    lost = f" ({ended.lost_bytes:,} bytes of its output were not kept)" if ended.lost_bytes else ""
    if ended.timed_out:
        return (
            Verdict.FAIL, Cause.TIMEOUT,
            f"did not end within {command.timeout_s:g} s and was killed; it last wrote: "
            f"{ended.last_words}{lost}",
            "give it more time (timeout_s in the manifest, --timeout), or see in its "
            "output where it waits",
        )  # fmt: skip
    if ended.status == 0:
        return Verdict.PASS, Cause.NONE, lost.strip(" ()"), ""
    said = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
    if ended.status in (126, 127) and said and _NOT_STARTED.search(said[0]):
        return (
            Verdict.UNKNOWN, Cause.NOT_STARTED, f"could not be started: {said[0].strip()}",
            _start_remedy(command, files, said[0], closure.MACHINE_OF_ARCH[arch]),
        )  # fmt: skip
    return (
        Verdict.FAIL, Cause.BEHAVIOUR, f"{_how(ended.status)}: {ended.last_words}{lost}",
        "run it by hand: inv shell --kernel KERNEL --src DIRECTORY",
    )  # fmt: skip


def _how(status: int) -> str:
    try:
        return (
            f"killed by {signal.Signals(status - 128).name}" if status > 128 else f"status {status}"
        )
    except ValueError:
        return f"status {status}"


def _start_remedy(command: Command, files: Sequence[Path], said: str, guest: str) -> str:
    """Why the file that the command names does not start, as far as it can be seen from here."""
    words = set(re.split(r"[^\w.+-]+", command.run))
    named = next((path for path in files if path.name in words), None)
    if named is None:
        carried = ", ".join(path.name for path in files) or "none"
        return (
            "carry the program with --file or 'files' and call it as ./NAME; a guest has busybox, "
            f"bash, dnsperf and nsd; files carried: {carried}"
        )
    if "Permission denied" in said and not named.stat().st_mode & 0o111:
        return f"chmod +x {named}, or give it a first line that says what reads it (#!/bin/bash)"
    machine = closure.machine_of(named)
    if machine and machine != guest:
        return f"'{named}' is an ELF file for {machine}, the guest is {guest}"
    return (
        f"'{named}' is there: call it as ./{named.name}; a script's first line must name a program "
        "that the guest has (/bin/sh, /bin/bash)"
    )


def _end(stream: bytes) -> str:
    return stream[-_EXCERPT_BYTES:].decode(errors="replace")


def _file_name(command: Command) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", command.name)[:60]


CHECK = Check(
    name="command", question="Do the subject's own commands succeed, each in its time?",
    ask=_ask, estimate_s=2.0, needs=(Need.COMMANDS,), thorough=True,
)  # fmt: skip
