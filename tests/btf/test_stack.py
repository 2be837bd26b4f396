# SPDX-License-Identifier: Apache-2.0
"""The stack that a function uses, as `inv inspect` shows it."""

from __future__ import annotations

import pytest

from harness.btf.insn import Insn
from harness.btf.stack import stack_bytes

_STORE = Insn(0x7B, 10, 1, -24, 0)  # *(u64 *)(r10 - 24) = r1
_LOAD = Insn(0x79, 0, 10, -40, 0)  # r0 = *(u64 *)(r10 - 40)
_COPY = Insn(0xBF, 2, 10, 0, 0)  # r2 = r10
_DOWN = Insn(0x07, 2, 0, 0, -64)  # r2 += -64
_OTHER = Insn(0x07, 3, 0, 0, -512)  # r3 += -512: no address of the stack


@pytest.mark.parametrize(
    ("insns", "expected"),
    [
        ([], 0),
        ([_STORE], 24),
        ([_STORE, _LOAD], 40),
        ([_COPY, _DOWN], 64),
        ([_COPY, _OTHER], 0),
        ([_DOWN], 0),
        ([_COPY, Insn(0xB7, 2, 0, 0, 5), _DOWN], 0),
    ],
    ids=["none", "store", "load", "address", "other register", "no copy", "overwritten"],
)
def test_the_deepest_reach_below_the_frame_pointer_counts(insns: list[Insn], expected: int) -> None:
    """The limit is 512 bytes along a call chain; a number per function tells where they go."""
    assert stack_bytes(insns) == expected
