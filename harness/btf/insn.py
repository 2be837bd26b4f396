# SPDX-License-Identifier: Apache-2.0
"""BPF instructions: eight bytes, decoded and encoded; names of opcode parts."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from harness.btf.blob import ByteOrder

INSN_LEN: Final = 8

# Classes (low three bits of the opcode)
LD: Final = 0
LDX: Final = 1
ST: Final = 2
STX: Final = 3
ALU: Final = 4
JMP: Final = 5
JMP32: Final = 6
ALU64: Final = 7

LDIMM64: Final = 0x18
CALL: Final = 0x85
EXIT: Final = 0x95

# src_reg of a 64-bit load, or of a call
PSEUDO_MAP_FD: Final = 1
PSEUDO_MAP_VALUE: Final = 2
PSEUDO_BTF_ID: Final = 3
PSEUDO_FUNC: Final = 4
PSEUDO_CALL: Final = 1
PSEUDO_KFUNC_CALL: Final = 2

POISON_IMM: Final = 195896080  # 0x0bad2310, "bad relo"
POISON_MAP_BASE: Final = 2001000000
POISON_KFUNC_BASE: Final = 2002000000

SIZE_BYTES: Final = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}  # bits 3-4 of loads and stores
SIZE_BITS: Final = {size: bits for bits, size in SIZE_BYTES.items()}


class Insn(NamedTuple):
    """One instruction slot (a 64-bit immediate load takes two)."""

    code: int
    dst: int
    src: int
    off: int  # signed 16 bits
    imm: int  # signed 32 bits

    @property
    def insn_class(self) -> int:
        return self.code & 7

    @property
    def size_bytes(self) -> int:
        """Width of a load or store."""
        return SIZE_BYTES[self.code & 0x18]


POISON: Final = Insn(CALL, 0, 0, 0, POISON_IMM)


def decode(data: bytes, byte_order: ByteOrder) -> list[Insn]:
    """All instructions of a section or program; a cut off last one is dropped."""
    whole = data[: len(data) // INSN_LEN * INSN_LEN]
    # The register nibbles are C bit fields: they swap with the byte order.
    if byte_order == "little":
        return [
            Insn(code, regs & 15, regs >> 4, off, imm)
            for code, regs, off, imm in struct.iter_unpack("<BBhi", whole)
        ]
    return [
        Insn(code, regs >> 4, regs & 15, off, imm)
        for code, regs, off, imm in struct.iter_unpack(">BBhi", whole)
    ]


def encode(insns: list[Insn], byte_order: ByteOrder) -> bytes:
    """The bytes of instructions: what `decode` reads."""
    if byte_order == "little":
        return b"".join(
            struct.pack("<BBhi", code, src << 4 | dst, off, imm)
            for code, dst, src, off, imm in insns
        )
    return b"".join(
        struct.pack(">BBhi", code, dst << 4 | src, off, imm) for code, dst, src, off, imm in insns
    )


def signed32(value: int) -> int:
    """The low 32 bits of `value` as a signed number."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
