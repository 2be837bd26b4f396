# SPDX-License-Identifier: Apache-2.0
"""The shards of one matrix → one run, with the evidence of all. A kernel whose shard never came
back is in it as unknown: an absent cell is not green."""

from __future__ import annotations

import datetime
import shutil
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import flaky, quarantine, results
from harness.errors import HarnessError, UsageError
from harness.results import (
    Cause,
    Cell,
    CheckResult,
    KernelFacts,
    Run,
    SubjectFacts,
    Verdict,
    worst,
)

_MOST_BYTES = 1 << 30  # of one file; a console that is kept has some MB


def merge(paths: Sequence[Path], out: Path) -> Run:
    """Merge results files and copy their evidence to `out`.

    A path is a results.json, a directory with one, or a directory of such directories.
    Raises UsageError for shards of different subjects, or that asked a kernel different things.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise UsageError("no results to merge", hint="inv report --merge a/results.json …")
    run = merged([results.read(path) for path in files])
    for path in files:
        _copy_evidence(path.parent, out)
    return run


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    own = path / "results.json"
    return [own] if own.exists() else sorted(path.glob("*/results.json")) or [own]


def merged(runs: Sequence[Run]) -> Run:
    """One run of several; the first is asked where they can only agree."""
    today = datetime.datetime.now(datetime.UTC).date()
    return quarantine.again(_joined(runs), [one for run in runs for one in run.quarantine], today)


def _joined(runs: Sequence[Run]) -> Run:
    first = runs[0]
    for run in runs[1:]:
        if _other_object(first.subject, run.subject):
            raise UsageError(
                f"the shards tested different objects: '{first.subject.name}' "
                f"{first.subject.sha256[:16]} and '{run.subject.name}' {run.subject.sha256[:16]}",
                hint="build once and give every shard that object",
            )
    cells: dict[str, Cell] = {}
    for run in runs:
        for cell in run.cells:
            known = cells.get(cell.kernel.name)
            cells[cell.kernel.name] = cell if known is None else _twice(known, cell)
    planned = tuple(dict.fromkeys(name for run in runs for name in run.run.planned))
    for name in planned:
        if name not in cells:
            cells[name] = _never_came(name)
    order = {name: index for index, name in enumerate(planned)}
    return Run(
        schema=results.SCHEMA,
        run=replace(
            first.run,
            started=min(run.run.started for run in runs),
            duration_s=max(run.run.duration_s for run in runs),
            planned=planned,
            id="",
            notes=tuple(dict.fromkeys([
                *(note for run in runs for note in run.run.notes),
                f"merged from {len(runs)} shards",
            ])),
        ),
        subject=_subject([run.subject for run in runs]),
        checks=_object_checks(runs),
        cells=tuple(sorted(cells.values(), key=lambda c: order.get(c.kernel.name, len(order)))),
        relocations=results.joined_relocations(run.relocations for run in runs),
    )  # fmt: skip


def _other_object(one: SubjectFacts, other: SubjectFacts) -> bool:
    """Whether they have different objects for the same architecture."""
    archs = set(one.objects) & set(other.objects)
    if one.objects and other.objects:
        return one.name != other.name or any(one.objects[a] != other.objects[a] for a in archs)
    return one.sha256 != other.sha256


def _subject(subjects: Sequence[SubjectFacts]) -> SubjectFacts:
    """The first, with the objects of all: a shard may have kernels of one architecture only."""
    objects = {arch: sha256 for one in subjects for arch, sha256 in one.objects.items()}
    return replace(subjects[0], objects=objects)


def _twice(one: Cell, other: Cell) -> Cell:
    """A cell that two shards asked: what only one could tell counts; a contradiction is flaky.

    Raises UsageError when they did not ask the same.
    """
    for lacking, had in ((one, other), (other, one)):
        if lacking.verdict is Verdict.UNAVAILABLE:
            return had
    if not one.inputs or one.inputs != other.inputs:
        raise UsageError(
            f"two shards have the kernel '{one.kernel.name}'",
            hint="merge only shards of one run (--shard 1/n to n/n), or of equal inputs",
        )
    first = {check.check: check for check in one.checks}
    second = {check.check: check for check in other.checks}
    return replace(
        other,
        boot=other.boot or one.boot,
        checks=tuple(
            _of_two(first[name], second[name]) if name in first and name in second
            else first.get(name) or second[name]
            for name in dict.fromkeys([*first, *second])
        ),
        attempts=one.attempts + other.attempts,
        earlier=(*one.earlier, *other.earlier),
    )  # fmt: skip


def _of_two(one: CheckResult, other: CheckResult) -> CheckResult:
    if flaky.contradict(one, other):
        return flaky.answer(
            other, f"one shard {flaky.said(one)}", f"another {flaky.said(other)}", one
        )
    for mine, theirs in ((one, other), (other, one)):
        if mine.cause is Cause.FLAKY or theirs.ours or theirs.cause is Cause.NOT_REACHED:
            return mine
    return one if worst((one.verdict, other.verdict)) is one.verdict else other


def _object_checks(runs: Sequence[Run]) -> tuple[CheckResult, ...]:
    """Each shard asked them; the worse answer counts."""
    found: dict[str, CheckResult] = {}
    for run in runs:
        for check in run.checks:
            known = found.get(check.check)
            if known is None or worst((known.verdict, check.verdict)) is not known.verdict:
                found[check.check] = check
    return tuple(found.values())


def _never_came(name: str) -> Cell:
    series = name.rpartition("-")[0] or name
    return Cell(
        kernel=KernelFacts(name=name, series=series, arch=""),
        boot=None,
        checks=(
            CheckResult(
                check="boot", verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
                summary="the shard with this kernel wrote no results",
                remedy="look at that job's log and run it again",
            ),
        ),
    )  # fmt: skip


def _not_plain(directory: str, names: list[str]) -> set[str]:
    found = set()
    for name in names:
        status = Path(directory, name).lstat()
        plain = stat.S_ISREG(status.st_mode) and status.st_size <= _MOST_BYTES
        if not (plain or stat.S_ISDIR(status.st_mode)):
            found.add(name)
    return found


def _copy_evidence(source: Path, out: Path) -> None:
    """Plain files of the kernels: a shard's links, pipes and devices are nobody's evidence, and
    what the next shard has below a link would be written to wherever that leads."""
    directory = source / results.EVIDENCE
    if directory.is_symlink() or not directory.is_dir() or source.resolve() == out.resolve():
        return
    try:
        shutil.copytree(
            directory, out / results.EVIDENCE, symlinks=True, dirs_exist_ok=True, ignore=_not_plain
        )
    except (OSError, shutil.Error) as error:
        raise HarnessError(
            f"cannot copy '{directory}' to '{out}': {error}", hint="free some space there"
        ) from error
