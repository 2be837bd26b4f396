# SPDX-License-Identifier: Apache-2.0
"""Put a relocation's value into its instruction (bpf_core_patch_insn)."""

from __future__ import annotations

from typing import Final

from harness.btf.insn import (
    ALU,
    ALU64,
    LD,
    LDIMM64,
    LDX,
    POISON,
    SIZE_BITS,
    ST,
    STX,
    Insn,
    signed32,
)
from harness.btf.match import Refusal
from harness.btf.values import Value

_SHRT_MAX: Final = 32767
_SOURCE_X: Final = 0x08
_U64: Final = 0xFFFFFFFFFFFFFFFF
_SIZE_MASK: Final = 0x18


def poison(insns: list[Insn], at: int) -> None:
    """Make an instruction invalid; both halves of a 64-bit load."""
    if insns[at].code == LDIMM64 and at + 1 < len(insns):
        insns[at + 1] = POISON
    insns[at] = POISON


def apply(
    insns: list[Insn], at: int, old: Value, new: Value, *, width_conflict: bool
) -> int | None:
    """Patch `insns[at]`.

    Returns the new width in bytes of a load or store whose width changed, 0 where none did, and
    None when libbpf poisons it because it cannot be made to fit the target's type.
    """
    insn = insns[at]
    kind = insn.insn_class
    if kind in (ALU, ALU64):
        if insn.code & _SOURCE_X:
            raise Refusal("EINVAL", f"insn {at} has no immediate to relocate")
        _validate(old, new, insn.imm, at)
        insns[at] = insn._replace(imm=signed32(new.number))
        return 0
    if kind in (LDX, ST, STX):
        _validate(old, new, insn.off, at)
        if new.number > _SHRT_MAX:
            raise Refusal("ERANGE", f"insn {at} cannot hold the offset {new.number}")
        if width_conflict:
            poison(insns, at)
            return None
        insns[at] = insn._replace(off=new.number, code=_resized(insn, at, old, new))
        return new.width if old.width != new.width else 0
    if kind == LD:
        _patch_load(insns, at, old, new)
        return 0
    raise Refusal("EINVAL", f"insn {at} (code {insn.code:#x}) cannot be relocated")


def _resized(insn: Insn, at: int, old: Value, new: Value) -> int:
    if old.width == new.width:
        return insn.code
    if insn.size_bytes != old.width:
        raise Refusal("EINVAL", f"insn {at} accesses {insn.size_bytes} bytes, not {old.width}")
    if new.width not in SIZE_BITS:
        raise Refusal("EINVAL", f"insn {at} cannot access {new.width} bytes")
    return insn.code & ~_SIZE_MASK | SIZE_BITS[new.width]


def _patch_load(insns: list[Insn], at: int, old: Value, new: Value) -> None:
    first = insns[at]
    second = insns[at + 1] if at + 1 < len(insns) else None
    if (
        first.code != LDIMM64
        or second is None
        or (first.src, first.off) != (0, 0)
        or second[:4] != (0, 0, 0, 0)
    ):
        raise Refusal("EINVAL", f"insn {at} is a 64-bit load of unexpected form")
    _validate(old, new, (first.imm & 0xFFFFFFFF) | (second.imm & 0xFFFFFFFF) << 32, at)
    insns[at] = first._replace(imm=signed32(new.number))
    insns[at + 1] = second._replace(imm=signed32(new.number >> 32))


def _validate(old: Value, new: Value, held: int, at: int) -> None:
    if old.validate and held & _U64 != old.number & _U64:
        raise Refusal("EINVAL", f"insn {at} holds {held}, not {old.number} (-> {new.number})")
