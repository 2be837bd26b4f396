# SPDX-License-Identifier: Apache-2.0
"""One section of an ELF file, found without reading the rest: a vmlinux with DWARF has 1 GB.

Every offset is checked and nothing is believed twice: the costs are a pass over the section
headers, whatever these say. Format: System V ABI, chapter 4 (elf(5)). Standard library only.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

Buffer = bytes | mmap.mmap

MAGIC = b"\x7fELF"
_MOST_SECTIONS = 65_536  # -ffunction-sections gives large modules some ten thousand
_SHT_NULL, _SHT_NOBITS = 0, 8
_SHF_COMPRESSED = 0x800
_SHN_XINDEX = 0xFFFF
_LONGEST_NAME = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfFacts:
    """What the header says, and where the section is."""

    machine: int
    section: tuple[int, int] | None  # (offset, size) in bytes, within the file; None: there is none


def find(data: Buffer, name: str) -> ElfFacts:
    """Where the first section of this name is. ValueError for what cannot be true."""
    if data[:4] != MAGIC or len(data) < 52:
        raise ValueError("it has no ELF header")
    wide, little = data[4] == 2, data[5] == 1
    if data[4] not in (1, 2) or data[5] not in (1, 2):
        raise ValueError("its ELF header is of an unknown class or byte order")
    mark = "<" if little else ">"
    (machine,) = struct.unpack_from(f"{mark}H", data, 18)
    if wide and len(data) < 64:
        raise ValueError("its ELF header is cut off")
    (table,) = struct.unpack_from(f"{mark}{'Q' if wide else 'I'}", data, 40 if wide else 32)
    width, count, names_at = struct.unpack_from(f"{mark}3H", data, 58 if wide else 46)
    if table == 0:
        return ElfFacts(machine=machine, section=None)
    head = struct.Struct(f"{mark}{'IIQQQQIIQQ' if wide else '10I'}")
    if width < head.size or table + width > len(data):
        raise ValueError(f"its section headers of {width} bytes at {table} are not within the file")
    first = head.unpack_from(data, table)
    count = count or first[5]
    names_at = first[6] if names_at == _SHN_XINDEX else names_at
    if count > _MOST_SECTIONS or table + count * width > len(data):
        raise ValueError(f"it says that it has {count} sections")
    if names_at >= count:
        raise ValueError(f"its section names are in section {names_at} of {count}")
    names = _body(data, head.unpack_from(data, table + names_at * width))
    wanted = name.encode() + b"\0"
    for number in range(count):
        fields = head.unpack_from(data, table + number * width)
        at = names[0] + fields[0]
        if fields[0] + len(wanted) > names[1] or data[at : at + len(wanted)] != wanted:
            continue
        if fields[1] in (_SHT_NULL, _SHT_NOBITS) or fields[2] & _SHF_COMPRESSED:
            raise ValueError(f"its {name[:_LONGEST_NAME]} section is of a strange type")
        return ElfFacts(machine=machine, section=_body(data, fields))
    return ElfFacts(machine=machine, section=None)


def _body(data: Buffer, fields: tuple[int, ...]) -> tuple[int, int]:
    offset, size = fields[4], fields[5]
    if offset + size > len(data):
        raise ValueError(f"a section ends at byte {offset + size}, the file has {len(data)}")
    return offset, size
