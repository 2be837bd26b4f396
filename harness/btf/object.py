# SPDX-License-Identifier: Apache-2.0
"""A BPF object file as libbpf sees it: programs, subprograms, BTF, relocations of both kinds."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from harness.btf.blob import ByteOrder
from harness.btf.btf import Btf
from harness.btf.elf import (
    EM_BPF,
    MOST_OBJECT_BYTES,
    SHF_EXECINSTR,
    SHT_PROGBITS,
    SHT_REL,
    SHT_RELA,
    STB_GLOBAL,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_NOTYPE,
    Elf,
    ElfRelocation,
    Section,
    Symbol,
    read_file,
)
from harness.btf.errors import BtfError
from harness.btf.ext import BtfExt, LineInfo
from harness.btf.insn import INSN_LEN, Insn, decode

_TEXT = ".text"
_MAX_ALIASES = 4  # names of one function


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A function of the object: an entry point, or a subprogram when it lies in `.text`."""

    name: str
    section: str  # as in the file, a leading `?` included
    section_index: int
    start: int  # first instruction, counted from the section's start
    insns: tuple[Insn, ...]
    local: bool  # a static function
    autoload: bool  # False for SEC("?…")

    @property
    def subprogram(self) -> bool:
        """Not loaded by itself, only appended to the programs that call it."""
        return self.section == _TEXT

    @property
    def section_name(self) -> str:
        """The section as libbpf reads it, without `?`."""
        return self.section[1:] if self.section.startswith("?") else self.section


@dataclass(frozen=True, kw_only=True, slots=True)
class BpfObject:
    """A parsed object file."""

    source: str
    elf: Elf
    btf: Btf | None
    ext: BtfExt
    programs: tuple[Program, ...]  # by section index, then offset: libbpf's order
    symbols: tuple[Symbol, ...]
    relocations: dict[int, tuple[ElfRelocation, ...]]  # of code, by index of its section
    _starts: tuple[tuple[int, int], ...]  # of the programs, for bisection
    _lines: dict[str, list[LineInfo]]  # by section, ascending

    @classmethod
    def from_file(cls, path: Path | str) -> BpfObject:
        """Read an object file."""
        return cls.parse(read_file(Path(path), most_bytes=MOST_OBJECT_BYTES), str(path))

    @classmethod
    def parse(cls, data: bytes, source: str = "object") -> BpfObject:
        """Read an object file's contents."""
        elf = Elf.parse(data, source)
        if elf.bits != 64 or elf.machine not in (0, EM_BPF):
            raise BtfError(
                f"is a {elf.bits}-bit ELF file for machine '{elf.machine}', not BPF",
                offset=18,
                field="e_machine",
                source=source,
                hint="give an object made by clang -target bpf",
            )
        symbols = elf.symbols()
        blob, ext_blob = elf.section(".BTF"), elf.section(".BTF.ext")
        btf = Btf.parse(blob.data, source=source) if blob is not None and blob.data else None
        ext = BtfExt()
        if btf is not None and ext_blob is not None and ext_blob.data:
            ext = BtfExt.parse(ext_blob.data, btf)
        programs = _programs(elf, symbols)
        lines: dict[str, list[LineInfo]] = {}
        for line in ext.lines:
            lines.setdefault(line.section, []).append(line)
        for of_section in lines.values():
            of_section.sort(key=_line_offset)
        return cls(
            source=source,
            elf=elf,
            btf=btf,
            ext=ext,
            programs=programs,
            symbols=symbols,
            relocations={
                section.info: elf.relocations(section)
                for section in elf.sections
                if section.type in (SHT_REL, SHT_RELA) and _is_code(elf, section.info)
            },
            _starts=tuple((program.section_index, program.start) for program in programs),
            _lines=lines,
        )

    @property
    def byte_order(self) -> ByteOrder:
        return self.elf.byte_order

    def entry_programs(self) -> tuple[Program, ...]:
        """The programs a loader can load."""
        return tuple(program for program in self.programs if not program.subprogram)

    def program_at(self, section_index: int, insn: int) -> Program | None:
        """The program that holds instruction `insn` of a section."""
        at = bisect_right(self._starts, (section_index, insn)) - 1
        if at < 0:
            return None
        program = self.programs[at]
        inside = insn < program.start + len(program.insns)
        return program if program.section_index == section_index and inside else None

    def section_index(self, name: str) -> int:
        """Index of the first section of this name; 0 when there is none, as libbpf has it."""
        section = self.elf.section(name)
        return section.index if section else 0

    def externs(self) -> tuple[Symbol, ...]:
        """Undefined symbols that a loader has to resolve."""
        return tuple(
            symbol
            for symbol in self.symbols
            if symbol.section == 0
            and symbol.type == STT_NOTYPE
            and symbol.bind in (STB_GLOBAL, STB_WEAK)
            and symbol.name
        )

    def line_at(self, section: str, insn: int) -> LineInfo | None:
        """The source line of an instruction (counted from the section's start)."""
        lines = self._lines.get(section, [])
        at = bisect_right(lines, insn * INSN_LEN, key=_line_offset) - 1
        return lines[at] if at >= 0 else None


def _line_offset(line: LineInfo) -> int:
    return line.insn_off


def _is_code(elf: Elf, index: int) -> bool:
    return index < len(elf.sections) and bool(elf.sections[index].flags & SHF_EXECINSTR)


def _programs(elf: Elf, symbols: tuple[Symbol, ...]) -> tuple[Program, ...]:
    functions: dict[int, list[Symbol]] = {}
    for symbol in symbols:
        if symbol.type == STT_FUNC:
            functions.setdefault(symbol.section, []).append(symbol)
    found = []
    for section in elf.sections:
        if section.type != SHT_PROGBITS or not section.flags & SHF_EXECINSTR or not section.data:
            continue
        mine = functions.get(section.index, [])
        # Each function is a copy of its instructions: they do not overlap by more than aliases do.
        if sum(symbol.size for symbol in mine) > _MAX_ALIASES * len(section.data):
            raise BtfError(
                f"functions of '{section.name}' overlap", field="st_size", source=elf.source
            )
        insns = decode(section.data, elf.byte_order)
        found += [_program(section, symbol, insns, elf.source) for symbol in mine]
    return tuple(sorted(found, key=lambda program: (program.section_index, program.start)))


def _program(section: Section, symbol: Symbol, insns: list[Insn], source: str) -> Program:
    end = symbol.value + symbol.size
    if symbol.value % INSN_LEN or symbol.size % INSN_LEN or not symbol.size:
        raise BtfError(
            f"program '{symbol.name}' is {symbol.size} bytes at {symbol.value} of "
            f"'{section.name}', not whole instructions",
            offset=section.offset,
            field="st_size",
            source=source,
        )
    if end > len(section.data):
        raise BtfError(
            f"program '{symbol.name}' ends at {end}, behind its section '{section.name}'",
            offset=section.offset,
            field="st_size",
            source=source,
        )
    return Program(
        name=symbol.name,
        section=section.name,
        section_index=section.index,
        start=symbol.value // INSN_LEN,
        insns=tuple(insns[symbol.value // INSN_LEN : end // INSN_LEN]),
        local=symbol.bind == STB_LOCAL,
        autoload=not section.name.startswith("?"),
    )
