# SPDX-License-Identifier: Apache-2.0
"""The frame of a BTF blob: its header, and where each type record starts."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import Final, Literal

from harness.btf.errors import BtfError
from harness.btf.kinds import (
    KIND_MASK,
    KIND_SHIFT,
    TRAILER_FIXED,
    TRAILER_PER_ELEMENT,
    VLEN_MASK,
    Kind,
    kind_name,
)

ByteOrder = Literal["little", "big"]

MAGIC: Final = 0xEB9F
RECORD_WORDS: Final = 3  # name, info, size or type
_HEADER_LEN: Final = 24  # up to str_len; newer headers add layout_off and layout_len
_TOO_LONG: Final = 1 << 40  # trailer length of a kind nobody knows: ends the walk


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Where the sections of a blob are, in bytes from its start; checked against its length."""

    byte_order: ByteOrder
    types_start: int
    type_len: int
    strings_start: int
    strings_end: int
    layout_start: int
    layout_len: int

    @classmethod
    def parse(cls, data: bytes, source: str) -> Header:
        if len(data) < _HEADER_LEN:
            raise BtfError(
                f"{len(data)} bytes are too short for a header of {_HEADER_LEN}",
                offset=0,
                field="magic",
                source=source,
            )
        order: ByteOrder
        if data[:2] == b"\x9f\xeb":
            order = "little"
        elif data[:2] == b"\xeb\x9f":
            order = "big"
        else:
            raise BtfError(
                f"magic is '{data[:2].hex()}', not 9feb or eb9f",
                offset=0,
                field="magic",
                source=source,
                hint="give a raw BTF file or an ELF file with a .BTF section",
            )
        mark = "<" if order == "little" else ">"
        header_len, type_off, type_len, str_off, str_len = struct.unpack_from(f"{mark}5I", data, 4)
        layout_off = layout_len = 0
        if header_len >= 32 <= len(data):
            layout_off, layout_len = struct.unpack_from(f"{mark}2I", data, 24)

        def check(good: bool, message: str, offset: int, field: str) -> None:
            if not good:
                raise BtfError(message, offset=offset, field=field, source=source)

        room = len(data) - header_len
        check(header_len >= _HEADER_LEN, f"'{header_len}' is less than 24", 4, "hdr_len")
        check(room >= 0, f"'{header_len}' is more than the {len(data)} bytes", 4, "hdr_len")
        check(type_off % 4 == 0, f"'{type_off}' is not a multiple of 4", 8, "type_off")
        check(type_len % 4 == 0, f"'{type_len}' is not a multiple of 4", 12, "type_len")
        check(
            type_off + type_len <= str_off,
            f"types end at {type_off + type_len}, behind the strings' start '{str_off}'",
            16,
            "str_off",
        )
        check(
            str_off + str_len <= room,
            f"strings end at {str_off + str_len}, behind the blob's {room} bytes",
            20,
            "str_len",
        )
        strings_start = header_len + str_off
        strings_end = strings_start + str_len
        check(str_len > 0, "there are no strings", 20, "str_len")
        check(data[strings_end - 1] == 0, "strings do not end in NUL", strings_end - 1, "strings")
        check(layout_off % 4 == 0, f"'{layout_off}' is not a multiple of 4", 24, "layout_off")
        check(
            layout_off + layout_len <= room,
            f"layout ends at {layout_off + layout_len}, behind the blob's {room} bytes",
            28,
            "layout_len",
        )
        return cls(
            byte_order=order,
            types_start=header_len + type_off,
            type_len=type_len,
            strings_start=strings_start,
            strings_end=strings_end,
            layout_start=header_len + layout_off,
            layout_len=layout_len,
        )

    def layout(self, data: bytes, source: str) -> dict[int, tuple[int, int]]:
        """Trailer (fixed words, words per element) of kinds that only the layout section knows."""
        extra: dict[int, tuple[int, int]] = {}
        for kind in range(min(self.layout_len // 4, KIND_MASK + 1)):
            info_size, element_size = data[
                self.layout_start + 4 * kind : self.layout_start + 4 * kind + 2
            ]
            if kind < len(Kind):
                continue
            if info_size % 4 or element_size % 4:
                raise BtfError(
                    f"kind {kind} has trailers of '{info_size}' and '{element_size}' bytes",
                    offset=self.layout_start + 4 * kind,
                    field="info_sz",
                    source=source,
                )
            extra[kind] = (info_size // 4, element_size // 4)
        return extra


def walk(
    words: array[int], start: int, layout: dict[int, tuple[int, int]], source: str
) -> array[int]:
    """Offsets (in words) of all type records; entry 0 is a placeholder for void."""
    fixed = [_TOO_LONG] * (KIND_MASK + 1)
    per = [0] * (KIND_MASK + 1)
    for kind in Kind:
        if kind is not Kind.VOID:
            fixed[kind] = RECORD_WORDS + TRAILER_FIXED.get(kind, 0)
            per[kind] = TRAILER_PER_ELEMENT.get(kind, 0)
    for number, (info_words, element_words) in layout.items():
        fixed[number], per[number] = RECORD_WORDS + info_words, element_words
    found = array("I", (0,))
    append = found.append
    at, end = 0, len(words)
    while at < end - 2:
        append(at)
        info = words[at + 1]
        kind_number = info >> KIND_SHIFT & KIND_MASK
        at += fixed[kind_number] + per[kind_number] * (info & VLEN_MASK)
    if at != end:
        last = found[-1] if len(found) > 1 else 0
        number = words[last + 1] >> KIND_SHIFT & KIND_MASK if end - last > 1 else 0
        unknown = fixed[number] == _TOO_LONG
        raise BtfError(
            f"type {len(found) - 1} is of unknown kind '{number}'"
            if unknown
            else f"type {len(found) - 1} ({kind_name(number)}) does not end where the types do",
            offset=start + 4 * last + 4,
            field="info" if unknown else "vlen",
            source=source,
        )
    return found
