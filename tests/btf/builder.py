# SPDX-License-Identifier: Apache-2.0
"""Writers of BTF, .BTF.ext and BPF objects, so that tests can make any of them, malformed too."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Literal

from harness.btf.insn import Insn, encode
from harness.btf.kinds import Kind

ByteOrder = Literal["little", "big"]


@dataclass
class BtfBuilder:
    """Appends type records; every method returns the new type's id."""

    byte_order: ByteOrder = "little"
    header_len: int = 24
    first_id: int = 1
    string_base: int = 0  # length of a base BTF's strings
    types: list[bytes] = field(default_factory=list)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    _known: dict[str, int] = field(default_factory=lambda: {"": 0})

    @property
    def mark(self) -> str:
        return "<" if self.byte_order == "little" else ">"

    def string(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = self.string_base + len(self.strings)
            self.strings += text.encode() + b"\0"
        return self._known[text]

    def record(
        self, kind: int, name: str, vlen: int, third: int, *trailer: int, kflag: bool = False
    ) -> int:
        info = kind << 24 | vlen | int(kflag) << 31
        words = (self.string(name), info, third & 0xFFFFFFFF, *(w & 0xFFFFFFFF for w in trailer))
        self.types.append(struct.pack(f"{self.mark}{len(words)}I", *words))
        return self.first_id + len(self.types) - 1

    def integer(
        self, name: str = "int", size: int = 4, encoding: int = 1, offset: int = 0, bits: int = 0
    ) -> int:
        word = encoding << 24 | offset << 16 | (bits or size * 8)
        return self.record(Kind.INT, name, 0, size, word)

    def float(self, name: str, size: int) -> int:
        return self.record(Kind.FLOAT, name, 0, size)

    def pointer(self, to: int) -> int:
        return self.record(Kind.PTR, "", 0, to)

    def array(self, element: int, length: int, index: int = 1) -> int:
        return self.record(Kind.ARRAY, "", 0, 0, element, index, length)

    def composite(
        self,
        name: str,
        size: int,
        members: list[tuple[str, int, int] | tuple[str, int, int, int]],
        *,
        union: bool = False,
        kflag: bool | None = None,
    ) -> int:
        """Members are (name, type, bit offset) or (name, type, bit offset, bitfield bits)."""
        bitfields = any(len(member) == 4 for member in members) if kflag is None else kflag
        words: list[int] = []
        for member in members:
            bits = member[3] if len(member) == 4 else 0
            words += [self.string(member[0]), member[1], member[2] | bits << 24]
        kind = Kind.UNION if union else Kind.STRUCT
        return self.record(kind, name, len(members), size, *words, kflag=bitfields)

    def enum(
        self, name: str, values: list[tuple[str, int]], size: int = 4, signed: bool = False
    ) -> int:
        words = [word for text, value in values for word in (self.string(text), value)]
        return self.record(Kind.ENUM, name, len(values), size, *words, kflag=signed)

    def enum64(
        self, name: str, values: list[tuple[str, int]], size: int = 8, signed: bool = False
    ) -> int:
        words = [word for text, value in values for word in (self.string(text), value, value >> 32)]
        return self.record(Kind.ENUM64, name, len(values), size, *words, kflag=signed)

    def forward(self, name: str, union: bool = False) -> int:
        return self.record(Kind.FWD, name, 0, 0, kflag=union)

    def reference(self, kind: Kind, to: int, name: str = "") -> int:
        """TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG."""
        return self.record(kind, name, 0, to)

    def prototype(self, returns: int, parameters: list[tuple[str, int]]) -> int:
        words = [word for text, type_id in parameters for word in (self.string(text), type_id)]
        return self.record(Kind.FUNC_PROTO, "", len(parameters), returns, *words)

    def function(self, name: str, prototype: int, linkage: int = 1) -> int:
        return self.record(Kind.FUNC, name, linkage, prototype)

    def variable(self, name: str, type_id: int, linkage: int = 1) -> int:
        return self.record(Kind.VAR, name, 0, type_id, linkage)

    def section(self, name: str, size: int, variables: list[tuple[int, int, int]]) -> int:
        words = [word for variable in variables for word in variable]
        return self.record(Kind.DATASEC, name, len(variables), size, *words)

    def tag(self, name: str, type_id: int, component: int = -1) -> int:
        return self.record(Kind.DECL_TAG, name, 0, type_id, component)

    def build(self) -> bytes:
        types = b"".join(self.types)
        head = struct.pack(
            f"{self.mark}HBBIIIII",
            0xEB9F,
            1,
            0,
            self.header_len,
            0,
            len(types),
            len(types),
            len(self.strings),
        )
        return head.ljust(self.header_len, b"\0") + types + bytes(self.strings)


@dataclass
class ObjectBuilder:
    """A BPF object with programs in sections, its BTF and CO-RE records."""

    btf: BtfBuilder
    programs: list[tuple[str, str, list[Insn]]] = field(default_factory=list)
    relocations: dict[str, list[tuple[int, int, str, int]]] = field(default_factory=dict)

    def program(self, name: str, section: str, insns: list[Insn]) -> None:
        self.programs.append((name, section, insns))

    def relocate(self, section: str, insn: int, type_id: int, access: str, kind: int) -> None:
        self.relocations.setdefault(section, []).append((insn, type_id, access, kind))

    def ext(self) -> bytes:
        mark = self.btf.mark
        body = b""
        if self.relocations:
            body = struct.pack(f"{mark}I", 16)
            for section, records in self.relocations.items():
                body += struct.pack(f"{mark}II", self.btf.string(section), len(records))
                for insn, type_id, access, kind in records:
                    body += struct.pack(
                        f"{mark}4I", insn * 8, type_id, self.btf.string(access), kind
                    )
        head = struct.pack(
            f"{mark}HBBIIIIIII",
            0xEB9F,
            1,
            0,
            32,
            0,
            0,
            0,
            0,
            0,
            len(body),
        )
        return head + body

    def build(self) -> bytes:
        mark, order = self.btf.mark, self.btf.byte_order
        code: dict[str, list[Insn]] = {}
        functions: list[tuple[str, str, int, int]] = []
        for name, section, insns in self.programs:
            start = len(code.setdefault(section, []))
            code[section] += insns
            functions.append((name, section, start * 8, len(insns) * 8))
        ext = self.ext()  # before .BTF: it adds strings
        bodies: list[tuple[str, int, int, bytes, int, int, int]] = [("", 0, 0, b"", 0, 0, 0)]
        bodies += [(name, 1, 6, encode(insns, order), 0, 0, 0) for name, insns in code.items()]
        numbers = {body[0]: number for number, body in enumerate(bodies)}
        bodies.append(("license", 1, 3, b"GPL\0", 0, 0, 0))
        bodies.append((".BTF", 1, 0, self.btf.build(), 0, 0, 0))
        bodies.append((".BTF.ext", 1, 0, ext, 0, 0, 0))
        names = b"\0"
        symbols = struct.pack(f"{mark}IBBHQQ", 0, 0, 0, 0, 0, 0)
        for name, section, start, size in functions:
            symbols += struct.pack(
                f"{mark}IBBHQQ", len(names), 1 << 4 | 2, 0, numbers[section], start, size
            )
            names += name.encode() + b"\0"
        bodies.append((".symtab", 2, 0, symbols, len(bodies) + 1, 1, 24))
        bodies.append((".strtab", 3, 0, names, 0, 0, 0))
        section_names = b"\0"
        offsets = []
        for body in bodies:
            offsets.append(len(section_names))
            section_names += body[0].encode() + b"\0"
        offsets.append(len(section_names))
        section_names += b".shstrtab\0"
        bodies.append((".shstrtab", 3, 0, section_names, 0, 0, 0))
        contents, heads, at = b"", b"", 64
        for (_, kind, flags, data, link, info, entry), name_at in zip(bodies, offsets, strict=True):
            padding = -at % 8
            contents += b"\0" * padding
            at += padding
            heads += struct.pack(
                f"{mark}IIQQQQIIQQ", name_at, kind, flags, 0, at, len(data), link, info, 8, entry
            )
            contents += data
            at += len(data)
        padding = -at % 8
        contents += b"\0" * padding
        ident = b"\x7fELF\x02" + (b"\x01" if order == "little" else b"\x02") + b"\x01" + b"\0" * 9
        header = ident + struct.pack(
            f"{mark}HHIQQQIHHHHHH",
            1,
            247,
            1,
            0,
            0,
            at + padding,
            0,
            64,
            0,
            0,
            64,
            len(bodies),
            len(bodies) - 1,
        )
        return header + contents + heads
