# SPDX-License-Identifier: Apache-2.0
"""What the instructions of a program refer to: maps, data, externs and other functions.

These are the ELF relocations of the object, read as libbpf's bpf_program__record_reloc reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum

from harness.btf.data import is_data
from harness.btf.elf import STT_SECTION, ElfRelocation, Symbol
from harness.btf.insn import CALL, INSN_LEN, LDIMM64, PSEUDO_CALL, Insn
from harness.btf.object import BpfObject, Program


class ReferenceKind(StrEnum):
    """What an instruction refers to."""

    MAP = "map"
    DATA = "data"
    EXTERN = "extern"  # the address or value of an extern
    EXTERN_CALL = "extern-call"  # a kernel function
    CALL = "call"  # a function of the object
    FUNCTION = "function"  # its address: a callback
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """One reference; `offset` in bytes where the kind has one."""

    kind: ReferenceKind
    name: str  # of the map, data section or extern
    offset: int = 0
    function: Program | None = None


def references(obj: BpfObject, program: Program) -> dict[int, Reference]:
    """Instruction (within the program) → what it refers to."""
    found: dict[int, Reference] = {}
    entries = obj.relocations.get(program.section_index, ())
    first = bisect_left(entries, program.start * INSN_LEN, key=_offset)
    end = bisect_left(entries, (program.start + len(program.insns)) * INSN_LEN, key=_offset)
    for entry in entries[first:end]:
        insn = entry.offset // INSN_LEN - program.start
        if not 0 <= insn < len(program.insns) or entry.symbol >= len(obj.symbols):
            continue
        found[insn] = _read(obj, program.insns[insn], obj.symbols[entry.symbol])
    for number, one in enumerate(program.insns):
        if number not in found and one.code == CALL and one.src == PSEUDO_CALL:
            # A call within the section needs no relocation.
            function = obj.program_at(program.section_index, program.start + number + one.imm + 1)
            found[number] = Reference(
                kind=ReferenceKind.CALL, name=function.name if function else "", function=function
            )
    return found


def _offset(entry: ElfRelocation) -> int:
    return entry.offset


def _read(obj: BpfObject, insn: Insn, symbol: Symbol) -> Reference:
    if symbol.section == 0:
        called = insn.code == CALL
        kind = ReferenceKind.EXTERN_CALL if called else ReferenceKind.EXTERN
        return Reference(kind=kind, name=symbol.name)
    if symbol.section >= len(obj.elf.sections):
        return Reference(kind=ReferenceKind.OTHER, name=symbol.name)
    section = obj.elf.sections[symbol.section]
    if insn.code == CALL:
        function = obj.program_at(section.index, symbol.value // INSN_LEN + insn.imm + 1)
        return Reference(
            kind=ReferenceKind.CALL, name=function.name if function else "", function=function
        )
    if section.name == ".text" and insn.code == LDIMM64:
        function = obj.program_at(section.index, (symbol.value + insn.imm) // INSN_LEN)
        return Reference(
            kind=ReferenceKind.FUNCTION,
            name=function.name if function else "",
            function=function,
        )
    if section.name == ".maps":
        return Reference(kind=ReferenceKind.MAP, name=symbol.name)
    if is_data(section):
        base = 0 if symbol.type == STT_SECTION else symbol.value
        return Reference(kind=ReferenceKind.DATA, name=section.name, offset=base + insn.imm)
    return Reference(kind=ReferenceKind.OTHER, name=section.name)


def call_graph(obj: BpfObject, entry: Program) -> list[Program]:
    """`entry` and every function that is appended to it, in libbpf's order."""
    order: list[Program] = []
    seen: set[int] = set()
    waiting = [entry]
    while waiting:
        program = waiting.pop()
        if id(program) in seen:
            continue
        seen.add(id(program))
        order.append(program)
        called = [
            one.function
            for _, one in sorted(references(obj, program).items())
            if one.kind in (ReferenceKind.CALL, ReferenceKind.FUNCTION)
            and one.function is not None
            and one.function.subprogram
        ]
        waiting += reversed(called)
    return order
