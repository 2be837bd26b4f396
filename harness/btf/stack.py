# SPDX-License-Identifier: Apache-2.0
"""How much stack a function uses, from its instructions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.btf.insn import ALU64, LDX, ST, STX, Insn

_FRAME: Final = 10  # r10, the frame pointer
_MOV_X: Final = 0xBF
_ADD_K: Final = 0x07


def stack_bytes(insns: Sequence[Insn]) -> int:
    """Bytes below the frame pointer that the function reaches, without those it calls.

    The deepest offset of a load or store through r10, or of an address made from it
    (`rX = r10; rX += -N`), which is what helpers and later accesses are given. The verifier counts
    the same accesses (kernel/bpf/verifier.c, update_stack_depth), rounded up to 8.
    """
    deepest = 0
    frame_copies: set[int] = set()  # registers that hold r10 since the last instructions
    for insn in insns:
        kind = insn.insn_class
        if (kind == LDX and insn.src == _FRAME) or (kind in (ST, STX) and insn.dst == _FRAME):
            deepest = min(deepest, insn.off)
        elif kind == ALU64 and insn.code == _ADD_K and insn.dst in frame_copies:
            deepest = min(deepest, insn.imm)
        if insn.code == _MOV_X and insn.src == _FRAME and insn.off == 0:
            frame_copies.add(insn.dst)
        else:
            frame_copies.discard(insn.dst)
    return -deepest
