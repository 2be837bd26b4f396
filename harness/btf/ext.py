# SPDX-License-Identifier: Apache-2.0
"""Reader of `.BTF.ext`: which function, source line and CO-RE relocation belongs to which insn.

Instruction offsets are in bytes from the start of the ELF section that a block names; strings are
those of the object's `.BTF`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.btf.blob import MAGIC, ByteOrder
from harness.btf.btf import Btf
from harness.btf.errors import BtfError

_SOURCE: Final = ".BTF.ext"
_RELOCATION_HEADER_LEN: Final = 32  # headers shorter than this have no core_relo fields
_MIN_RECORD: Final = {"func_info": 8, "line_info": 16, "core_relo": 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class FuncInfo:
    """A function starts at this instruction."""

    section: str
    insn_off: int  # bytes
    type_id: int  # a FUNC of the object's BTF


@dataclass(frozen=True, kw_only=True, slots=True)
class LineInfo:
    """The source of the instructions from `insn_off` to the next record's."""

    section: str
    insn_off: int  # bytes
    file: str
    text: str  # the source line, as the compiler saw it
    line: int
    column: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RelocationRecord:
    """One CO-RE relocation as the compiler wrote it."""

    section: str
    index: int  # within its block: the number in libbpf's "relo #N"
    insn_off: int  # bytes
    type_id: int  # the local root type
    access: str  # `0:1:2`
    kind: int  # a RelocationKind unless the object is newer than this library


@dataclass(frozen=True, kw_only=True, slots=True)
class BtfExt:
    """All records, in file order (the order in which libbpf resolves)."""

    functions: tuple[FuncInfo, ...] = ()
    lines: tuple[LineInfo, ...] = ()
    relocations: tuple[RelocationRecord, ...] = ()

    @classmethod
    def parse(cls, data: bytes, btf: Btf) -> BtfExt:
        """Read a `.BTF.ext` section; `btf` is the same object's."""
        strings = _Strings(btf)
        order = _byte_order(data)
        mark = "<" if order == "little" else ">"
        if len(data) < 24:
            raise _error(f"{len(data)} bytes are too short for a header of 24", 0, "hdr_len")
        (header_len,) = struct.unpack_from(f"{mark}I", data, 4)
        if not 24 <= header_len <= len(data):
            raise _error(f"'{header_len}' is not within 24 and {len(data)}", 4, "hdr_len")
        parts = dict(
            zip(("func_info", "line_info"), _pairs(mark, data, 8, 2), strict=True),
        )
        if header_len >= _RELOCATION_HEADER_LEN:
            parts["core_relo"] = next(iter(_pairs(mark, data, 24, 1)))
        segments = {
            name: _segment(data, mark, header_len, name, offset, length, btf)
            for name, (offset, length) in parts.items()
        }
        return cls(
            functions=tuple(
                FuncInfo(section=section, insn_off=fields[0], type_id=fields[1])
                for section, _, fields in segments["func_info"]
            ),
            lines=tuple(
                LineInfo(
                    section=section,
                    insn_off=fields[0],
                    file=strings.at(fields[1]),
                    text=strings.at(fields[2]).strip(),
                    line=fields[3] >> 10,
                    column=fields[3] & 0x3FF,
                )
                for section, _, fields in segments["line_info"]
            ),
            relocations=tuple(
                RelocationRecord(
                    section=section,
                    index=index,
                    insn_off=fields[0],
                    type_id=fields[1],
                    access=strings.at(fields[2]),
                    kind=fields[3],
                )
                for section, index, fields in segments.get("core_relo", ())
            ),
        )


class _Strings:
    """Strings of the BTF, each decoded once; records cannot all name the ends of one long one."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._known: dict[int, str] = {}
        self._left = 4 * btf.strings_len + (1 << 20)

    def at(self, offset: int) -> str:
        known = self._known.get(offset)
        if known is None:
            known = self._known[offset] = self._btf.string(offset)
            self._left -= len(known)
            if self._left < 0:
                raise _error("records name strings that overlap", 0, "str_off")
        return known


def _error(message: str, offset: int, field: str) -> BtfError:
    return BtfError(message, offset=offset, field=field, source=_SOURCE)


def _byte_order(data: bytes) -> ByteOrder:
    if data[:2] == MAGIC.to_bytes(2, "little"):
        return "little"
    if data[:2] == MAGIC.to_bytes(2, "big"):
        return "big"
    raise _error(f"magic is '{data[:2].hex()}', not 9feb or eb9f", 0, "magic")


def _pairs(mark: str, data: bytes, at: int, count: int) -> Iterator[tuple[int, int]]:
    if len(data) < at + 8 * count:
        raise _error("the header is cut off", at, "hdr_len")
    values = struct.unpack_from(f"{mark}{2 * count}I", data, at)
    return zip(values[::2], values[1::2], strict=True)


def _segment(
    data: bytes, mark: str, header_len: int, name: str, offset: int, length: int, btf: Btf
) -> list[tuple[str, int, tuple[int, ...]]]:
    """(section, number within its block, first words) of every record of a segment."""
    if length == 0:
        return []
    start = header_len + offset
    end = start + length
    if offset % 4:
        raise _error(f"{name} starts at '{offset}', not a multiple of 4", start, f"{name}_off")
    if length < 4 or end > len(data):
        raise _error(f"{name} of '{length}' bytes does not fit", start, f"{name}_len")
    (record_size,) = struct.unpack_from(f"{mark}I", data, start)
    minimum = _MIN_RECORD[name]
    if record_size < minimum or record_size % 4:
        raise _error(f"{name} records of '{record_size}' bytes", start, "rec_size")
    words = struct.Struct(f"{mark}{minimum // 4}I")
    records: list[tuple[str, int, tuple[int, ...]]] = []
    at = start + 4
    if at == end:
        raise _error(f"{name} has no records", start, f"{name}_len")
    while at < end:
        if end - at < 8:
            raise _error(f"{name} has a cut off block header", at, "sec_name_off")
        section_off, count = struct.unpack_from(f"{mark}2I", data, at)
        if count == 0:
            raise _error(f"{name} has a block without records", at + 4, "num_info")
        first = at + 8
        at = first + count * record_size
        if at > end:
            raise _error(
                f"{name} has a block of '{count}' records that is cut off", first - 4, "num_info"
            )
        section = btf.string(section_off)
        if not section:
            raise _error(
                f"{name} has a block for a section without name", first - 8, "sec_name_off"
            )
        for number in range(count):
            records.append((section, number, words.unpack_from(data, first + number * record_size)))
    return records
