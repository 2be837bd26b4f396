# SPDX-License-Identifier: Apache-2.0
"""The ELF part: section headers by pyelftools, contents sliced and checked here.

Sections are never decompressed and symbols are unpacked in bulk, so that a hostile file costs no
more than its own size.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from harness import elfsection, intake
from harness.btf.blob import ByteOrder
from harness.btf.errors import BtfError

SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_RELA: Final = 4
SHT_NOBITS: Final = 8
SHT_REL: Final = 9
SHF_WRITE: Final = 1
SHF_EXECINSTR: Final = 4
SHN_UNDEF: Final = 0
STB_LOCAL: Final = 0
STB_GLOBAL: Final = 1
STB_WEAK: Final = 2
STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
EM_BPF: Final = 247
ELF_MAGIC: Final = b"\x7fELF"
# The largest objects of projects that ship BPF have 5 MB, a vmlinux with DWARF 1 GB.
MOST_OBJECT_BYTES: Final = 32 << 20
MOST_TYPES_BYTES: Final = 64 << 20  # of BTF; a vmlinux's has 3-10 MB
MOST_VMLINUX_BYTES: Final = 4 << 30
_MAX_SECTIONS: Final = 16_384  # pyelftools takes 50 us for each

# Whatever pyelftools lets through when headers lie; it has no single base class for them.
_LIBRARY_ERRORS: Final = (
    ELFError,
    DWARFError,
    ConstructError,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    OSError,
    MemoryError,
    RecursionError,
    NotImplementedError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section header with its contents (empty for NOBITS)."""

    index: int
    name: str
    type: int
    flags: int
    offset: int  # of the contents in the file
    size: int
    link: int
    info: int
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbol:
    """An entry of the symbol table."""

    index: int
    name: str
    section: int  # section index; 0 undefined, 0xfff1 absolute, 0xfff2 common
    value: int
    size: int
    bind: int
    type: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfRelocation:
    """An entry of a REL or RELA section."""

    offset: int  # bytes into the section that is relocated
    symbol: int
    type: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Elf:
    """Sections of an ELF file, indexed as in the file (0 is the null section)."""

    source: str
    byte_order: ByteOrder
    bits: int
    machine: int
    relocatable: bool
    sections: tuple[Section, ...]
    by_name: dict[str, int]  # the first section of each name

    @classmethod
    def parse(cls, data: bytes, source: str) -> Elf:
        """Read the section table and slice the contents out of `data`."""
        try:
            file = ELFFile(BytesIO(data))
            header = file.header
            count = file.num_sections()
            if not 0 < count <= _MAX_SECTIONS:
                raise BtfError(f"'{count}' sections", field="e_shnum", source=source)
            heads = [file._get_section_header(number) for number in range(count)]
            names_at = file.get_shstrndx()
            machine = struct.unpack_from("<H" if file.little_endian else ">H", data, 18)[0]
            relocatable = header["e_type"] == "ET_REL"
            bits, little = int(file.elfclass), bool(file.little_endian)
            plain = [
                tuple(
                    _number(head[field])
                    for field in (
                        "sh_name",
                        "sh_flags",
                        "sh_offset",
                        "sh_size",
                        "sh_link",
                        "sh_info",
                    )
                )
                for head in heads
            ]
            types = [_raw_type(data, file, number) for number in range(count)]
        except _LIBRARY_ERRORS as error:
            raise BtfError(
                f"not a readable ELF file: {error or type(error).__name__}",
                field="ELF header",
                source=source,
            ) from error
        if not 0 <= names_at < count:
            raise BtfError(f"'{names_at}' is no section", field="e_shstrndx", source=source)
        extents = [
            _extent(data, types[number], plain[number][2], plain[number][3], number, source)
            for number in range(count)
        ]
        # Sections do not overlap; a table in which each of them is the whole file costs gigabytes.
        total = sum(end - start for start, end in extents)
        if total > 2 * len(data):
            raise BtfError(
                f"sections of {total} bytes in a file of {len(data)}",
                field="sh_size",
                source=source,
            )
        bodies = [data[start:end] for start, end in extents]
        names = _Names(bodies[names_at], source, "sh_name")
        sections = tuple(
            Section(
                index=number,
                name=names.at(plain[number][0]),
                type=types[number],
                flags=plain[number][1],
                offset=plain[number][2],
                size=plain[number][3],
                link=plain[number][4],
                info=plain[number][5],
                data=bodies[number],
            )
            for number in range(count)
        )
        return cls(
            source=source,
            byte_order="little" if little else "big",
            bits=bits,
            machine=machine,
            relocatable=relocatable,
            sections=sections,
            # Backwards, so that the first stays; section 0 is none.
            by_name={one.name: one.index for one in reversed(sections[1:])},
        )

    @property
    def mark(self) -> str:
        """The `struct` prefix of the file's byte order."""
        return "<" if self.byte_order == "little" else ">"

    def section(self, name: str) -> Section | None:
        """The first section of this name."""
        at = self.by_name.get(name)
        return None if at is None else self.sections[at]

    def symbols(self) -> tuple[Symbol, ...]:
        """The symbol table of a 64-bit file; empty when there is none."""
        table = next((section for section in self.sections if section.type == SHT_SYMTAB), None)
        if table is None or self.bits != 64:
            return ()
        if table.link >= len(self.sections):
            raise BtfError(f"'{table.link}' is no section", field="sh_link", source=self.source)
        names = _Names(self.sections[table.link].data, self.source, "st_name")
        whole = table.data[: len(table.data) // 24 * 24]
        return tuple(
            Symbol(
                index=number,
                name=names.at(name),
                section=section,
                value=value,
                size=size,
                bind=info >> 4,
                type=info & 15,
            )
            for number, (name, info, _, section, value, size) in enumerate(
                struct.iter_unpack(f"{self.mark}IBBHQQ", whole)
            )
        )

    def relocations(self, section: Section) -> tuple[ElfRelocation, ...]:
        """Entries of a REL or RELA section of a 64-bit file, by offset as libbpf sorts them."""
        layout, size = ("QQ", 16) if section.type == SHT_REL else ("QQq", 24)
        whole = section.data[: len(section.data) // size * size]
        entries = (
            ElfRelocation(offset=fields[0], symbol=fields[1] >> 32, type=fields[1] & 0xFFFFFFFF)
            for fields in struct.iter_unpack(f"{self.mark}{layout}", whole)
        )
        return tuple(sorted(entries, key=lambda entry: entry.offset))


def read_btf_bytes(path: Path) -> bytes:
    """The raw BTF in a file: the file itself, or the `.BTF` section of an ELF file."""
    try:
        with intake.opened(path, most_bytes=MOST_VMLINUX_BYTES) as (file, size):
            head = file.read(len(ELF_MAGIC))
            if head != ELF_MAGIC:
                return read_file(path, most_bytes=MOST_TYPES_BYTES)
            if size < 1 << 20:
                return btf_bytes(head + file.read(), str(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return btf_bytes(data, str(path))
    except intake.NoFileError as error:
        raise BtfError(f"cannot be read: {error.why}", source=str(path), hint=error.hint) from error
    except OSError as error:
        raise BtfError(f"cannot be read: {error.strerror}", source=str(path)) from error


def read_file(path: Path, *, most_bytes: int) -> bytes:
    """A regular file's contents; BtfError when there is none, or more than anything real has."""
    try:
        return intake.content(path, most_bytes=most_bytes)
    except intake.NoFileError as error:
        raise BtfError(f"cannot be read: {error.why}", source=str(path), hint=error.hint) from error


def btf_bytes(data: elfsection.Buffer, source: str) -> bytes:
    """The raw BTF in a file's contents."""
    if data[:4] != ELF_MAGIC:
        return data[:]
    try:
        found = elfsection.find(data, ".BTF").section
    except (ValueError, struct.error) as error:
        raise BtfError(
            f"not a readable ELF file: {error}", field="ELF header", source=source
        ) from error
    if found is None:
        raise BtfError(
            "has no .BTF section",
            field=".BTF",
            source=source,
            hint="compile with -g, or make BTF from DWARF with pahole -J",
        )
    offset, size = found
    if size > MOST_TYPES_BYTES:
        raise BtfError(f"has {size} bytes of BTF", field=".BTF", source=source)
    return data[offset : offset + size]


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"section header field '{value}'")
    return value


def _raw_type(data: bytes, file: ELFFile, number: int) -> int:
    """sh_type as a number: pyelftools turns known ones into names."""
    at = int(file["e_shoff"]) + number * int(file["e_shentsize"]) + 4
    return int(struct.unpack_from("<I" if file.little_endian else ">I", data, at)[0])


def _extent(
    data: bytes, kind: int, offset: int, size: int, number: int, source: str
) -> tuple[int, int]:
    """Where the contents start and end in the file; nothing for sections without."""
    if kind in (0, SHT_NOBITS):
        return 0, 0
    if offset + size > len(data):
        raise BtfError(
            f"section {number} ends at {offset + size}, behind the file's {len(data)} bytes",
            offset=offset,
            field="sh_size",
            source=source,
        )
    return offset, offset + size


class _Names:
    """A string table. Names may share their ends, but not all be the ends of one long name."""

    def __init__(self, table: bytes, source: str, field: str) -> None:
        self._table = table
        self._source = source
        self._field = field
        self._known: dict[int, str] = {}
        self._left = 4 * len(table) + (1 << 20)

    def at(self, offset: int) -> str:
        """The name at `offset`, decoded for people."""
        known = self._known.get(offset)
        if known is not None:
            return known
        table = self._table
        end = table.find(b"\0", offset)
        if offset > len(table) or (end < 0 and table):
            raise BtfError(
                f"string offset '{offset}' is outside its table",
                field=self._field,
                source=self._source,
            )
        self._left -= end - offset
        if self._left < 0:
            raise BtfError("names that overlap", field=self._field, source=self._source)
        name = table[offset:end].decode("utf-8", "backslashreplace") if table else ""
        self._known[offset] = name
        return name
