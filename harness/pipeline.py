# SPDX-License-Identifier: Apache-2.0
"""The whole job: object and kernels in, one `Run` out. `run` reads top to bottom."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness import (
    accel,
    admission,
    baseroot,
    build,
    cell,
    closure,
    coreaccess,
    executors,
    images,
    inputs,
    journal,
    kernel_container,
    prediction,
    process,
    quarantine,
    results,
    rundir,
    schedule,
    supply,
    toolchain,
)  # fmt: skip
from harness.baseroot import NATIVE, BaseRoot
from harness.build import Built
from harness.cache import Cache, sha256_of
from harness.cell import Prepared, Wanted
from harness.checks import Need
from harness.checks.context import Where
from harness.errors import HarnessError, UsageError
from harness.journal import Journal
from harness.progress import Finished, Listener, Note
from harness.qemu import Arch
from harness.results import (
    BootFacts,
    Cause,
    Cell,
    CheckResult,
    Evidence,
    Relocation,
    Run,
    RunFacts,
    SubjectFacts,
    Verdict,
)
from harness.sitting import Bench, Request, SharedAccelerator
from harness.toolchain import Toolchain

if TYPE_CHECKING:
    from harness.cluster import Cluster

_BOOT_S = {Where.ORDINARY: 4.5, Where.ALONE: 4.5, Where.COUNTED: 9.0}  # under TCG, about
_DOWNLOADS = 4  # kernels fetched at once

BEFORE_BOOT = {  # what is asked of the object and the kernel beside `harness.checks`
    "compile": "Does it compile, with types and relocations in the object?",
    "core-access": "Is every read of kernel memory at a relocated offset?",
    "resolve": "What will libbpf make of each relocation on this kernel?",
    "boot": "Does the kernel come up and answer?",
}
_BACKENDS = ("auto", "docker", "local")


def run(request: Request, cache: Cache, emit: Listener, kept: Journal | None = None) -> Run:
    """Do the whole job and return what was found; only what concerns every cell raises.

    kept: takes each cell as it ends, and has those that need no asking.
    """
    with executors.opened(request.executor) as cluster:  # first: it may not be there
        return _run(request, cache, emit, kept, cluster)


def _run(
    request: Request, cache: Cache, emit: Listener, kept: Journal | None, cluster: Cluster | None
) -> Run:
    started = time.monotonic()
    began = datetime.datetime.now(datetime.UTC)
    _remove_leftovers(request, cache, emit)
    backend = choose_backend(request.backend, emit)
    say = _noting(emit)
    archs = _archs(request)
    roots = {arch: baseroot.obtain(cache, say, arch) for arch in archs if arch is not NATIVE}
    try:
        built = {arch: request.subject(cache, say, _tools(roots.get(arch))) for arch in archs}
    except build.CompileError as error:
        return _not_compiled(request, backend, error, began)
    first_built = built[archs[0]]
    if kept is not None:
        kept.begin(first_built.subject.name, began.isoformat(timespec="seconds"), _command())
    benches = {
        arch: _bench(request, backend, roots.get(arch) or baseroot.obtain(cache, say),
                     built[arch], cache, emit)
        for arch in archs
    }  # fmt: skip
    # The audit follows every path of every program in Python: it does so beside the guests.
    with _aside() as aside:
        audited = {arch: aside.submit(_audited, one) for arch, one in built.items()}
        gathered, relocations = _gathered(request, benches)
        cells = _all_cells(request, benches, gathered, kept, cluster)
    kernel_container.remove_left()
    first = next((done.boot for done in cells if done.boot), None)
    facts = _facts(request, backend, began, time.monotonic() - started, first)
    found = Run(
        schema=results.SCHEMA,
        run=kept.told(facts) if kept is not None else facts,
        subject=replace(_subject_facts(built), select=request.select, sources=request.sources),
        checks=(
            together({arch: one.compile for arch, one in built.items()}),
            together({arch: _come(one) for arch, one in audited.items()}),
        ),
        cells=tuple(cells),
        relocations=relocations,
    )
    return quarantine.applied(found, first_built.subject.manifest.quarantine, began.date())


@contextlib.contextmanager
def _aside() -> Iterator[ThreadPoolExecutor]:
    """A thread beside the guests; an interrupt does not wait for what it does."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
    try:
        yield pool
    finally:
        pool.shutdown(wait=not process.stopping(), cancel_futures=process.stopping())


def _come(audited: Future[CheckResult]) -> CheckResult:
    """An audit's answer; an interrupt does not wait for it."""
    if process.stopping() and (audited.cancelled() or not audited.done()):
        return CheckResult(
            check=coreaccess.NAME, verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
            summary="interrupted before it was answered", remedy="run it again",
        )  # fmt: skip
    return audited.result()


def _archs(request: Request) -> list[Arch]:
    """Architectures of the kernels that were asked for, in their order."""
    wanted: list[Wanted] = [*request.kernels, *request.directories]
    return [Arch(name) for name in dict.fromkeys(one.arch for one in wanted)] or [NATIVE]


def _tools(root: BaseRoot | None) -> Toolchain:
    return root.toolchain if root is not None else toolchain.NATIVE


def _bench(
    request: Request, backend: str, root: BaseRoot, built: Built, cache: Cache, emit: Listener
) -> Bench:
    say = _noting(emit)
    misfit = build.unfit(built.subject, root.arch)
    return Bench(
        request=request, cache=cache, backend=backend, root=root,
        qemu_version=baseroot.check(root),
        guest_archive=baseroot.guest_archive(root, cache, say, full=_with_traffic(request, built)),
        objcheck=build.objcheck(cache, say, root.toolchain), built=built,
        libraries={} if misfit else closure.borrowed(
            built.subject.carried, root.guest_tree, arch=root.arch
        ),
        lock=supply.read_lock(request.lock) if request.lock.exists() else None, emit=emit,
        misfit=misfit,
    )  # fmt: skip


def together(answers: Mapping[Arch, CheckResult]) -> CheckResult:
    """What is asked of each architecture's object, as one answer: the worst, which says whose."""
    verdict = results.worst(answer.verdict for answer in answers.values())
    arch, decides = next((a, one) for a, one in answers.items() if one.verdict is verdict)
    if len(answers) == 1:
        return decides
    named = verdict is not Verdict.PASS and decides.summary
    return replace(
        decides, summary=f"{arch}: {decides.summary}" if named else decides.summary,
        figures=tuple(
            figure if a is arch else replace(figure, name=f"{figure.name}, {a}")
            for a, one in answers.items()
            for figure in one.figures
        ),
        findings=tuple(dict.fromkeys(found for one in answers.values() for found in one.findings)),
        duration_s=sum(one.duration_s for one in answers.values()),
    )  # fmt: skip


def _audited(built: Built) -> CheckResult:
    try:
        return coreaccess.check(built.subject)
    except HarnessError as error:
        return CheckResult(
            check=coreaccess.NAME, verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
            summary=error.message, remedy=error.hint,
        )  # fmt: skip


def _with_traffic(request: Request, built: Built) -> bool:
    """Whether a check will need bash, the DNS server and its clients in the guest."""
    needs = {need for check in request.checks for need in check.needs}
    return any(need in needs and need.met(built.subject) for need in (Need.LOADER, Need.COMMANDS))


def estimate_s(request: Request, jobs: int) -> float:
    """About how long the cells will take with everything cached, under TCG."""
    count = len(request.kernels) + len(request.directories)
    total = 0.0
    for where in Where:
        seconds = sum(check.estimate_s for check in request.checks if check.where is where)
        rounds = count if where is Where.ALONE else -(-count // max(jobs, 1))
        if seconds or where is Where.ORDINARY:
            total += rounds * (_BOOT_S[where] + seconds)
    return total


def jobs_for(request: Request) -> int:
    """How many guests at once, as far as there is memory: one for each core."""
    return request.jobs if request.jobs > 0 else admission.cores()


def known_accelerator(request: Request, cache: Cache) -> str:
    """What the last probe on this boot of the host found, in words."""
    archs = _archs(request)
    known = accel.remembered(cache)
    own = f"{known.accelerator} ({known.reason})" if known else "probed by booting a guest"
    lines = [own] if any(accel.native(arch) for arch in archs) else []
    return "; ".join(lines + [f"{arch}: tcg" for arch in archs if not accel.native(arch)])


Benches = Mapping[Arch, Bench]


def _gathered(request: Request, benches: Benches) -> tuple[list[Prepared], tuple[Relocation, ...]]:
    """Every kernel's files, in the order asked, and what is predicted of the subject on each."""
    wanted: list[Wanted] = [*request.kernels, *request.directories]
    with ThreadPoolExecutor(max_workers=_DOWNLOADS, thread_name_prefix="kernel") as pool:
        gathered = list(pool.map(lambda item: cell.gather(benches[Arch(item.arch)], item), wanted))
    answers: dict[str, CheckResult] = {}
    relocations: list[tuple[Relocation, ...]] = []
    for arch, bench in benches.items():
        files = [one.files for one in gathered if one.files is not None and one.files.arch == arch]
        if bench.misfit is None:
            bench.emit(Note(text=f"resolving relocations on {len(files)} kernels"))
            predicted = prediction.predict(bench.built.subject, files, bench.cache)
            answers |= predicted.answers
            relocations.append(predicted.relocations)
    found = [replace(item, predicted=answers.get(item.name)) for item in gathered]
    return found, results.joined_relocations(relocations)


def _all_cells(
    request: Request,
    benches: Benches,
    gathered: Sequence[Prepared],
    kept: Journal | None,
    cluster: Cluster | None,
) -> list[Cell]:
    """Every kernel's cell with its inputs; those that the journal knows are not asked."""
    common = {arch: inputs.of_run(bench) for arch, bench in benches.items()}
    depends = {
        item.name: inputs.of_cell(common[Arch(item.facts.arch)], item.facts, item.files)
        for item in gathered
    }
    emit = next(iter(benches.values())).emit
    known = kept.known(depends, _noting(emit)) if kept is not None else {}
    for item in gathered:  # what an earlier run left in the directory is no evidence for this one
        if item.name not in known:
            shutil.rmtree(request.report_dir / results.EVIDENCE / item.name, ignore_errors=True)

    def keep(done: Cell) -> None:
        if kept is None:
            return
        try:
            kept.keep(replace(done, inputs=depends[done.kernel.name]))
        except HarnessError as error:  # it costs a resume, not the run
            name = done.kernel.name
            emit(Note(text=f"{name}: not kept for --resume: {error.message}"))

    cells = _asked(request, benches, gathered, known, keep, cluster)
    return [replace(done, inputs=depends[done.kernel.name]) for done in cells]


def _asked(
    request: Request,
    benches: Benches,
    gathered: Sequence[Prepared],
    known: Mapping[str, Cell],
    keep: Callable[[Cell], None],
    cluster: Cluster | None,
) -> list[Cell]:
    """Every kernel's cell, in the order asked; an interrupt keeps what is finished."""
    shared = {arch: SharedAccelerator(bench) for arch, bench in benches.items()}
    emit = next(iter(benches.values())).emit

    def finished(done: Cell) -> None:
        keep(done)
        deciding = done.deciding
        summary = "" if deciding is None else deciding.summary.partition("\n")[0]
        shown = summary if done.verdict is not Verdict.PASS else done.kernel.release
        emit(Finished(kernel=done.kernel.name, verdict=done.verdict, summary=shown))

    if cluster is not None:
        crew = cluster.crew(benches)
        return schedule.all_cells(gathered, crew, known=known, finished=finished)

    def cancel() -> None:
        for one in shared.values():
            one.cancelled.set()
        emit(Note(text="interrupted: ending the guests, keeping what is finished"))

    def answer(item: Prepared) -> Cell:
        arch = Arch(item.facts.arch)
        return cell.answer(benches[arch], item, shared[arch])

    pool = ThreadPoolExecutor(max_workers=jobs_for(request), thread_name_prefix="cell")
    here = schedule.threads(pool, answer, cancel)
    return schedule.all_cells(gathered, here, known=known, finished=finished)


def refuse_unknown_backend(asked: str) -> None:
    """UsageError unless there is such a backend."""
    if asked not in _BACKENDS:
        raise UsageError(f"unknown backend '{asked}'", hint=f"there is {', '.join(_BACKENDS)}")


def choose_backend(asked: str, emit: Listener) -> str:
    """ "docker" or "local"; `auto` is docker when an engine answers."""
    refuse_unknown_backend(asked)
    if asked == "local":
        return asked
    client = kernel_container.engine()
    if client is not None:
        client.close()
        return "docker"
    if asked == "docker":
        raise UsageError(
            "no Docker engine answers", hint="start one, or leave --backend away to run locally"
        )
    emit(Note(text="no Docker engine answers: guests run on this machine (--backend local)"))
    return "local"


def _remove_leftovers(request: Request, cache: Cache, emit: Listener) -> None:
    """What a harness that was killed with SIGKILL left behind."""
    left = rundir.remove_left(cache)
    files = sum(map(results.remove_partial, journal.unfinished(request.report_dir.parent)))
    left = replace(left, files=left.files + files)
    containers = kernel_container.remove_orphans()
    half_made = images.remove_half_made()
    said = [
        left.text,
        f"{len(containers)} containers" if containers else "",
        f"{half_made} images" if half_made else "",
    ]
    if any(said):
        emit(Note(text=f"removed what a killed run left: {', '.join(filter(None, said))}"))


def _noting(emit: Listener) -> Callable[[str], None]:
    return lambda text: emit(Note(text=text))


def _not_compiled(
    request: Request, backend: str, error: build.CompileError, began: datetime.datetime
) -> Run:
    check = CheckResult(
        check="compile", verdict=Verdict.FAIL, cause=Cause.COMPILE,
        summary=error.message.partition(":")[0], remedy=error.hint,
        evidence=(Evidence(title="compiler", text=error.message),),
    )  # fmt: skip
    return Run(
        schema=results.SCHEMA, run=_facts(request, backend, began, 0.0, None),
        subject=SubjectFacts(name="not compiled", path="", sha256="", select=request.select),
        checks=(check,), cells=(),
    )  # fmt: skip


def _subject_facts(every: Mapping[Arch, Built]) -> SubjectFacts:
    first = next(iter(every.values())).subject
    objects = {
        str(arch): sha256_of(one.subject.object)
        for arch, one in every.items()
        if one.subject.object is not None
    }
    return SubjectFacts(
        name=first.name, path=first.object.name if first.object else "",
        sha256=next(iter(objects.values()), ""), objects=objects,
        programs=tuple(first.manifest.programs), compiler=first.compiler,
    )  # fmt: skip


def _facts(
    request: Request,
    backend: str,
    began: datetime.datetime,
    duration_s: float,
    boot: BootFacts | None,
) -> RunFacts:
    return RunFacts(
        started=began.isoformat(timespec="seconds"),
        duration_s=duration_s,
        command=_command(),
        backend=backend,
        accelerator=boot.accelerator if boot else "none",
        accelerator_reason=boot.accelerator_reason if boot else "no guest ran",
        host=f"{platform.system()} {platform.release()} {platform.machine()}",
        harness=metadata.version("kernel-matrix"),
        commit=_commit(),
        compiler=build.compiler(),
        lock_sha256=hashlib.sha256(request.lock.read_bytes()).hexdigest()
        if request.lock.exists()
        else "",
        questions=BEFORE_BOOT | {check.name: check.question for check in request.checks},
        planned=request.planned,
    )


def _command() -> str:
    return shlex.join([_program(), *sys.argv[1:]])


def _program() -> str:
    """As a person would type it: `./inv` runs `python -m harness`."""
    name = Path(sys.argv[0]).name
    return "inv" if name == "__main__.py" else name


def _commit() -> str:
    if shutil.which("git") is None:
        return ""
    done = process.run(["git", "describe", "--always", "--dirty"], timeout_s=20, check=False)
    return done.text.strip() if done.status == 0 else ""
