# SPDX-License-Identifier: Apache-2.0
"""From a person's words to requests, and from results to files: what the tasks of `cli` call."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import (
    baseline,
    baseroot,
    build,
    catalogue,
    checks,
    compare,
    executors,
    gate,
    history,
    inventory,
    journal,
    paths,
    pipeline,
    quarantine,
    reporting,
    results,
    rundir,
    supply,
)
from harness import (
    merge as merging,
)
from harness.build import Built
from harness.cache import Cache, sha256_of
from harness.catalogue import Kernel
from harness.checks import command
from harness.checks.context import Where
from harness.errors import UsageError
from harness.journal import Words
from harness.qemu import Arch
from harness.results import Run, Verdict
from harness.sitting import Request, SubjectSource
from harness.subject import COMMAND_TIMEOUT_S, Command, Manifest
from harness.supply import KernelFiles
from harness.toolchain import NATIVE

logger = logging.getLogger(__name__)

REPORTS = Path("reports")
LATEST = REPORTS / "latest" / "results.json"
_EVERY_CHECK = (*checks.ALL, *checks.ON_REQUEST)
_SITTING = {Where.ALONE: "the machine alone", Where.COUNTED: "a guest that counts instructions"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandWords:
    """What --command and its kin said."""

    run: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    attached: bool = False
    timeout_s: float = COMMAND_TIMEOUT_S

    def commands(self) -> tuple[Command, ...]:
        """Named after their programs. UsageError for a file that is not there."""
        for path in self.files:
            if not path.exists():
                raise UsageError(f"no file '{path}' to carry into the guest")
        programs = [run.split()[0].rpartition("/")[2] if run.strip() else "" for run in self.run]
        return tuple(
            Command(
                name=name if programs.count(name) == 1 else f"{name}-{programs[: i + 1].count(name)}",
                run=run, attached=self.attached, timeout_s=self.timeout_s,
            )
            for i, (name, run) in enumerate(zip(programs, self.run, strict=True))
        )  # fmt: skip


def request(
    *,
    cache: Cache,
    kernels: str = "",
    arch: str = "",
    kernel_dirs: Sequence[Path] = (),
    object_path: str = "",
    manifest_path: str = "",
    backend: str = "auto",
    jobs: int = 0,
    check_names: str = "",
    out: str = "",
    append: tuple[str, ...] = (),
    boot_timeout_s: float = 0.0,
    shard: str = "",
    commands: CommandWords | None = None,
    strict: bool = False,
    resume: str = "",
    executor: str = "",
) -> Request:
    """Everything a run needs, checked before anything is built or fetched.

    resume: the directory of a run to go on with; what it was asked holds where nothing else is said.
    """
    given = commands or CommandWords()
    words = Words(
        kernels=kernels, kernel_dirs=tuple(map(str, kernel_dirs)), object=object_path,
        manifest=manifest_path, commands=given.run, files=tuple(map(str, given.files)),
        attached=given.attached, backend="" if backend == "auto" else backend, jobs=jobs,
        timeout_s=given.timeout_s if given.timeout_s != COMMAND_TIMEOUT_S else 0.0,
        checks=check_names, append=append, boot_timeout_s=boot_timeout_s, strict=strict,
    )  # fmt: skip
    if resume:
        if out:
            raise UsageError("--resume names the directory of the report", hint="leave --out away")
        if shard and not (kernels or kernel_dirs):  # it would be a shard of that shard
            raise UsageError(
                "--resume goes on with the kernels of the run, be it a shard",
                hint="leave --shard away, or say --kernels too",
            )
        if arch and not kernels:
            raise UsageError(
                f"--arch {arch}: --resume goes on with the kernels of the run, whatever they are of",
                hint="leave --arch away, or say --kernels too",
            )
        words = words.over(journal.recorded(Path(resume)))
    pipeline.refuse_unknown_backend(words.backend or "auto")
    executors.refuse_unknown(executor)
    directories = {
        path: supply.from_directory(Path(path), cache=cache) for path in words.kernel_dirs
    }
    _refuse_twins(tuple(directories.values()))
    # A resumed run's kernels are recorded by name, which says the architecture.
    wanted = _wanted(words.kernels, tuple(directories.values()), arch or catalogue.ARCHS[0])
    names = (*(one.name for one in wanted), *(one.name for one in directories.values()))
    for twin in directories.values():
        if names.count(twin.name) > 1:
            raise UsageError(
                f"'{twin.name}' is a kernel of the catalogue and a --kernel-dir directory of series "
                f"{twin.series}",
                hint="rename the directory",
            )
    mine = in_shard(shard, names)
    now = datetime.datetime.now().astimezone()
    given = CommandWords(
        run=words.commands, files=tuple(map(Path, words.files)), attached=words.attached,
        # Recorded is only one that differs; 0, said here and now, is refused.
        timeout_s=words.timeout_s or (COMMAND_TIMEOUT_S if resume else given.timeout_s),
    )  # fmt: skip
    source, own_commands = _subject(words.object, words.manifest, given)
    chosen = tuple(one for one in wanted if one.name in mine)
    # reports/latest is a link, and will be made to lead here.
    report_dir = str(Path(resume).resolve()) if resume else out
    return Request(
        subject=source,
        kernels=chosen,
        directories=tuple(one for one in directories.values() if one.name in mine),
        lock=inventory.lock_path(),
        backend=words.backend or "auto",
        jobs=words.jobs,
        checks=_chosen_checks(words.checks, own_commands=own_commands),
        report_dir=(
            Path(report_dir) if report_dir else REPORTS / now.strftime("%Y-%m-%d-%H%M%S")
        ).absolute(),
        append=words.append,
        boot_timeout_s=words.boot_timeout_s or None,
        select=_select(words.object, words.manifest, given),
        sources=_sources(words.object, words.manifest),
        planned=words.planned or names,
        executor=executor,
        words=replace(
            words, kernels=",".join(one.name for one in chosen), planned=words.planned or names,
            kernel_dirs=tuple(path for path, one in directories.items() if one.name in mine),
        ),
    )  # fmt: skip


def _sources(object_path: str, manifest_path: str) -> str:
    """A manifest stands beside its sources; those of a bare object are wherever they are."""
    if object_path:
        return ""
    path = Path(manifest_path) if manifest_path else paths.default_manifest()
    directory = path.resolve().parent
    here = Path.cwd().resolve()
    return str(directory.relative_to(here)) if directory.is_relative_to(here) else ""


def _select(object_path: str, manifest_path: str, commands: CommandWords) -> str:
    """What names the subject on a command line, "" for the default one."""
    given = [
        ("--object", object_path),
        ("--manifest", manifest_path),
        *(("--command", run) for run in commands.run),
        *(("--file", str(path)) for path in commands.files),
    ]
    words = [f"{option} {shlex.quote(value)}" for option, value in given if value]
    return " ".join([*words, *(["--attached"] if commands.attached else [])])


def _subject(
    object_path: str, manifest_path: str, words: CommandWords
) -> tuple[SubjectSource, bool]:
    """Where the subject comes from, and whether it has commands of its own to run."""
    if not words.run:
        if words.files or words.attached or words.timeout_s != COMMAND_TIMEOUT_S:
            raise UsageError(
                "--file, --attached and --timeout are for commands",
                hint="say what to run: --command './my-loader --selftest'",
            )
        path = Path(manifest_path) if manifest_path else paths.default_manifest()
        own = not object_path and bool(build.read_manifest(path).commands)
        return subject_source(object_path, manifest_path), own
    commands = words.commands()
    if object_path or manifest_path:
        source = subject_source(object_path, manifest_path)
        return lambda cache, say, tools=NATIVE: build.with_commands(
            source(cache, say, tools), commands, words.files
        ), True
    alone = build.with_commands(build.from_commands(commands[0].name), commands, words.files)
    return lambda cache, say, tools=NATIVE: alone, True


def subject_source(object_path: str, manifest_path: str) -> SubjectSource:
    """Where the subject comes from; an unreadable one is refused at once."""
    if object_path and manifest_path:
        raise UsageError("--object and --manifest name two subjects", hint="leave one away")
    if object_path:
        built = build.from_object(Path(object_path))
        return lambda cache, say, tools=NATIVE: built
    path = Path(manifest_path) if manifest_path else paths.default_manifest()
    _refuse_unknown_quarantine(build.read_manifest(path), path)
    return lambda cache, say, tools=NATIVE: build.from_manifest(path, cache, say, tools)


def _refuse_unknown_quarantine(manifest: Manifest, path: Path) -> None:
    """UsageError for an entry about no check: it would hold nothing, and nobody would be told."""
    known = (*pipeline.BEFORE_BOOT, *(check.name for check in _EVERY_CHECK))
    for number, one in enumerate(manifest.quarantine, 1):
        if one.check not in known:
            raise UsageError(
                f"{path}: [[quarantine]] {number}: unknown check '{one.check}'",
                hint=f"there is {', '.join(known)}",
            )


def built(manifest_path: str, arch: str, cache: Cache, say: Callable[[str], None]) -> Built:
    """The subject of a manifest, compiled for the kernels of an architecture."""
    if arch not in catalogue.ARCHS:
        raise UsageError(
            f"unknown architecture '{arch}'", hint=f"there is {', '.join(catalogue.ARCHS)}"
        )
    return subject_source("", manifest_path)(cache, say, baseroot.tools(cache, say, Arch(arch)))


def plan_text(wanted: Request, cache: Cache) -> str:
    """What the run will do, before it does it."""
    lines = ["Kernels:", *inventory.plan_lines(wanted.kernels, cache)]
    lines += [f"  {k.name:<14} {k.release:<26} {k.source}" for k in wanted.directories]
    jobs = pipeline.jobs_for(wanted)
    lines += [
        "Checks:      compile, core-access, resolve before any boot; then in each guest, as root:",
        *(_cost(check) for check in wanted.checks),
        *_left_out(wanted),
        f"Backend:     {wanted.backend}; {jobs} guests at once as far as memory is free, "
        f"{wanted.machine.vcpus} CPUs and {wanted.machine.memory_mib} MiB each",
        *([f"Executor:    {wanted.executor}: there, not here"] if wanted.executor else []),
        f"Accelerator: {pipeline.known_accelerator(wanted, cache)}",
        f"Estimate:    {pipeline.estimate_s(wanted, jobs):.0f} s once everything is cached "
        "(under emulation)",
        f"Report:      {_shown(wanted.report_dir)}",
        "",
    ]
    return "\n".join(lines)


def _cost(check: checks.Check) -> str:
    """What a check costs and needs; which of its needs the subject lacks shows when it is built."""
    needs = [*([_SITTING[check.where]] if check.where in _SITTING else []), *check.features]
    return f"  {check.name:<12} {check.estimate_s:5.1f} s  {check.question}" + (
        f" [{', '.join(needs)}]" if needs else ""
    )


def _left_out(wanted: Request) -> list[str]:
    names = [check.name for check in checks.ALL if check not in wanted.checks]
    return [f"             not asked: {', '.join(names)} (--checks all)"] if names else []


@contextlib.contextmanager
def kept(wanted: Request, *, resume: bool) -> Iterator[journal.Journal]:
    """The run's journal; an interrupt before there are results says how to go on."""
    with (
        rundir.scratch(),
        journal.opened(wanted.report_dir, wanted.words, resume=resume) as opened,
    ):
        try:
            yield opened
        except KeyboardInterrupt:
            logger.warning("interrupted; to go on: %s", resume_line(wanted.report_dir))
            raise


def resume_line(report_dir: Path) -> str:
    """What goes on with the run there."""
    return f"inv kernel-matrix --resume {shlex.quote(str(_shown(report_dir)))}"


def resumable(run: Run) -> bool:
    """Whether to go on with it could tell more than it did."""
    return any(check.ours for cell in run.cells for check in cell.checks)


def against_history(run: Run, directory: Path) -> Run:
    """The run with what earlier ones of the same inputs contradict, where reports have a history."""
    if directory.parent.name != REPORTS.name:
        return run
    try:
        past = history.read(directory.parent)
    except UsageError as error:  # the run is over: it still has results to write
        logger.warning("earlier runs cannot contradict this one: %s", error.message)
        return run
    judged = history.contradicted(run, past)
    return quarantine.again(judged, run.quarantine, datetime.datetime.now(datetime.UTC).date())


def write_reports(run: Run, directory: Path) -> list[Path]:
    """Write every form of the results; their paths, as a person would type them."""
    results.write(run, directory / "results.json")
    latest = directory.parent / "latest"
    if directory.parent.name == REPORTS.name:
        if latest.is_symlink() or not latest.exists():
            latest.unlink(missing_ok=True)
            latest.symlink_to(directory.name)
        history.append(run, directory.parent)
    return [_shown(directory / "results.json"), *redraw(directory / "results.json")]


def redraw(path: Path) -> list[Path]:
    """Draw the reports beside a results.json again; GitHub, where it listens, gets the short one."""
    run = results.read(path)
    drawn = reporting.draw(run, path.parent, _past(run, path.parent.parent))
    for name, content in drawn.items():
        results.write_atomically(path.parent / name, content)
    _append_step_summary(drawn[reporting.SHORT])
    return [_shown(path.parent / name) for name in drawn]


def _past(run: Run, reports: Path) -> list[reporting.Past]:
    """Runs of the same subject on the same accelerator up to this one; times of others differ."""
    return [
        reporting.Past(
            started=entry.started, commit=entry.commit, quantities=history.quantities(entry)
        )
        for entry in history.read(reports)
        if entry.subject == run.subject.name
        and entry.started <= run.run.started
        and {kernel.accelerator for kernel in entry.kernels} == {run.run.accelerator}
    ]


def _append_step_summary(short: bytes) -> None:
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not step_summary:
        return
    try:
        with Path(step_summary).open("ab") as file:
            file.write(short + b"\n")
    except OSError as error:
        logger.warning("no step summary in '%s': %s", step_summary, error.strerror)


def merge(paths: Sequence[Path], out: Path) -> tuple[Run, list[Path]]:
    """Join the shards of one matrix and write every form of the whole."""
    run = merging.merge(paths, out.absolute())
    return run, write_reports(run, out.absolute())


def compared(before: Path, after: Path) -> compare.Comparison:
    """Two runs side by side, each a results.json or the directory with it."""
    return compare.compare(results.read(_file(before)), results.read(_file(after)))


def gated(path: Path, policy: Path, *, coverage: Path, object_path: str) -> gate.Decision:
    """Judge a run's results by a policy."""
    return gate.decide(
        results.read(_file(path)), gate.read_policy(policy),
        now=datetime.datetime.now(datetime.UTC), coverage=gate.read_coverage(coverage),
        object_sha256=_sha256(object_path) if object_path else "",
    )  # fmt: skip


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _sha256(path: str) -> str:
    try:
        return sha256_of(Path(path))
    except OSError as error:
        raise UsageError(f"cannot read the object '{path}': {error.strerror}") from error


def update_baseline(results_path: Path, manifest_path: str) -> list[str]:
    """Write what a run found into the manifest's baseline; what that changes, a line each."""
    path = Path(manifest_path) if manifest_path else paths.default_manifest()
    head = build.read_manifest(path).subject
    if not head.baseline:
        raise UsageError(
            f"{path}: the manifest names no baseline",
            hint=f'add baseline = "baselines/{head.name}.json" under [subject]',
        )
    run = results.read(results_path)
    if run.subject.name != head.name:
        raise UsageError(
            f"'{results_path}' is about '{run.subject.name}', the manifest about '{head.name}'",
            hint="name the run's own manifest with --manifest",
        )
    target = path.parent / head.baseline
    old = baseline.read(target) if target.exists() else None
    made, changes = baseline.from_run(run, old)
    if old == made:
        return [*changes, f"{_shown(target)}: unchanged"]
    results.write_atomically(target, baseline.encoded(made))
    return [*changes, f"{_shown(target)}: {len(made.kernels)} kernels"]


def status(run: Run, *, strict: bool) -> int:
    """0: everything asked for holds; 1: a kernel fails; 3: we could not tell.

    What is quarantined decides nothing.
    """
    cells = [results.worst(check.verdict for check in c.checks if check.counts) for c in run.cells]
    verdicts = [*(check.verdict for check in run.checks if check.counts), *cells]
    if Verdict.FAIL in verdicts:
        return 1
    if Verdict.UNKNOWN in verdicts or Verdict.PASS not in cells:
        return 3
    return 3 if strict and Verdict.UNAVAILABLE in verdicts else 0


def _wanted(words: str, directories: Sequence[KernelFiles], arch: str) -> tuple[Kernel, ...]:
    """The catalogue's kernels; a directory stands in for its whole series."""
    if directories and not words:
        return ()
    given = {(files.series, files.arch) for files in directories}
    return tuple(
        kernel
        for kernel in inventory.chosen(words, arch)
        if (kernel.series, kernel.arch) not in given
    )


def in_shard(words: str, planned: Sequence[str]) -> set[str]:
    """Names of shard `i/n`: every n-th kernel, so that old and new are in each; "" is all."""
    if not words:
        return set(planned)
    number, _, count = words.partition("/")
    if not (number.isascii() and count.isascii() and number.isdigit() and count.isdigit()):
        raise UsageError(f"'{words}' is no shard", hint="--shard 1/4 is the first of four")
    if not 1 <= int(number) <= int(count):
        raise UsageError(f"there is no shard {number} of {count}")
    mine = set(planned[int(number) - 1 :: int(count)])
    if not mine:
        raise UsageError(f"shard {words} has no kernel: there are only {len(planned)}")
    return mine


def _refuse_twins(directories: Sequence[KernelFiles]) -> None:
    names = [files.name for files in directories]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two --kernel-dir directories are called '{name}'", hint="rename one of them"
            )


def _chosen_checks(words: str, *, own_commands: bool) -> tuple[checks.Check, ...]:
    """own_commands: the subject has some, which then are asked for without being named."""
    by_name = {check.name: check for check in _EVERY_CHECK}
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in (*by_name, "all"):
            raise UsageError(f"unknown check '{name}'", hint=f"there is {', '.join(by_name)}")
    if "all" in names:
        return tuple(c for c in _EVERY_CHECK if c in checks.ALL or c.name in names)
    if not names:
        asked = command.CHECK.name if own_commands else ""
        return tuple(one for one in checks.ALL if not one.thorough or one.name == asked)
    return tuple(check for check in _EVERY_CHECK if check.name in names)


def _shown(path: Path) -> Path:
    """Relative to the current directory where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
