# SPDX-License-Identifier: Apache-2.0
"""One sitting: boot a kernel with the subject in it, ask checks, keep the console.

Most checks are asked in an ordinary sitting, beside other guests. Those that are timed get a
sitting of their own, in which their guest has the machine to itself (`harness.slot`). Those that
need no more than a cost get one, too, in which an emulator counts instructions for time: the host
may be as busy as it likes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from harness import (
    accel,
    admission,
    images,
    initramfs,
    kernel_container,
    lost,
    objcheck,
    prediction,
    results,
    room,
    rundir,
    slot,
    supply,
    vm,
)
from harness.baseroot import BaseRoot
from harness.build import Built
from harness.cache import Cache
from harness.catalogue import Kernel
from harness.checks.context import GUEST_BTF, OBJCHECK, SUBJECT_DIR, Check, Context, Where
from harness.checks.splat import MARK
from harness.errors import HarnessError
from harness.guest import CommandFloodError, CommandTimeoutError, Guest, GuestLostError
from harness.journal import Words
from harness.kernel_container import Docker
from harness.objcheck import FeaturesAnswer
from harness.place import Local, Place
from harness.progress import Listener, Note, Phase
from harness.qemu import Accelerator, Machine
from harness.results import BootFacts, Cause, CheckResult, Figure, KernelFacts, Verdict
from harness.subject import Subject
from harness.supply import KernelFiles
from harness.toolchain import NATIVE, Toolchain
from harness.transcript import Transcript

_CARRIED_MIB = 16  # of a subject's files, for which a guest's ordinary memory is enough


class SubjectSource(Protocol):
    """Builds the subject for guests of one architecture."""

    def __call__(
        self, cache: Cache, say: Callable[[str], None], tools: Toolchain = NATIVE, /
    ) -> Built: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a person asked for."""

    subject: SubjectSource
    kernels: tuple[Kernel, ...]  # of the catalogue
    directories: tuple[KernelFiles, ...]  # of --kernel-dir
    lock: Path
    backend: str  # "auto", "docker", "local"
    jobs: int  # 0: as many as memory and cores carry
    checks: tuple[Check, ...]
    report_dir: Path
    append: tuple[str, ...] = ()
    select: str = ""  # the subject's words on a command line, "" for the default
    sources: str = ""  # the directory of its sources, "" when they are not below this one
    machine: Machine = Machine()  # noqa: RUF009  # frozen
    boot_timeout_s: float | None = None
    planned: tuple[str, ...] = ()  # names of the whole matrix, of which this may be a shard
    executor: str = ""  # where cells are answered (harness.executors), "" here
    words: Words = Words()  # noqa: RUF009  # what of all this was said, for --resume


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every cell of one architecture needs and no cell changes."""

    request: Request
    cache: Cache
    backend: str
    root: BaseRoot
    qemu_version: str
    guest_archive: Path
    objcheck: Path
    libraries: Mapping[str, Path]  # for the subject's programs: path in the guest → file
    built: Built
    lock: supply.Lock | None
    emit: Listener
    misfit: HarnessError | None = None  # why the subject says nothing about this architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Sitting:
    """What a sitting found; `checks` has an answer for every check that was asked."""

    checks: tuple[CheckResult, ...]
    boot: BootFacts | None = None  # None: the guest never came up
    emulated: bool = False
    console: str = ""  # path relative to the report's directory
    phases_s: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return results.worst(check.verdict for check in self.checks)


def hold(
    bench: Bench,
    files: KernelFiles,
    facts: KernelFacts,
    checks: Sequence[Check],
    shared: SharedAccelerator,
    where: Where,
    *,
    again: bool = False,
) -> Sitting:
    """Boot, ask every check, keep the console whatever happens; trouble is an answer too.

    again: the second try, whose evidence does not replace that of the first.
    """
    phases: dict[str, float] = {}
    try:
        if bench.backend == "docker":
            _await_engine(bench, files.name, shared, phases)
        alone = where is Where.ALONE or (
            where is Where.COUNTED and not _emulated(bench, files, shared, phases)
        )
        with contextlib.ExitStack() as stack:
            with _phase(bench, files.name, "wait for the machine" if alone else "wait", phases):
                stack.enter_context(
                    slot.hold(bench.cache, alone=alone, given_up=shared.cancelled.is_set)
                )
            held = _held(bench, files, facts, checks, shared, phases, where, again=again)
    except (HarnessError, OSError) as error:
        trouble = room.told(error, bench.cache)
        held = Sitting(checks=(lost.trouble_of(Verdict.UNKNOWN, Cause.INFRA, trouble),))
    return replace(held, phases_s=phases)


def _await_engine(
    bench: Bench, kernel: str, shared: SharedAccelerator, phases: dict[str, float]
) -> None:
    """Before the machine's slot is asked for: others may use it meanwhile."""
    started = time.monotonic()
    kernel_container.await_engine(
        shared.cancelled.is_set,
        lambda text: bench.emit(Phase(kernel=kernel, phase="wait", detail=text)),
    )
    waited_s = time.monotonic() - started
    if waited_s > 1:
        phases["wait for the engine"] = waited_s


def _emulated(
    bench: Bench, files: KernelFiles, shared: SharedAccelerator, phases: dict[str, float]
) -> bool:
    with slot.hold(bench.cache, alone=False, given_up=shared.cancelled.is_set):
        _, choice = _prepared(bench, files, shared, phases)
    return choice.accelerator is Accelerator.TCG


def _prepared(
    bench: Bench, files: KernelFiles, shared: SharedAccelerator, phases: dict[str, float]
) -> tuple[Place, accel.Choice]:
    with _phase(bench, files.name, "prepare", phases):
        place = place_of(
            bench.backend, files, bench.root, bench.cache,
            lambda text: bench.emit(Phase(kernel=files.name, phase="prepare", detail=text)),
        )  # fmt: skip
        return place, shared.choose(place, files.vmlinuz)


def _held(
    bench: Bench,
    files: KernelFiles,
    facts: KernelFacts,
    checks: Sequence[Check],
    shared: SharedAccelerator,
    phases: dict[str, float],
    where: Where,
    *,
    again: bool,
) -> Sitting:
    request = bench.request
    place, choice = _prepared(bench, files, shared, phases)
    emulated = choice.accelerator is Accelerator.TCG
    memory_mib = request.machine.memory_mib + _more_memory_mib(bench.built.subject)
    machine = replace(
        request.machine, arch=bench.root.arch, accelerator=choice.accelerator,
        memory_mib=memory_mib,
        counted=emulated and where is Where.COUNTED,
    )  # fmt: skip
    answers: list[CheckResult] = []
    evidence_dir = request.report_dir / results.EVIDENCE / files.name
    if where is not Where.ORDINARY:
        evidence_dir /= where
    if again:
        evidence_dir /= "again"
    boot: BootFacts | None = None
    transcript: Transcript | None = None
    with (
        room.kept(answers),
        rundir.run_directory(bench.cache) as run_dir,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(lost.keep_console, run_dir / "console.log", evidence_dir)
        initrd = _initrd(bench, files, run_dir)
        stack.enter_context(
            shared.admission.hold(
                memory_mib, cgroup=place.name == "local", given_up=shared.cancelled.is_set,
                waiting=lambda text: bench.emit(
                    Phase(kernel=files.name, phase="wait", detail=text)
                ),
            )
        )  # fmt: skip
        stopped: HarnessError | None = None
        try:
            with _phase(bench, files.name, "boot", phases):
                booted = stack.enter_context(
                    vm.booted(
                        machine, vmlinuz=files.vmlinuz, initrd=initrd, where=place,
                        run_dir=run_dir, append=request.append,
                        boot_timeout_s=request.boot_timeout_s,
                        cancelled=shared.cancelled.is_set,
                    )
                )  # fmt: skip
            boot = BootFacts(
                backend=place.name, accelerator=choice.accelerator,
                accelerator_reason=choice.reason, qemu=bench.qemu_version, vcpus=machine.vcpus,
                memory_mib=machine.memory_mib, boot_s=booted.boot_s,
            )  # fmt: skip
            answers.append(_boot_answer(boot))
            features = _begin(booted.guest, bench.built.subject)
            refuse_other(features, files)
            boot = replace(boot, libbpf=features.libbpf)
            transcript = Transcript(booted.guest)
            context = Context(
                guest=transcript,
                features=features, subject=bench.built.subject, kernel=facts,
                types=prediction.types_of(files, bench.cache),
                detached_btf=files.btf_detached and files.btf is not None,
                emulated=emulated, counted=machine.counted, evidence_dir=evidence_dir,
                report_dir=request.report_dir,
            )  # fmt: skip
            for check in checks:
                shared.raise_if_cancelled()
                with _phase(bench, files.name, check.name, phases):
                    answers.append(_with_killed(_asked(check, context), booted.take_killed()))
                    answers[-1] = replace(answers[-1], commands=transcript.take())
        except (HarnessError, OSError) as error:
            stopped = room.told(error, bench.cache)
        if stopped is not None:
            left = lost.left_open(checks, answers, stopped, run_dir / "console.log", boot)
            ran = transcript.take() if transcript else ()
            answers += [replace(one, commands=ran) for one in left[:1]] + left[1:]
    console = evidence_dir / "console.log"
    kept = str(console.relative_to(request.report_dir)) if console.exists() else ""
    return Sitting(checks=tuple(answers), boot=boot, emulated=emulated, console=kept)


def _more_memory_mib(subject: Subject) -> int:
    """For a subject of more than a few MiB: while the guest unpacks it, it is in memory twice."""
    files = (file for path in subject.carried for file in (path, *path.rglob("*")))
    size = sum(file.stat().st_size for file in files if file.is_file())
    return 2 * max(0, (size >> 20) - _CARRIED_MIB)


def not_for(check: Check, subject: Subject) -> CheckResult | None:
    """Why the subject does not get that check, None when it does."""
    lacking = next((need for need in check.needs if not need.met(subject)), None)
    if lacking is None:
        return None
    return CheckResult(
        check=check.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
        summary=f"the subject has no {lacking}",
    )  # fmt: skip


def _asked(check: Check, context: Context) -> CheckResult:
    """One check's answer. A lost guest passes through: it concerns every check that follows."""
    unasked = not_for(check, context.subject)
    if unasked is not None:
        return unasked
    absent = [name for name in check.features if context.features.has(name) is False]
    if absent:
        return CheckResult(
            check=check.name, verdict=Verdict.UNSUPPORTED, cause=Cause.FEATURE_MISSING,
            summary=f"this kernel has no {', '.join(absent)}",
        )  # fmt: skip
    started = time.monotonic()
    try:
        answer = check.ask(context)
    except GuestLostError:
        raise
    except CommandTimeoutError as error:
        answer = CheckResult(
            check=check.name, verdict=Verdict.UNKNOWN, cause=Cause.TIMEOUT, summary=error.message,
            remedy=error.hint,
        )  # fmt: skip
    except CommandFloodError as error:
        answer = CheckResult(
            check=check.name, verdict=Verdict.UNKNOWN, cause=Cause.LIMIT_EXCEEDED,
            summary=error.message, remedy=error.hint,
        )  # fmt: skip
    except HarnessError as error:
        answer = CheckResult(
            check=check.name, verdict=Verdict.UNKNOWN, cause=Cause.INFRA, summary=error.message,
            remedy=error.hint,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - it costs this answer, not a night's run
        answer = lost.broken(check.name, error)
    return replace(answer, duration_s=time.monotonic() - started)


def _with_killed(answer: CheckResult, killed: Sequence[str]) -> CheckResult:
    """A check whose guest ran out of memory says so, whatever else it says."""
    if not killed:
        return answer
    more = f" and {len(killed) - 1} more" if killed[1:] else ""
    said = f"the guest ran out of memory meanwhile: {killed[0]}{more}"
    return replace(answer, summary="\n".join(line for line in (answer.summary, said) if line))


def _boot_answer(boot: BootFacts) -> CheckResult:
    figure = Figure(
        name="guest ready",
        value=boot.boot_s,
        unit="s",
        emulated=boot.accelerator == Accelerator.TCG,
    )
    return CheckResult(
        check=lost.BOOT, verdict=Verdict.PASS, figures=(figure,), duration_s=boot.boot_s
    )


def _begin(guest: Guest, subject: Subject) -> FeaturesAnswer:
    """Check what we booted with, probe the kernel, mark in its log where the subject begins."""
    line = guest.run(["/bin/cat", "/proc/cmdline"], timeout_s=20).text
    for word in ("panic=-1", "oops=panic"):
        if word not in line.split():
            raise HarnessError(
                f"the guest's kernel command line lacks '{word}': '{line.strip()}'",
                hint="a kernel with a built-in command line (CONFIG_CMDLINE_OVERRIDE) cannot be used",
            )
    manifest = subject.manifest
    needs = {n for program in manifest.programs.values() for n in program.needs}
    needs |= {n for command in manifest.commands for n in command.needs}
    symbols = sorted(need.removeprefix("ksym:") for need in needs if need.startswith("ksym:"))
    probed = guest.run([OBJCHECK, *objcheck.features_argv(symbols)[1:]], timeout_s=60)
    features = objcheck.parse_features(probed.text)
    guest.run(["/bin/sh", "-c", f"echo '{MARK}' > /dev/kmsg"], timeout_s=20)
    return features


def refuse_other(found: FeaturesAnswer, files: KernelFiles) -> None:
    """HarnessError when another kernel runs than was asked for: its answers are no answers here."""
    if found.uname.release != files.release:
        raise HarnessError(
            f"the guest runs {found.uname.release}, not {files.release}",
            hint=f"did another run make the kernel container '{files.name}' of another kernel?",
        )


class SharedAccelerator:
    """The accelerator is probed once, by the first kernel that is ready to boot."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.admission = admission.Admission(
            bench.cache, guests=bench.request.jobs or admission.cores()
        )
        self._lock = threading.Lock()
        self._choice: accel.Choice | None = None
        self.cancelled = threading.Event()

    def choose(self, where: Place, vmlinuz: Path) -> accel.Choice:
        with self._lock:
            if self._choice is None:
                bench = self._bench
                self._choice = accel.choose(
                    where, vmlinuz, bench.guest_archive, bench.qemu_version, bench.cache,
                    lambda text: bench.emit(Note(text=text)), bench.root.arch,
                )  # fmt: skip
                text = f"accelerator: {self._choice.accelerator} ({self._choice.reason})"
                bench.emit(Note(text=text))
            return self._choice

    def raise_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise GuestLostError("interrupted", reason="infra")


def place_of(
    backend: str, files: KernelFiles, root: BaseRoot, cache: Cache, say: Callable[[str], None]
) -> Place:
    """Where that kernel's guests run: here, or in its kernel container (built if need be)."""
    if backend == "local":
        return Local(prefix=root.qemu_prefix, environment=root.environment, root=root.directory)
    return Docker(image=images.ensure_image(files, root, cache, say), arch=root.arch)


def _initrd(bench: Bench, files: KernelFiles, run_dir: Path) -> Path:
    """Base archive and the subject's own, as one initrd."""
    subject = bench.built.subject
    inside = dict(bench.libraries)
    inside |= {f"{SUBJECT_DIR}/{path.name}": path for path in subject.carried}
    if files.btf is not None and files.btf_detached:
        inside[GUEST_BTF] = files.btf
    if files.config is not None:  # where libbpf looks for CONFIG_* externs
        inside[f"/boot/config-{files.release}"] = files.config
    inside[OBJCHECK] = bench.objcheck
    archive, initrd = run_dir / "subject.cpio", run_dir / "initrd"
    initramfs.pack(inside, archive)
    initramfs.concatenate([bench.guest_archive, archive], initrd)
    archive.unlink()
    return initrd


@contextlib.contextmanager
def _phase(bench: Bench, kernel: str, name: str, phases: dict[str, float]) -> Iterator[None]:
    bench.emit(Phase(kernel=kernel, phase=name))
    started = time.monotonic()
    try:
        yield
    finally:
        phases[name] = phases.get(name, 0.0) + time.monotonic() - started
