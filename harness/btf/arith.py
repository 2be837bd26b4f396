# SPDX-License-Identifier: Apache-2.0
"""Arithmetic and comparisons of the guard analysis: constants, and pointers at known places."""

from __future__ import annotations

from typing import Final, NamedTuple

from harness.btf.insn import ALU64, JMP, Insn

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF


class Value(NamedTuple):
    """An abstract value; None stands for unknown.

    `const`: number. `stack`: offset from the frame pointer, None when it varies. `data`: a pointer
    to byte `number` of section `name`. `kconfig`: a pointer into extern `name`. `nonnull`: any
    other pointer.
    """

    what: str
    number: int | None = 0
    name: str = ""


NONNULL: Final = Value("nonnull", None)
Registers = tuple[Value | None, ...]


def alu(insn: Insn, registers: Registers, opaque: bool) -> Value | None:
    wide = insn.insn_class == ALU64
    operation = insn.code & 0xF0
    left = registers[insn.dst]
    right = registers[insn.src] if insn.code & 8 else Value("const", insn.imm & _U64)
    if opaque:
        right = None
    if operation == 0xB0:
        if insn.off:  # sign-extending move
            return None
        if wide:
            return right
        return _const(right, _U32)
    if left is None:
        return None
    if operation in (0x00, 0x10) and left.what in ("stack", "data", "kconfig") and wide:
        if right is None or right.what != "const" or left.number is None:
            # Only on the stack does it matter that the pointer is still one.
            return Value("stack", None) if left.what == "stack" else NONNULL
        step = _signed(right.number or 0, 64)
        return left._replace(number=left.number + (step if operation == 0 else -step))
    if left.what == "nonnull":
        return NONNULL if wide and operation in (0x00, 0x10) else None
    if operation == 0x00 and wide and right is not None and right.what in ("stack", "data"):
        if left.what == "const" and right.number is not None:
            return right._replace(number=right.number + _signed(left.number or 0, 64))
        return Value("stack", None) if right.what == "stack" else NONNULL
    if left.what != "const" or left.number is None:
        return None
    if operation in (0x80, 0xD0):
        return _unary(insn, left.number, wide)
    if right is None or right.what != "const" or right.number is None:
        return None
    return _binary(operation, left.number, right.number, wide, insn.off)


def _const(value: Value | None, mask: int) -> Value | None:
    if value is None or value.what != "const" or value.number is None:
        return None
    return Value("const", value.number & mask)


def _unary(insn: Insn, number: int, wide: bool) -> Value | None:
    mask = _U64 if wide else _U32
    if insn.code & 0xF0 == 0x80:
        return Value("const", -number & mask)
    size = insn.imm // 8
    if size not in (2, 4, 8):
        return None
    low = number & (1 << insn.imm) - 1
    if wide or insn.code & 8:  # bswap, to big endian: both swap on little-endian kernels
        return Value("const", int.from_bytes(low.to_bytes(size, "little"), "big"))
    return Value("const", low)


def _binary(operation: int, left: int, right: int, wide: bool, off: int) -> Value | None:
    bits = 64 if wide else 32
    mask = (1 << bits) - 1
    left, right = left & mask, right & mask
    shift = right & (bits - 1)
    if off and operation in (0x30, 0x90):  # signed division, cpu v4
        return None
    if operation == 0x00:
        number = left + right
    elif operation == 0x10:
        number = left - right
    elif operation == 0x20:
        number = left * right
    elif operation == 0x30:
        number = left // right if right else 0
    elif operation == 0x40:
        number = left | right
    elif operation == 0x50:
        number = left & right
    elif operation == 0x60:
        number = left << shift
    elif operation == 0x70:
        number = left >> shift
    elif operation == 0x90:
        number = left % right if right else left
    elif operation == 0xA0:
        number = left ^ right
    elif operation == 0xC0:
        number = _signed(left, bits) >> shift
    else:
        return None
    return Value("const", number & mask)


def _signed(number: int, bits: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def decide(insn: Insn, left: Value | None, right: Value | None) -> bool | None:
    """Whether a conditional jump is taken; None when both ways are open."""
    if left is None or right is None:
        return None
    operation = insn.code & 0xF0
    if left.what != "const":
        if right.what == "const" and right.number == 0 and insn.insn_class == JMP:
            if operation == 0x10:
                return False
            if operation == 0x50:
                return True
        return None
    if right.what != "const" or left.number is None or right.number is None:
        return None
    bits = 64 if insn.insn_class == JMP else 32
    mask = (1 << bits) - 1
    one, other = left.number & mask, right.number & mask
    signed_one, signed_other = _signed(one, bits), _signed(other, bits)
    answers = {
        0x10: one == other,
        0x20: one > other,
        0x30: one >= other,
        0x40: bool(one & other),
        0x50: one != other,
        0x60: signed_one > signed_other,
        0x70: signed_one >= signed_other,
        0xA0: one < other,
        0xB0: one <= other,
        0xC0: signed_one < signed_other,
        0xD0: signed_one <= signed_other,
    }
    return answers.get(operation)
