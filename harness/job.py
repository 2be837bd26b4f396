# SPDX-License-Identifier: Apache-2.0
"""From a person's words to requests, and from results to files: what the tasks of `cli` call."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import (
    accel,
    baseroot,
    build,
    catalogue,
    cell,
    checks,
    paths,
    pipeline,
    report,
    results,
    rundir,
    session,
    supply,
)  # fmt: skip
from harness import images as kernel_images
from harness.cache import Cache
from harness.catalogue import Kernel, Pick
from harness.cell import Request, SubjectSource
from harness.errors import UnavailableError, UsageError
from harness.place import Local, Place
from harness.progress import Finished, Listener, Note, Phase
from harness.results import Run, Verdict
from harness.supply import KernelFiles, Lock

REPORTS = Path("reports")


def request(
    *,
    cache: Cache,
    kernels: str = "",
    kernel_dirs: Sequence[Path] = (),
    object_path: str = "",
    manifest_path: str = "",
    backend: str = "auto",
    jobs: int = 0,
    check_names: str = "",
    out: str = "",
    append: tuple[str, ...] = (),
    boot_timeout_s: float = 0.0,
) -> Request:
    """Everything a run needs, checked before anything is built or fetched."""
    directories = tuple(supply.from_directory(path, cache=cache) for path in kernel_dirs)
    _refuse_twins(directories)
    wanted = _wanted(kernels, directories)
    now = datetime.datetime.now().astimezone()
    return Request(
        subject=subject_source(object_path, manifest_path),
        kernels=wanted,
        directories=directories,
        lock=lock_path(),
        backend=backend,
        jobs=jobs,
        checks=_chosen_checks(check_names),
        report_dir=(Path(out) if out else REPORTS / now.strftime("%Y-%m-%d-%H%M%S")).absolute(),
        append=append,
        boot_timeout_s=boot_timeout_s or None,
    )


def subject_source(object_path: str, manifest_path: str) -> SubjectSource:
    """Where the subject comes from; an unreadable one is refused at once."""
    if object_path and manifest_path:
        raise UsageError("--object and --manifest name two subjects", hint="leave one away")
    if object_path:
        built = build.from_object(Path(object_path))
        return lambda cache, say: built
    path = Path(manifest_path) if manifest_path else paths.default_manifest()
    build.read_manifest(path)
    return lambda cache, say: build.from_manifest(path, cache, say)


def plan_text(wanted: Request, cache: Cache) -> str:
    """What the run will do, before it does it."""
    lock = _lock()
    lines = ["Kernels:"]
    for kernel in wanted.kernels:
        lines.append(f"  {kernel.name:<14} {_where_from(kernel, lock)}")
    lines += [f"  {k.name:<14} {k.release} ({k.source})" for k in wanted.directories]
    jobs = pipeline.jobs_for(wanted)
    lines += [
        f"Checks:      compile, {', '.join(check.name for check in wanted.checks)}",
        f"Backend:     {wanted.backend}; {jobs} guests at once, "
        f"{wanted.machine.vcpus} CPUs and {wanted.machine.memory_mib} MiB each",
        f"Accelerator: {pipeline.known_accelerator(cache)}",
        f"Estimate:    {pipeline.estimate_s(wanted, jobs):.0f} s once everything is cached "
        "(under emulation)",
        f"Report:      {_shown(wanted.report_dir)}",
        "",
    ]
    return "\n".join(lines)


def write_reports(run: Run, directory: Path) -> list[Path]:
    """Write every form of the results; their paths, as a person would type them."""
    results.write(run, directory / "results.json")
    written = redraw(directory / "results.json")
    latest = directory.parent / "latest"
    if directory.parent.name == REPORTS.name and (latest.is_symlink() or not latest.exists()):
        latest.unlink(missing_ok=True)
        latest.symlink_to(directory.name)
    return [_shown(directory / "results.json"), *written]


def redraw(path: Path) -> list[Path]:
    """Draw the reports beside a results.json again."""
    run = results.read(path)
    target = path.parent / "report.md"
    results.write_atomically(target, report.markdown(run).encode())
    return [_shown(target)]


def status(run: Run, *, strict: bool) -> int:
    """0: everything asked for holds; 1: a kernel fails; 3: we could not tell."""
    verdicts = [check.verdict for check in run.checks] + [cell.verdict for cell in run.cells]
    if Verdict.FAIL in verdicts:
        return 1
    if Verdict.UNKNOWN in verdicts or not any(c.verdict is Verdict.PASS for c in run.cells):
        return 3
    return 3 if strict and Verdict.UNAVAILABLE in verdicts else 0


def kernels_text(words: str, arch: str) -> str:
    """The catalogue as a table."""
    lock = _lock()
    rows = [f"{'name':<20} {'tier':<5} locked"]
    for kernel in catalogue.select(_catalogue(), words or "all", arch, released=_released(lock)):
        rows.append(f"{kernel.name:<20} {kernel.tier:<5} {_where_from(kernel, lock)}")
    return "\n".join(rows)


def fetch(words: str, arch: str, cache: Cache, emit: Listener) -> list[str]:
    """Fetch kernels into the cache; the names of those that could not be had."""
    lock = _lock()
    failed: list[str] = []
    for kernel in catalogue.select(_catalogue(), words, arch, released=_released(lock)):
        try:
            files = supply.obtain(kernel, cache=cache, lock=lock, on_progress=_saying(kernel, emit))
            emit(Finished(kernel=kernel.name, verdict="pass", summary=files.source))
        except UnavailableError as error:
            failed.append(kernel.name)
            emit(Finished(kernel=kernel.name, verdict="unavailable", summary=error.message))
    return failed


def lock(
    words: str, arch: str, cache: Cache, emit: Listener
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Resolve the catalogue anew: (changed names, (name, why it could not be had) …)."""
    wanted = catalogue.select(_catalogue(), words, arch)
    found = supply.resolve_lock(
        wanted, lock_path(), cache=cache, on_progress=lambda text: emit(Note(text=text))
    )
    return found.changed, found.unavailable


def find_kernel(words: str, cache: Cache, emit: Listener) -> KernelFiles:
    """One kernel: a directory, a name, or a series (its newest)."""
    if Path(words).is_dir() and ("/" in words or not words[:1].isdigit()):
        return supply.from_directory(Path(words), cache=cache)
    known = _lock()
    chosen = catalogue.select(_catalogue(), words, released=_released(known))
    if len({kernel.series for kernel in chosen}) != 1:
        raise UsageError(f"'{words}' names several kernels", hint="name one, such as 6.1-newest")
    kernel = next((k for k in chosen if k.pick is Pick.NEWEST), chosen[0])
    return supply.obtain(kernel, cache=cache, lock=known, on_progress=_saying(kernel, emit))


def images(words: str, cache: Cache, emit: Listener, *, remove: bool) -> list[str]:
    """Build (or remove) the kernel containers; a line for each."""
    if remove:
        return [f"removed {name}" for name in kernel_images.remove_images()]
    say = _noting(emit)
    root = baseroot.obtain(cache, say)
    known = _lock()
    lines: list[str] = []
    for kernel in catalogue.select(_catalogue(), words, released=_released(known)):
        try:
            files = supply.obtain(
                kernel, cache=cache, lock=known, on_progress=_saying(kernel, emit)
            )
        except UnavailableError as error:
            lines.append(f"unavailable: {error.message}")
            continue
        name = kernel_images.ensure_image(files, root, cache, say)
        lines.append(f"{name:<28} {files.release}")
    return lines


def run_command(
    words: str,
    argv: Sequence[str],
    cache: Cache,
    emit: Listener,
    *,
    timeout_s: float,
    src: str,
    backend: str,
) -> session.Outcome:
    """Run a command under a kernel."""
    files, boot_files, where, choice = _session(words, cache, emit, backend=backend)
    emit(Phase(kernel=files.name, phase="run", detail=" ".join(argv)))
    with rundir.run_directory(cache) as run_dir:
        outcome = session.run_command(
            session.Command(argv=tuple(argv), directory=f"/{session.SOURCE}" if src else "/"),
            boot_files, where=where, run_dir=run_dir, accelerators=(choice.accelerator,),
            timeout_s=timeout_s, source=Path(src) if src else None,
        )  # fmt: skip
    if outcome.timed_out:
        emit(Note(text=f"the command did not end within {timeout_s:g} s and was killed"))
    if outcome.lost_bytes:
        emit(Note(text=f"{outcome.lost_bytes} bytes of output were over the limit and are lost"))
    return outcome


def shell(words: str, cache: Cache, emit: Listener) -> Callable[[str], int]:
    """Everything a shell under a kernel needs; call the answer with the directory for /src."""
    _, boot_files, where, choice = _session(words, cache, emit, backend="local")
    if not isinstance(where, Local):
        raise UsageError("a shell runs on this machine", hint="leave --backend away")
    local = where

    def start(src: str) -> int:
        with rundir.run_directory(cache) as run_dir:
            return session.shell(
                boot_files, where=local, run_dir=run_dir, accelerators=(choice.accelerator,),
                source=Path(src) if src else None,
            )  # fmt: skip

    return start


def _session(
    words: str, cache: Cache, emit: Listener, *, backend: str
) -> tuple[KernelFiles, session.Files, Place, accel.Choice]:
    say = _noting(emit)
    root = baseroot.obtain(cache, say)
    files = find_kernel(words, cache, emit)
    archive = baseroot.guest_archive(root, cache, say)
    where = cell.place_of(pipeline.choose_backend(backend, emit), files, root, cache, say)
    choice = accel.choose(where, files.vmlinuz, archive, baseroot.check(root), cache, say)
    return files, session.Files(vmlinuz=files.vmlinuz, base=archive), where, choice


def lock_path() -> Path:
    """The lock file of the catalogue in force."""
    return paths.catalogue_dir() / "kernels.lock"


def _wanted(words: str, directories: Sequence[KernelFiles]) -> tuple[Kernel, ...]:
    """The catalogue's kernels; a directory stands in for its whole series."""
    if directories and not words:
        return ()
    chosen = catalogue.select(_catalogue(), words, released=_released(_lock()))
    given = {(files.series, files.arch) for files in directories}
    return tuple(kernel for kernel in chosen if (kernel.series, kernel.arch) not in given)


def _refuse_twins(directories: Sequence[KernelFiles]) -> None:
    names = [files.name for files in directories]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two --kernel-dir directories are called '{name}'", hint="rename one of them"
            )


def _chosen_checks(words: str) -> tuple[checks.Check, ...]:
    by_name = {check.name: check for check in checks.ALL}
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in (*by_name, "all"):
            raise UsageError(f"unknown check '{name}'", hint=f"there is {', '.join(by_name)}")
    if not names or "all" in names:
        return checks.ALL
    return tuple(check for check in checks.ALL if check.name in names)


def _catalogue() -> catalogue.Catalogue:
    return catalogue.load(paths.catalogue_dir())


def _lock() -> Lock | None:
    path = lock_path()
    return supply.read_lock(path) if path.exists() else None


def _released(lock: Lock | None) -> frozenset[str] | None:
    return lock.released() if lock else None


def _where_from(kernel: Kernel, lock: Lock | None) -> str:
    locked = lock.get(kernel.name) if lock else None
    if locked is not None:
        return f"{locked.release:<26} {locked.called}"
    kinds = dict.fromkeys(type(source).__name__.removesuffix("Source") for source in kernel.sources)
    return f"not locked; from {', '.join(kinds).lower()}"


def _noting(emit: Listener) -> Callable[[str], None]:
    return lambda text: emit(Note(text=text))


def _saying(kernel: Kernel, emit: Listener) -> Callable[[str], None]:
    return lambda text: emit(Phase(kernel=kernel.name, phase="fetch", detail=text))


def _shown(path: Path) -> Path:
    """Relative to the current directory where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
