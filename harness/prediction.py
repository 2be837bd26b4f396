# SPDX-License-Identifier: Apache-2.0
"""The `resolve` check: what libbpf will make of the subject on each kernel, before any boots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness import resolve
from harness.btf.relo import Status
from harness.btf.table import Column, KernelFile, ObjectReport, groups
from harness.btf.verdict import Cause as Why
from harness.btf.verdict import ProgramVerdict
from harness.btf.verdict import Verdict as Predicted
from harness.cache import Cache
from harness.resolve import REMEDIES
from harness.results import (
    Cause,
    CheckResult,
    Evidence,
    Figure,
    Finding,
    Relocation,
    RelocationOutcome,
    Verdict,
)
from harness.subject import Program, Subject
from harness.supply import KernelFiles

NAME = "resolve"
INDEX_DIR = "btf-index"
_CAUSE = {
    Why.RELOCATION: Cause.CORE_RELOCATION,
    Why.MAP: Cause.MAP_UNSUPPORTED,
    Why.ATTACH: Cause.ATTACH_FAILED,
    Why.EXTERN: Cause.FEATURE_MISSING,
    Why.HELPER: Cause.FEATURE_MISSING,
    Why.PROGRAM_TYPE: Cause.FEATURE_MISSING,
    Why.SECTION: Cause.COMPILE,
}


# What a loader may look at before it chooses which of its programs to load.
_CHOSEN = (Why.ATTACH, Why.HELPER, Why.PROGRAM_TYPE, Why.EXTERN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Types:
    """A kernel's type information, as files, and the store of its indexes."""

    kernel: KernelFile
    index_dir: Path


def types_of(files: KernelFiles, cache: Cache) -> Types | None:
    """None for a kernel without BTF, its own or a detached one."""
    if files.btf is None:
        return None
    kernel = KernelFile(
        name=files.name, btf=files.btf, config=files.config, system_map=files.system_map,
        release=files.release,
    )  # fmt: skip
    return Types(kernel=kernel, index_dir=cache.directory(INDEX_DIR))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What libbpf will make of the subject, before any kernel boots."""

    answers: dict[str, CheckResult]  # by the kernel's name
    relocations: tuple[Relocation, ...] = ()


def predict(subject: Subject, kernels: Iterable[KernelFiles], cache: Cache) -> Prediction:
    """An answer for each kernel, and what each relocation becomes on them."""
    all_files = list(kernels)
    if subject.object is None:
        return Prediction(answers={files.name: _without_object() for files in all_files})
    known = [types for files in all_files if (types := types_of(files, cache)) is not None]
    answers = {files.name: _without_types() for files in all_files}
    if not known:
        return Prediction(answers=answers)
    report = resolve.resolve_many(
        [subject.object], [types.kernel for types in known], cache_dir=known[0].index_dir
    )
    resolved = report.objects[0]
    for column in resolved.columns:
        judged = _judged(subject, column, resolved.failure)
        answers[column.kernel] = replace(judged, findings=_findings(resolved, column))
    return Prediction(answers=answers, relocations=_relocations(resolved))


def _relocations(resolved: ObjectReport) -> tuple[Relocation, ...]:
    return tuple(
        Relocation(
            program=row.program, insn=row.insn, kind=row.kind, path=row.path, file=row.file,
            line=row.line,
            outcomes=tuple(
                RelocationOutcome(
                    kernels=group.kernels, status=group.cell.status, value=group.cell.value,
                    width=group.cell.width, target=group.cell.target, reason=group.cell.reason,
                )
                for group in groups(resolved, number)
            ),
        )
        for number, row in enumerate(resolved.rows)
    )  # fmt: skip


def _findings(resolved: ObjectReport, column: Column) -> tuple[Finding, ...]:
    """Relocations that stop the object, and those that a program fails by."""
    if column.verdict is None:
        return ()
    # Poison is refused only where it is reached; the reasons of a program name those places.
    refused = {
        reason.partition(" ")[0]
        for program in column.verdict.programs
        if program.verdict is Predicted.FAIL
        for reason in program.reasons
    }
    return tuple(
        Finding(
            rule="unresolved-relocation",
            certain=True,
            message=f"{row.kind} {row.path}: {cell.reason}",
            program=row.program, insn=row.insn, file=row.file, line=row.line,
        )
        for row, cell in zip(resolved.rows, column.cells, strict=False)
        if cell.status is Status.ERROR
        or (cell.status is Status.POISON and f"{row.program}+{row.insn}" in refused)
    )  # fmt: skip


def _judged(subject: Subject, column: Column, failure: str) -> CheckResult:
    verdict = column.verdict
    if verdict is None:
        return CheckResult(
            check=NAME, verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
            summary=failure or column.failure, remedy="see inv inspect for the object itself",
        )  # fmt: skip
    guarded = sum(program.guarded for program in verdict.programs)
    resolved = len(column.cells) - guarded
    figures = (
        Figure(name="resolved relocations", value=float(resolved), unit="1"),
        Figure(name="poisoned but guarded", value=float(guarded), unit="1"),
    )
    open_programs = [
        program
        for program in verdict.programs
        if program.verdict in (Predicted.FAIL, Predicted.UNKNOWN)
        and not _excused(subject, program, verdict.absent_maps)
    ]
    failed = [program for program in open_programs if program.verdict is Predicted.FAIL]
    if failed or verdict.error:
        first = failed[0] if failed else None
        why = first.cause if first else Why.RELOCATION
        said = "; ".join(first.reasons) if first else verdict.error
        return CheckResult(
            check=NAME, verdict=Verdict.FAIL, cause=_CAUSE.get(why, Cause.CORE_RELOCATION),
            summary=f"{first.program + ': ' if first else ''}{said}",
            remedy=_remedy(why, first), figures=figures,
            evidence=tuple(
                Evidence(title=program.program, text="\n".join(program.reasons))
                for program in failed
            ),
        )  # fmt: skip
    # A function may be there to attach to without being in the BTF: the guest tells.
    left = [program for program in open_programs if program.cause is Why.ATTACH]
    open_programs = [program for program in open_programs if program not in left]
    if open_programs:
        first = open_programs[0]
        return CheckResult(
            check=NAME, verdict=Verdict.UNKNOWN, cause=Cause.NONE,
            summary=f"{first.program}: {'; '.join(first.reasons)}",
            remedy=_remedy(first.cause, first), figures=figures,
        )  # fmt: skip
    return CheckResult(
        check=NAME, verdict=Verdict.PASS, figures=figures,
        summary="; ".join(
            f"left to the guest: {program.program}: {'; '.join(program.reasons)}"
            for program in left
        ),
    )  # fmt: skip


def _remedy(why: Why, program: ProgramVerdict | None) -> str:
    known = REMEDIES.get(why, "")
    if program is None or why not in _CHOSEN:
        return known
    return f"{known}; or, in a manifest: [programs.{program.program}] optional = true"


def _excused(subject: Subject, program: ProgramVerdict, absent_maps: tuple[str, ...]) -> bool:
    """The manifest lets the program be missing, or says what becomes of the map."""
    manifest = subject.manifest
    said = manifest.programs.get(program.program, Program())
    # What it needs is probed in the guest, which then tells.
    if said.optional or (said.needs and program.cause in _CHOSEN):
        return True
    fallbacks = {name for name, described in manifest.maps.items() if described.fallback}
    return program.cause is Why.MAP and set(absent_maps) <= fallbacks


def _without_object() -> CheckResult:
    return CheckResult(
        check=NAME, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
        summary="the subject has no object",
    )  # fmt: skip


def _without_types() -> CheckResult:
    return CheckResult(
        check=NAME, verdict=Verdict.FAIL, cause=Cause.BTF_MISSING,
        summary="the kernel has no BTF, and none was given beside it",
        remedy="put the kernel's BTF beside its image as vmlinux.btf: from BTFHub, or made with "
        "pahole from the distribution's debug package",
    )  # fmt: skip
