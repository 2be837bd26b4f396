# SPDX-License-Identifier: Apache-2.0
"""A person's words → `inv bench resolve`, and the benches that make whole runs: scale, soak."""

from __future__ import annotations

import datetime
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from harness import admission, job, pipeline, process, results, rundir, static, supply
from harness.bench import resolve, scale, simulated, soak
from harness.cache import Cache
from harness.errors import UsageError
from harness.inventory import noting
from harness.progress import Event, Listener, Note
from harness.results import Run, Verdict
from harness.sitting import Request

_GUESTS = (1, 2, 4)  # at once
_KERNELS, _OBJECTS = 500, 20  # of the simulated matrix
_FEW = "5.10-oldest,6.1-oldest,6.12-newest,7.3-newest"


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What was said on the command line; "" is a default."""

    kernels: str = ""
    checks: str = ""
    backend: str = "local"
    results: str = ""  # of a recorded run
    out: str = ""
    jobs: int = 0


def measure_resolve(
    object_path: str, kernels: str, rounds: int, cache: Cache, emit: Listener
) -> tuple[str, Verdict]:
    """An object's relocations on the kernels' BTF, against bpftool; "" is the DNS observer."""
    subject = job.subject_source(object_path, "")(cache, noting(emit)).subject
    types = static.bring_together(
        (static.KERNELS,), (), cache, emit, kernels=kernels, arch="x86_64"
    )
    if subject.object is None:
        raise UsageError("the subject has no object to resolve")
    found = resolve.measure(subject.object, types, rounds=rounds)
    return resolve.render(found), Verdict.PASS if found.good else Verdict.FAIL


def measure_scale(words: Words, cache: Cache, emit: Listener) -> tuple[str, Verdict]:
    """Real guests at 1, 2, 4 at once, then a large matrix of recorded cells."""
    with rundir.scratch() as scratch:
        recorded = words.results
        paces: tuple[scale.Pace, ...] = ()
        if not recorded:
            request = _request(replace(words, out=str(scratch / "runs")), cache, few=True)

            def once(guests: int) -> Run:
                return _one(replace(request, jobs=guests), cache, _notes_only(emit))

            paces = scale.measure(once, _GUESTS, noting(emit))
            recorded = str(request.report_dir / "results.json")
        run = results.read(Path(recorded))
        with tempfile.TemporaryDirectory() as directory:
            found = simulated.measure(
                run, kernels=_KERNELS, objects=_OBJECTS, scratch=Path(directory), say=noting(emit)
            )
    texts = [scale.render(paces, admission.cores()), ""] if paces else []
    verdict = Verdict.PASS if scale.good(paces) and found.good else Verdict.FAIL
    return "\n".join([*texts, simulated.render(found)]), verdict


def measure_soak(words: Words, cells: int, cache: Cache, emit: Listener) -> tuple[str, Verdict]:
    """`cells` real cells, one pass over the kernels after another."""
    if cells < 1:
        raise UsageError("--cells wants a number of cells")
    now = datetime.datetime.now().astimezone()
    out = Path(words.out) if words.out else job.REPORTS / now.strftime("soak-%Y-%m-%d-%H%M%S")
    request = _request(replace(words, out=str(out)), cache, few=False)
    lock = supply.read_lock(request.lock) if request.lock.exists() else None
    if not words.kernels and lock is not None:  # those that can be had: the others boot nothing
        locked = tuple(kernel for kernel in request.kernels if lock.get(kernel.name))
        request = replace(request, kernels=locked)

    def once(number: int, most: int, listen: Listener) -> Run:
        few = replace(
            request, kernels=request.kernels[:most], report_dir=out.absolute() / f"{number:03d}"
        )
        few = replace(few, planned=tuple(kernel.name for kernel in few.kernels))
        return _one(few, cache, listen)

    with rundir.scratch() as scratch:
        found = soak.measure(once, cells=cells, emit=emit, scratch=scratch, clock=time.monotonic)
    return soak.render(found), found.verdict


def _request(words: Words, cache: Cache, *, few: bool) -> Request:
    return job.request(
        cache=cache, kernels=words.kernels or (_FEW if few else ""), backend=words.backend,
        check_names=words.checks or ("load" if few else ""), out=words.out, jobs=words.jobs,
    )  # fmt: skip


def _one(request: Request, cache: Cache, emit: Listener) -> Run:
    """A run as `inv kernel-matrix` makes it: journal, cells, every report."""
    with job.kept(request, resume=False) as kept:
        run = pipeline.run(request, cache, emit, kept)
        job.write_reports(run, request.report_dir)
        kept.end()
        if process.stopping():  # the interrupt ended this run, and is to end the bench
            raise KeyboardInterrupt
    return run


def _notes_only(emit: Listener) -> Listener:
    def listen(event: Event) -> None:
        if isinstance(event, Note):
            emit(event)

    return listen
