# SPDX-License-Identifier: Apache-2.0
"""The table objects × relocations × kernels as values, and a column as JSON for the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.btf.kernel import ExternOutcome
from harness.btf.relo import Status
from harness.btf.verdict import Cause, ObjectVerdict, ProgramVerdict, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFile:
    """Where a kernel's type information is, and what else is known of it."""

    name: str
    btf: Path  # raw, or ELF with .BTF
    config: Path | None = None
    system_map: Path | None = None
    release: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelocationRow:
    """A relocation of the object."""

    program: str
    insn: int  # within the program
    kind: str
    path: str
    access: str
    file: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A relocation on a kernel."""

    status: Status
    value: int
    width: int  # bytes a load or store was changed to, 0 if not
    targets: tuple[int, ...]  # matching type ids
    target: str  # the path there, as libbpf prints it
    reason: str
    cilium: str  # what cilium/ebpf would do instead, "" when it agrees


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """An object on a kernel."""

    kernel: str
    failure: str  # why the kernel's BTF could not be used, "" if it could
    cells: tuple[Cell, ...]
    verdict: ObjectVerdict | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectReport:
    """An object on all kernels."""

    path: str
    failure: str  # why the object could not be read
    rows: tuple[RelocationRow, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolveReport:
    """Everything asked for."""

    kernels: tuple[str, ...]
    objects: tuple[ObjectReport, ...]

    @property
    def exit_status(self) -> int:
        """0 all load, 1 something does not, 3 could not tell."""
        verdicts = [
            column.verdict.verdict if column.verdict else Verdict.UNKNOWN
            for one in self.objects
            for column in one.columns
        ]
        if any(one.failure for one in self.objects) or Verdict.FAIL in verdicts:
            return 1
        return 3 if Verdict.UNKNOWN in verdicts else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Kernels on which a relocation has the same outcome."""

    cell: Cell  # of the first of them
    kernels: tuple[str, ...]


def groups(report: ObjectReport, row: int) -> tuple[Group, ...]:
    """The distinct outcomes of a relocation with the kernels that have each, in column order."""
    members: dict[tuple[object, ...], tuple[Cell, list[str]]] = {}
    for column in report.columns:
        if column.failure or row >= len(column.cells):
            continue
        cell = column.cells[row]
        key = (cell.status, cell.value, cell.width, bool(cell.targets), cell.reason, cell.cilium)
        members.setdefault(key, (cell, []))[1].append(column.kernel)
    return tuple(Group(cell=cell, kernels=tuple(names)) for cell, names in members.values())


def encode_column(column: Column) -> str:
    """A column as compact JSON, without the kernel's name."""
    verdict = column.verdict
    return json.dumps(
        [
            column.failure,
            [
                [one.status, one.value, one.width, one.targets, one.target, one.reason, one.cilium]
                for one in column.cells
            ],
            None
            if verdict is None
            else [
                verdict.verdict,
                verdict.error,
                [[p.program, p.verdict, p.cause, p.reasons, p.guarded] for p in verdict.programs],
                [[e.name, e.status, e.value, e.type_id, e.reason] for e in verdict.externs],
                verdict.absent_maps,
            ],
        ],
        separators=(",", ":"),
    )


def decode_column(text: str, kernel: str) -> Column:
    """What `encode_column` wrote; ValueError, TypeError or LookupError if it is something else."""
    failure, cells, verdict = json.loads(text)
    return Column(
        kernel=kernel,
        failure=failure,
        cells=tuple(
            Cell(
                status=Status(status),
                value=value,
                width=width,
                targets=tuple(targets),
                target=target,
                reason=reason,
                cilium=cilium,
            )
            for status, value, width, targets, target, reason, cilium in cells
        ),
        verdict=None if verdict is None else _decode_verdict(*verdict),
    )


def _decode_verdict(
    verdict: str,
    error: str,
    programs: list[tuple[str, str, str, list[str], int]],
    externs: list[tuple[str, str, int | None, int, str]],
    absent_maps: list[str],
) -> ObjectVerdict:
    return ObjectVerdict(
        verdict=Verdict(verdict),
        error=error,
        programs=tuple(
            ProgramVerdict(
                program=program,
                verdict=Verdict(answer),
                cause=Cause(cause),
                reasons=tuple(reasons),
                guarded=guarded,
            )
            for program, answer, cause, reasons, guarded in programs
        ),
        externs=tuple(
            ExternOutcome(name=name, status=status, value=value, type_id=type_id, reason=reason)
            for name, status, value, type_id, reason in externs
        ),
        absent_maps=tuple(absent_maps),
    )


def encode_rows(rows: tuple[RelocationRow, ...]) -> str:
    """Rows as compact JSON."""
    return json.dumps(
        [[r.program, r.insn, r.kind, r.path, r.access, r.file, r.line] for r in rows],
        separators=(",", ":"),
    )


def decode_rows(text: str) -> tuple[RelocationRow, ...] | None:
    """What `encode_rows` wrote; None if it is something else."""
    try:
        return tuple(
            RelocationRow(
                program=program,
                insn=insn,
                kind=kind,
                path=path,
                access=access,
                file=file,
                line=line,
            )
            for program, insn, kind, path, access, file, line in json.loads(text)
        )
    except (ValueError, TypeError):
        return None
