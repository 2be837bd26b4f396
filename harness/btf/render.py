# SPDX-License-Identifier: Apache-2.0
"""The table of objects, relocations and kernels as text for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from tabulate import tabulate

from harness import intake
from harness.btf.relo import Status
from harness.btf.table import Cell, Column, Group, ObjectReport, ResolveReport, groups
from harness.btf.verdict import Cause, ProgramVerdict, Verdict

JSON_VERSION: Final = 1
_SHOWN_KERNELS: Final = 4

REMEDIES: Final = {
    Cause.RELOCATION: "guard the access with bpf_core_field_exists(), or add a flavour (struct x___y)",
    Cause.EXTERN: "declare the symbol __weak and test it before use",
    Cause.ATTACH: 'attach to another function there, or mark the program optional with SEC("?…")',
    Cause.HELPER: "test for the helper with bpf_core_enum_value_exists(enum bpf_func_id, …)",
    Cause.MAP: "let the loader probe the map type and leave the map out or replace it",
    Cause.PROGRAM_TYPE: "let the loader leave the program out on kernels without this type",
    Cause.SECTION: "use a section name that libbpf knows",
    Cause.COMPLEXITY: "load it in a guest: the static analysis gave up",
    Cause.NONE: "",
}


def render_text(report: ResolveReport, *, verbose: bool = False) -> str:
    """For a terminal: verdicts, then relocations whose outcome is not the same and good everywhere.

    `verbose` shows all relocations.
    """
    parts = []
    for one in report.objects:
        if one.failure:
            parts.append(f"{one.path}: {one.failure}")
            continue
        parts.append(f"{one.path}: {len(one.rows)} relocations on {len(one.columns)} kernels")
        parts.append(_verdict_table(one))
        parts.append(_relocation_table(one, verbose))
        parts.append(_reasons(one))
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict_table(one: ObjectReport) -> str:
    """Kernels with the same verdicts share a line."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for column in one.columns:
        if column.verdict is None:
            key: tuple[str, ...] = ("unknown", column.failure)
        else:
            bad = [
                f"{program.program}: {program.verdict} ({program.cause})"
                for program in column.verdict.programs
                if program.verdict in (Verdict.FAIL, Verdict.UNKNOWN)
            ]
            passed = sum(p.verdict is Verdict.PASS for p in column.verdict.programs)
            guarded = sum(p.guarded for p in column.verdict.programs)
            notes = [f"{passed} programs pass"]
            notes += [f"{guarded} poisoned but guarded"] if guarded else []
            notes += [f"object: {column.verdict.error}"] if column.verdict.error else []
            key = (str(column.verdict.verdict), "; ".join(notes + _short(bad)))
        lines.setdefault(key, []).append(column.kernel)
    rows = [
        [_line(word) for word in (key[0], _kernels(names), key[1])] for key, names in lines.items()
    ]
    return tabulate(rows, headers=("verdict", "kernels", "programs"), tablefmt="plain")


def _relocation_table(one: ObjectReport, verbose: bool) -> str:
    rows: list[list[str]] = []
    plain = 0
    for number, row in enumerate(one.rows):
        found = groups(one, number)
        if not verbose and len(found) == 1 and found[0].cell.status is Status.RESOLVED:
            plain += 1
            continue
        for position, group in enumerate(found):
            place = f"{row.program}+{row.insn}" if position == 0 else ""
            what = f"{row.kind} {row.path}" if position == 0 else ""
            row_words = (place, what, outcome_text(group.cell), _kernels(group.kernels))
            rows.append([_line(word) for word in row_words])
    head = ("place", "relocation", "outcome", "kernels")
    table = tabulate(rows, headers=head, tablefmt="plain", disable_numparse=True) if rows else ""
    note = f"{plain} relocations have one value on all kernels" if plain else ""
    return "\n".join(part for part in (table, note) if part)


def outcome_text(cell: Cell) -> str:
    """`= 16`, `absent = 0`, `poison`, `error: …`."""
    width = f" ({cell.width}-byte access)" if cell.width else ""
    texts = {
        Status.RESOLVED: f"= {cell.value}{width}",
        Status.ABSENT: f"absent = {cell.value}",
        Status.POISON: f"poison: {cell.reason}",
        Status.ERROR: f"error: {cell.reason}",
    }
    return texts[cell.status] + (f" [cilium/ebpf: {cell.cilium}]" if cell.cilium else "")


def _reasons(one: ObjectReport) -> str:
    """Each distinct reason with its kernels and what to do."""
    found: dict[tuple[str, Cause, str], list[str]] = {}
    for column in one.columns:
        for program in column.verdict.programs if column.verdict else ():
            for reason in program.reasons:
                key = (program.program, program.cause, reason)
                found.setdefault(key, []).append(column.kernel)
    lines = [
        f"{_line(program)}: {_line(reason)}\n  on {_kernels(names)}"
        + (f"\n  remedy: {REMEDIES[cause]}" if REMEDIES[cause] else "")
        for (program, cause, reason), names in found.items()
    ]
    return "\n".join(lines)


def _line(words: str) -> str:
    """Names of an object and of kernels, in a table."""
    return intake.line(words)


def _short(texts: list[str], most: int = 3) -> list[str]:
    rest = len(texts) - most
    return texts[:most] + ([f"and {rest} more"] if rest > 0 else [])


def _kernels(names: Sequence[str]) -> str:
    if len(names) <= _SHOWN_KERNELS:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)})"


def to_json(report: ResolveReport) -> str:
    """The report as a JSON document; outcomes are grouped by kernels."""
    return json.dumps(
        {
            "version": JSON_VERSION,
            "kernels": report.kernels,
            "objects": [_object_json(one) for one in report.objects],
        },
        indent=1,
    )


def _object_json(one: ObjectReport) -> dict[str, object]:
    return {
        "path": one.path,
        "failure": one.failure,
        "relocations": [
            {
                "program": row.program,
                "insn": row.insn,
                "kind": row.kind,
                "path": row.path,
                "access": row.access,
                "file": row.file,
                "line": row.line,
                "outcomes": [_group_json(group) for group in groups(one, number)],
            }
            for number, row in enumerate(one.rows)
        ],
        "verdicts": [_column_json(column) for column in one.columns],
    }


def _group_json(group: Group) -> dict[str, object]:
    cell = group.cell
    return {
        "status": cell.status,
        "value": cell.value,
        "width": cell.width,
        "target": cell.target,
        "reason": cell.reason,
        "cilium": cell.cilium,
        "kernels": group.kernels,
    }


def _column_json(column: Column) -> dict[str, object]:
    verdict = column.verdict
    return {
        "kernel": column.kernel,
        "failure": column.failure,
        "verdict": verdict.verdict if verdict else Verdict.UNKNOWN,
        "error": verdict.error if verdict else "",
        "absent_maps": verdict.absent_maps if verdict else (),
        "programs": [_program_json(one) for one in verdict.programs] if verdict else [],
        "externs": [
            {
                "name": one.name,
                "status": one.status,
                "value": one.value,
                "reason": one.reason,
            }
            for one in (verdict.externs if verdict else ())
        ],
    }


def _program_json(one: ProgramVerdict) -> dict[str, object]:
    return {
        "program": one.program,
        "verdict": one.verdict,
        "cause": one.cause,
        "reasons": one.reasons,
        "remedy": REMEDIES[one.cause],
        "guarded": one.guarded,
    }
