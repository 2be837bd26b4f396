# SPDX-License-Identifier: Apache-2.0
"""The tasks that a person types: arguments in, exit status out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from harness import (
    benches,
    bpfobject,
    compare,
    doctor,
    entry,
    export,
    gate,
    inventory,
    job,
    launch,
    pipeline,
    project,
    reporting,
    resolve,
    runner,
    static,
)  # fmt: skip
from harness import security as guarding
from harness.cache import Cache
from harness.entry import STATUS, columns, finish, guarded, number, show
from harness.errors import UsageError
from harness.progress import Note, Progress

_KERNELS_HELP = {
    "kernels": "tiers (core, lts, edge), series (5.10), names (5.10-oldest), stable, all; "
    "comma-separated (default: core,lts,stable)"
}
_ARCH_HELP = (
    "of those kernels: x86_64 (default), arm64, all; full names (6.1-oldest-arm64) need none"
)
_BACKEND_HELP = "auto, docker or local"
_KERNEL_HELP = "name, series (its newest) or a directory"
_SRC_HELP = "a directory that the guest sees as /src"


@task(
    name="kernel-matrix",
    iterable=["kernel_dir", "append", "command", "file"],
    help={
        **_KERNELS_HELP,
        "arch": _ARCH_HELP,
        "kernel-dir": "a directory with a kernel that someone built (repeatable)",
        "backend": _BACKEND_HELP,
        "object": "a compiled .bpf.o to test instead of the DNS observer",
        "manifest": "a subject manifest to test instead of the DNS observer's",
        "jobs": "guests at once (default: as many as cores and memory carry)",
        "strict": "unavailable kernels make the exit status 3",
        "checks": "comma-separated check names, or all (default: the quick ones)",
        "out": "directory of the report (default: reports/<time>)",
        "append": "a word for the kernels' command line (repeatable)",
        "boot-timeout": "seconds a kernel may take to boot",
        "executor": "who answers: local, or dask://HOST:PORT of a scheduler (default: local)",
        "shard": "i/n: only every n-th kernel from the i-th on; inv report --merge joins them",
        "plan": "print the plan and do nothing",
        "command": "what to run in each guest, as bash reads it; status 0 passes (repeatable)",
        "file": "a file for --command, beside which it runs (repeatable)",
        "attached": "run --command while the object is attached",
        "timeout": "seconds each --command may take",
        "resume": "a report's directory: go on with that run (say --executor again)",
    },
)
@guarded
def kernel_matrix(
    c: Context,
    kernels: str = "",
    arch: str = "",
    kernel_dir: Sequence[str] | None = None,
    object: str = "",
    manifest: str = "",
    backend: str = "auto",
    jobs: str = "0",
    strict: bool = False,
    checks: str = "",
    out: str = "",
    append: Sequence[str] | None = None,
    boot_timeout: str = "0",
    shard: str = "",
    executor: str = "",
    plan: bool = False,
    command: Sequence[str] | None = None,
    file: Sequence[str] | None = None,
    attached: bool = False,
    timeout: str = "60",
    resume: str = "",
) -> None:
    """Build, boot every kernel, run every check, write the report."""
    cache = Cache.default()
    request = job.request(
        cache=cache, kernels=kernels, arch=arch, kernel_dirs=[Path(p) for p in kernel_dir or ()], object_path=object,
        manifest_path=manifest, backend=backend, jobs=number("jobs", jobs), check_names=checks, out=out,
        append=tuple(append or ()), boot_timeout_s=float(number("boot-timeout", boot_timeout)),
        shard=shard, executor=executor,
        commands=job.CommandWords(
            run=tuple(command or ()), files=tuple(Path(p) for p in file or ()), attached=attached,
            timeout_s=float(number("timeout", timeout)),
        ),
        strict=strict, resume=resume,
    )  # fmt: skip
    show(job.plan_text(request, cache))
    if plan:
        return
    with job.kept(request, resume=bool(resume)) as kept:
        with Progress() as emit:
            run = job.against_history(pipeline.run(request, cache, emit, kept), request.report_dir)
        show(f"\n{reporting.table(run, columns())}\n")  # first: a disk may refuse the files
        if told := reporting.problems_text(run):
            show(f"{told}\n")
        show(reporting.verdict_line(run))
        for path in job.write_reports(run, request.report_dir):
            show(f"  {path}")
        kept.end()
    if job.resumable(run):
        show(f"\nnot finished; to go on: {job.resume_line(request.report_dir)}")
    finish(job.status(run, strict=request.words.strict))


@task(
    name="build",
    help={
        "manifest": "a subject manifest (default: the DNS observer's)",
        "out": "copy the subject there, with a manifest that builds nothing",
        "arch": "of the kernels it is for: x86_64 (default) or arm64",
    },
)
@guarded
def build_task(c: Context, manifest: str = "", out: str = "", arch: str = "x86_64") -> None:
    """Compile the subject and print where its object is."""
    with Progress() as emit:
        built = job.built(manifest, arch, Cache.default(), lambda t: emit(Note(text=t)))
    show(f"{built.compile.verdict}: {built.subject.object or built.compile.summary}")
    if out:
        show(f"  {export.export(built.subject, Path(out))}")
    finish(STATUS.get(built.compile.verdict, 0))


_KERNELS_ACTIONS = ("list", "fetch", "lock", "images", "shards")


@task(
    name="kernels",
    positional=["action"],
    help={
        **_KERNELS_HELP,
        "action": f"{', '.join(_KERNELS_ACTIONS)}",
        "arch": _ARCH_HELP,
        "remove": "images: remove them instead",
        "size": "shards: kernels in each",
    },
)
@guarded
def kernels_task(
    c: Context,
    action: str,
    kernels: str = "",
    arch: str = "x86_64",
    remove: bool = False,
    size: str = "2",
) -> None:
    """The catalogue: list it, fetch kernels, lock versions, build kernel containers."""
    cache = Cache.default()
    if action == "list":
        show(inventory.kernels_text(kernels, arch, cache))
        return
    if action == "shards":
        show(inventory.shards(kernels, number("size", size)))
        return
    with Progress() as emit:
        match action:
            case "fetch":
                lines, status = inventory.fetch(kernels, arch, cache, emit)
            case "lock":
                lines, status = inventory.lock(kernels or "all", arch, cache, emit)
            case "images":
                lines, status = inventory.images(kernels, arch, cache, emit, remove=remove)
            case _:
                raise UsageError(
                    f"unknown action '{action}'", hint=f"there is {', '.join(_KERNELS_ACTIONS)}"
                )
    for line in lines:
        show(line)
    finish(status)


@task(
    name="inspect",
    positional=["object"],
    help={"object": "a .bpf.o", "json": "as JSON"},
)
@guarded
def inspect_task(c: Context, object: str, json: bool = False) -> None:
    """Programs, maps, data, externs, relocations, and what the object needs of a kernel."""
    facts = bpfobject.inspect(Path(object))
    show(bpfobject.to_json(facts) if json else bpfobject.render_text(facts))


@task(
    name="resolve",
    positional=["object"],
    iterable=["btf", "kernel_dir"],
    help={
        "object": "a .bpf.o or a directory of them; several may follow each other",
        "btf": "a BTF file, a directory of them, or 'kernels': the catalogue's (repeatable)",
        "kernels": "with --btf kernels: which ones (default: all)",
        "kernel-dir": "a directory with a kernel that someone built (repeatable)",
        "arch": "with --btf kernels: x86_64, arm64 or all",
        "json": "as JSON",
        "verbose": "every relocation, not only what differs or fails",
    },
)
@guarded
def resolve_task(
    c: Context,
    object: str,
    btf: Sequence[str] | None = None,
    kernels: str = "",
    kernel_dir: Sequence[str] | None = None,
    arch: str = "x86_64",
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Every relocation on every kernel's BTF, as libbpf would decide, without booting one."""
    cache = Cache.default()
    objects = static.objects(object)
    with Progress() as emit:
        types = static.bring_together(
            btf or (), kernel_dir or (), cache, emit, kernels=kernels, arch=arch
        )
    found = static.resolve_here(objects, types, cache)
    show(resolve.to_json(found) if json else resolve.render_text(found, verbose=verbose))
    finish(found.exit_status)


@task(
    name="run",
    help={
        "kernel": _KERNEL_HELP,
        "timeout": "seconds the command may take",
        "src": _SRC_HELP,
        "backend": _BACKEND_HELP,
    },
)
@guarded
def run_task(
    c: Context, kernel: str, timeout: str = "600", src: str = "", backend: str = "local"
) -> None:
    """Run a command under a kernel: inv run --kernel 6.1 -- uname -r."""
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    if not words:
        raise UsageError("no command given", hint="inv run --kernel 6.1 -- uname -r")
    with Progress() as emit:
        outcome = launch.run_command(
            kernel, words, Cache.default(), emit,
            timeout_s=float(number("timeout", timeout)), src=src, backend=backend,
        )  # fmt: skip
    sys.stdout.buffer.write(outcome.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(outcome.stderr)
    sys.stderr.flush()
    # As timeout(1) and a kernel container say it: a command that ended says its own status.
    finish(124 if outcome.timed_out else 125 if outcome.lost_bytes else outcome.status)


@task(name="shell", help={"kernel": _KERNEL_HELP, "src": _SRC_HELP})
@guarded
def shell_task(c: Context, kernel: str, src: str = "") -> None:
    """A shell on the console of a guest."""
    with Progress() as emit:
        start = launch.shell(kernel, Cache.default(), emit)
    finish(start(src))


@task(
    name="report",
    positional=[],
    iterable=["merge"],
    help={
        "results": "a results.json (default: that of the latest run)",
        "merge": "results.json of a shard, or the directory with it (repeatable)",
        "out": "with --merge: directory of the merged report",
    },
)
@guarded
def report_task(
    c: Context, results: str = "", merge: Sequence[str] | None = None, out: str = ""
) -> None:
    """Redraw every report from results.json, or merge those of shards."""
    if not merge:
        for written in job.redraw(Path(results) if results else job.LATEST):
            show(f"  {written}")
        return
    if not out:
        raise UsageError("--merge needs --out, the directory of the merged report")
    run, files = job.merge([Path(one) for one in merge], Path(out))
    show(f"{reporting.table(run, columns())}\n\n{reporting.verdict_line(run)}")
    for written in files:
        show(f"  {written}")


@task(
    name="compare",
    positional=["before", "after"],
    help={"before": "results.json of a run, or the directory with it", "after": "of another"},
)
@guarded
def compare_task(c: Context, before: str, after: str) -> None:
    """What changed between two runs, as Markdown; status 1 on a regression."""
    found = job.compared(Path(before), Path(after))
    show(compare.markdown(found), end="")
    finish(1 if found.regressions else 0)


@task(
    name="gate",
    positional=[],
    help={
        "results": "a results.json (default: that of the latest run)",
        "policy": "what a release must show (default: gate.toml)",
        "coverage": "JSON report of coverage.py (default: that of the last inv test)",
        "object": "what is to be released; results of another object are refused",
    },
)
@guarded
def gate_task(
    c: Context, results: str = "", policy: str = "gate.toml", coverage: str = "", object: str = ""
) -> None:
    """The release gating checklist: status 0 open, 1 refused, 3 something was not measured."""
    decision = job.gated(
        Path(results) if results else job.LATEST, Path(policy),
        coverage=Path(coverage) if coverage else project.COVERAGE, object_path=object,
    )  # fmt: skip
    show(gate.text(decision))
    finish(decision.status)


@task(
    name="baseline",
    positional=[],
    help={
        "results": "a results.json (default: that of the latest run)",
        "manifest": "the subject's manifest (default: the DNS observer's)",
    },
)
@guarded
def baseline_task(c: Context, results: str = "", manifest: str = "") -> None:
    """Agree to what a run's programs cost: write it into the manifest's baseline."""
    path = Path(results) if results else job.LATEST
    for line in job.update_baseline(path, manifest):
        show(line)


@task(
    name="doctor",
    help={
        "prepare": "do for a CI runner what needs doing: /dev/kvm for everyone, Debian's mirror",
        "security": "start a guest's QEMU and tell what really keeps it in",
    },
)
@guarded
def doctor_task(c: Context, prepare: bool = False, security: bool = False) -> None:
    """What this machine has, lacks, and how to get it."""
    if security:
        inspected = guarding.inspect(Cache.default())
        show(guarding.render(inspected))
        finish(0 if guarding.holds(inspected) else 3)
        return
    if prepare:
        for line in runner.prepare():
            show(line)
        return
    found = doctor.report()
    show(doctor.render(found))
    finish(0 if found.healthy else 1)


@task(name="schema")
@guarded
def schema_task(c: Context) -> None:
    """Write reports/schema/ from the structs that results are made of."""
    show(project.write_schema())


@task(name="lint")
@guarded
def lint_task(c: Context) -> None:
    """ruff, mypy, import layers."""
    finish(project.lint())


@task(
    name="test",
    help={
        "fast": "leave the tests out that boot kernels",
        "k": "pytest's -k",
        "m": "pytest's -m, and no lint: faults (a quarter of an hour), slow",
    },
)
@guarded
def test_task(c: Context, fast: bool = False, k: str = "", m: str = "") -> None:
    """Lint, unit tests, and tests that boot the oldest and the newest kernel; coverage."""
    finish(project.test(fast=fast, expression=k, markers=m))


@task(
    name="bench",
    positional=["action"],
    help={
        "action": "boot (against bare QEMU and virtme-ng), resolve (against bpftool), scale (guests "
        "at once; 10,000 simulated cells) or soak (many cells in one process)",
        "kernel": "boot: name or series (its newest)",
        "kernels": "resolve: whose BTF (default: all); scale, soak: which ones",
        "object": "resolve: a .bpf.o (default: the DNS observer)",
        "rounds": "measurements of each contender",
        "checks": "scale, soak: comma-separated check names (scale: load; soak: the quick ones)",
        "results": "scale: a recorded results.json to tell again, without guests of its own",
        "cells": "soak: how many",
        "out": "soak: directory of its reports (default: reports/soak-<time>)",
        "jobs": "soak: guests at once (default: as many as cores and memory carry)",
    },
)
@guarded
def bench_task(
    c: Context,
    action: str,
    kernel: str = "6.1",
    kernels: str = "",
    object: str = "",
    rounds: str = "5",
    checks: str = "",
    results: str = "",
    cells: str = "100",
    out: str = "",
    jobs: str = "0",
) -> None:
    """Measure ourselves: against others, interleaved, as ratios; at scale; for long."""
    cache = Cache.default()
    words = benches.Words(
        kernels=kernels, checks=checks, results=results, out=out, jobs=number("jobs", jobs)
    )
    with Progress() as emit:
        if action == "boot":
            text, verdict = launch.bench_boot(kernel, number("rounds", rounds), cache, emit)
        elif action == "resolve":
            text, verdict = benches.measure_resolve(
                object, kernels, number("rounds", rounds), cache, emit
            )
        elif action == "scale":
            text, verdict = benches.measure_scale(words, cache, emit)
        elif action == "soak":
            text, verdict = benches.measure_soak(words, number("cells", cells), cache, emit)
        else:
            raise UsageError(
                f"unknown action '{action}'", hint="there is boot, resolve, scale, soak"
            )
    show(text)
    finish(STATUS[verdict])


_TASKS = (
    kernel_matrix, build_task, inspect_task, resolve_task, kernels_task, run_task, shell_task,
    report_task, compare_task, gate_task, baseline_task, doctor_task, bench_task,
)  # fmt: skip
_installed = Collection(*_TASKS)
namespace = Collection(*_TASKS, schema_task, lint_task, test_task)  # of a checkout


def main() -> None:
    """The console script `kernel-matrix`; from a checkout it has the project's own tasks too."""
    entry.run(namespace if project.is_checkout() else _installed)
