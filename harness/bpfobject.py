# SPDX-License-Identifier: Apache-2.0
"""What a BPF object is and needs: the value that `inv inspect` prints.

`inspect(path)` reads, `render_text` and `to_json` are pure.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tabulate import tabulate

from harness import intake
from harness.btf import BpfObject, Program
from harness.btf.data import (
    DataSection,
    Extern,
    ExternKind,
    MapDefinition,
    data_sections,
    externs,
    maps,
)
from harness.btf.errors import BtfError
from harness.btf.ext import RelocationRecord
from harness.btf.features import (
    SOURCE,
    Feature,
    helper,
    map_type,
    program_type,
)
from harness.btf.insn import CALL, INSN_LEN, PSEUDO_CALL
from harness.btf.kinds import relocation_name
from harness.btf.match import Refusal
from harness.btf.sections import attach_target, section_kind
from harness.btf.spec import parse
from harness.btf.stack import stack_bytes

JSON_VERSION: Final = 1
_ATOMIC_MODE: Final = 0xC0
_STX: Final = 3
_JMP32: Final = 6
_BPF_ADD: Final = 0
_MOST_SHOWN: Final = 400  # characters of a name, for people


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramFacts:
    """A program as a loader sees it."""

    name: str
    section: str
    type: str  # `kprobe`, …; "" when libbpf does not know the section
    attach_type: str
    target: str  # `udp_sendmsg` of `kprobe/udp_sendmsg`, "" when the section names none
    insns: int  # its own, without subprograms
    stack: int  # bytes, likewise
    autoload: bool
    relocations: int  # CO-RE relocations in its own instructions
    helpers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubprogramFacts:
    """A function that is appended to the programs that call it."""

    name: str
    insns: int
    stack: int  # bytes
    static: bool
    relocations: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RelocationFacts:
    """A CO-RE relocation, readable."""

    number: int  # in file order
    program: str
    insn: int  # within the program
    kind: str  # `byte_off`
    path: str  # `struct iov_iter.__iov`
    access: str  # `0:3:4`
    file: str  # "" without line information
    line: int  # 0 without


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Something the kernel must have, and since when a kernel has it."""

    kind: str  # `helper`, `program-type`, `map-type`, `instruction`, `btf`
    name: str
    since: str  # kernel version, `?` when not recorded
    used_by: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectFacts:
    """Everything `inspect` finds."""

    path: str
    byte_order: str
    license: str
    programs: tuple[ProgramFacts, ...]
    subprograms: tuple[SubprogramFacts, ...]
    maps: tuple[MapDefinition, ...]
    data: tuple[DataSection, ...]
    externs: tuple[Extern, ...]
    relocations: tuple[RelocationFacts, ...]
    needs: tuple[Need, ...]
    needs_source: str  # where `since` comes from


def inspect(path: Path | str) -> ObjectFacts:
    """Read an object file."""
    return facts(BpfObject.from_file(path))


def facts(obj: BpfObject) -> ObjectFacts:
    """The facts of a parsed object."""
    relocations = _relocations(obj)
    counts = Counter(one.program for one in relocations)
    license_section = obj.elf.section("license")
    programs = tuple(_program(program, counts[program.name]) for program in obj.entry_programs())
    definitions = maps(obj)
    data = data_sections(obj)
    return ObjectFacts(
        path=obj.source,
        byte_order=obj.byte_order,
        license=_text(license_section.data) if license_section else "",
        programs=programs,
        subprograms=tuple(
            SubprogramFacts(
                name=program.name,
                insns=len(program.insns),
                stack=stack_bytes(program.insns),
                static=program.local,
                relocations=counts[program.name],
            )
            for program in obj.programs
            if program.subprogram
        ),
        maps=definitions,
        data=data,
        externs=externs(obj),
        relocations=relocations,
        needs=_needs(obj, programs, definitions, data),
        needs_source=SOURCE,
    )


def to_json(one: ObjectFacts) -> str:
    """The facts as a JSON document (`version` 1), keys as in the dataclasses."""
    return json.dumps({"version": JSON_VERSION, **asdict(one)}, indent=2)


def render_text(one: ObjectFacts) -> str:
    """The facts for a terminal."""
    parts = [
        f"{one.path}: {one.byte_order}-endian, license {intake.line(one.license, _MOST_SHOWN) or 'none'}",
        _section(
            "programs",
            ("name", "section", "type", "target", "insns", "stack", "relocations", "autoload"),
            [
                (
                    p.name,
                    p.section,
                    p.type or "unknown",
                    p.target,
                    p.insns,
                    p.stack,
                    p.relocations,
                    "yes" if p.autoload else "no",
                )
                for p in one.programs
            ],
        ),
        _section(
            "subprograms",
            ("name", "insns", "stack", "relocations", "static"),
            [
                (s.name, s.insns, s.stack, s.relocations, "yes" if s.static else "no")
                for s in one.subprograms
            ],
        ),
        _section(
            "maps",
            ("name", "type", "key", "value", "entries"),
            [
                (m.name, map_type(m.type).name, m.key_size, m.value_size, m.max_entries)
                for m in one.maps
            ],
        ),
        _section(
            "global data",
            ("variable", "type", "section", "offset", "size"),
            [(v.name, v.type, d.name, v.offset, v.size) for d in one.data for v in d.variables],
        ),
        _section(
            "externs",
            ("name", "kind", "binding", "type"),
            [(e.name, str(e.kind), "weak" if e.weak else "strong", e.type) for e in one.externs],
        ),
        _section(
            "CO-RE relocations",
            ("place", "kind", "path", "source"),
            [
                (
                    f"{r.program}+{r.insn}",
                    r.kind,
                    f"{r.path} ({r.access})",
                    f"{r.file}:{r.line}" if r.file else "",
                )
                for r in one.relocations
            ],
        ),
        _section(
            f"needs (first kernel, after {one.needs_source})",
            ("since", "kind", "name", "used by"),
            [(n.since, n.kind, n.name, _few(n.used_by)) for n in one.needs],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, head: tuple[str, ...], rows: list[tuple[str | int, ...]]) -> str:
    if not rows:
        return ""
    words = [[intake.line(str(word), _MOST_SHOWN) for word in row] for row in rows]
    table = tabulate(words, headers=head, tablefmt="plain", disable_numparse=True)
    return f"{title}: {len(rows)}\n" + "\n".join(f"  {line}" for line in table.splitlines())


def _few(names: tuple[str, ...], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _program(program: Program, relocations: int) -> ProgramFacts:
    definition = section_kind(program.section_name)
    return ProgramFacts(
        name=program.name,
        section=program.section,
        type=definition.program_type if definition else "",
        attach_type=definition.attach_type if definition else "",
        target=attach_target(program.section_name),
        insns=len(program.insns),
        stack=stack_bytes(program.insns),
        autoload=program.autoload,
        relocations=relocations,
        helpers=tuple(helper(number).name for number in _helpers(program)),
    )


def _helpers(program: Program) -> list[int]:
    """Numbers of the helpers called, ascending."""
    return sorted({insn.imm for insn in program.insns if insn.code == CALL and insn.src == 0})


def _relocations(obj: BpfObject) -> tuple[RelocationFacts, ...]:
    found = []
    paths: dict[tuple[int, str, int], str] = {}
    for number, record in enumerate(obj.ext.relocations):
        key = (record.type_id, record.access, record.kind)
        if key not in paths:
            paths[key] = _path(obj, record)
        insn = record.insn_off // INSN_LEN
        program = obj.program_at(obj.section_index(record.section), insn)
        line = obj.line_at(record.section, insn)
        found.append(
            RelocationFacts(
                number=number,
                program=program.name if program else f"<dropped in {record.section}>",
                insn=insn - program.start if program else insn,
                kind=relocation_name(record.kind),
                path=paths[key],
                access=record.access,
                file=line.file if line else "",
                line=line.line if line else 0,
            )
        )
    return tuple(found)


def _path(obj: BpfObject, record: RelocationRecord) -> str:
    """`struct task_struct.pid`: libbpf's spelling without the parts shown beside it."""
    if obj.btf is None:
        return f"[{record.type_id}]"
    try:
        text = parse(obj.btf, record).text()
    except (Refusal, BtfError):
        return f"[{record.type_id}] (malformed)"
    without_id = text.split("] ", 1)[1]
    return without_id.rsplit(" (", 1)[0] if without_id.endswith(")") else without_id


def _needs(
    obj: BpfObject,
    programs: tuple[ProgramFacts, ...],
    definitions: tuple[MapDefinition, ...],
    data: tuple[DataSection, ...],
) -> tuple[Need, ...]:
    users: dict[tuple[str, Feature], dict[str, None]] = {}

    def note(kind: str, feature: Feature, user: str) -> None:
        users.setdefault((kind, feature), {})[user] = None

    for one in programs:
        if one.type:
            note("program-type", program_type(one.type), one.name)
    for definition in definitions:
        note("map-type", map_type(definition.type), definition.name)
    for section in data:
        note("map-type", Feature("global data", "5.2"), section.name)
    for extern in externs(obj):
        if extern.kind is ExternKind.KFUNC:
            note("kfunc", Feature("kernel function calls", "5.13"), extern.name)
        elif extern.kind is ExternKind.TYPED_KSYM:
            note("btf", Feature("typed kernel symbols", "5.10"), extern.name)
    for program in obj.programs:
        for number in _helpers(program):
            note("helper", helper(number), program.name)
        for feature in _instructions(program):
            note("instruction", feature, program.name)
        kind = section_kind(program.section_name)
        if not program.subprogram and kind is not None and kind.attach_btf:
            note("btf", Feature("kernel BTF for the attach target", "5.5"), program.name)
    return tuple(
        Need(kind=kind, name=feature.name, since=feature.since, used_by=tuple(names))
        for (kind, feature), names in sorted(
            users.items(), key=lambda item: (_version(item[0][1].since), item[0]), reverse=True
        )
    )


def _instructions(program: Program) -> list[Feature]:
    """Instruction set extensions in use (dates: kernel documentation bpf/instruction-set)."""
    found = []
    for insn in program.insns:
        if insn.insn_class == _JMP32:
            found.append(Feature("32-bit jumps (cpu v3)", "5.1"))
        elif insn.insn_class == _STX and insn.code & 0xE0 == _ATOMIC_MODE and insn.imm != _BPF_ADD:
            found.append(Feature("atomic operations other than add (cpu v3)", "5.12"))
        elif insn.code == CALL and insn.src == PSEUDO_CALL:
            found.append(Feature("calls between BPF functions", "4.16"))
    return list(dict.fromkeys(found))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 999 for part in text.split("."))
