# SPDX-License-Identifier: Apache-2.0
"""Walk all paths of a function with an abstract state, as the verifier does, in bounded time.

States are kept apart per instruction up to a limit, then joined: precise for the few branches that
matter to a guard, finite for loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from harness.btf.insn import CALL, EXIT, JMP, JMP32, Insn

_STATES_PER_INSN: Final = 4
STACK_BYTES: Final = 512  # of a program (Linux UAPI bpf.h, MAX_BPF_STACK)
_STEPS: Final = 400_000
_STEPS_IN_ALL: Final = 4_000_000

State = TypeVar("State")
Step = Callable[[int, State], Iterable[tuple[int, State]]]
Join = Callable[[State, State], State]


class Steps:
    """How many steps all walks of an object may take together.

    Functions are walked anew for other arguments, so that calls multiply the work.
    """

    def __init__(self, most: int = _STEPS_IN_ALL) -> None:
        self.left = most


def explore(
    meets: frozenset[int],
    length: int,
    start: State,
    step: Step[State],
    join: Join[State],
    steps: Steps,
) -> bool:
    """Run `step` from instruction 0 until nothing new comes up; False if it took too long.

    `meets` are the instructions at which paths meet (see `meeting_points`): only there states are
    compared, every loop passes one.
    """
    seen: dict[int, set[State]] = {}
    joined: dict[int, State] = {}
    waiting: list[tuple[int, State]] = [(0, start)]
    for _ in range(_STEPS):
        if not waiting:
            return True
        steps.left -= 1
        if steps.left < 0:
            return False
        at, state = waiting.pop()
        for target, after in step(at, state):
            if not 0 <= target < length:
                continue
            new = after
            if target in meets:
                states = seen.setdefault(target, set())
                if new in states:
                    continue
                if len(states) >= _STATES_PER_INSN:
                    new = join(joined[target], new) if target in joined else _all(states, new, join)
                    joined[target] = new
                    if new in states:
                        continue
                states.add(new)
            waiting.append((target, new))
    return False


def meeting_points(insns: Sequence[Insn]) -> frozenset[int]:
    """Targets of jumps: where a path can come from more than one place."""
    return frozenset(
        target
        for at, insn in enumerate(insns)
        if insn.insn_class in (JMP, JMP32) and insn.code not in (CALL, EXIT)
        for target in successors(insns, at)
    )


def _all(states: set[State], new: State, join: Join[State]) -> State:
    for state in states:
        new = join(new, state)
    return new


def successors(insns: Sequence[Insn], at: int) -> tuple[int, ...]:
    """Instructions that can follow `at`: (fall through, taken) for a conditional jump."""
    insn = insns[at]
    kind = insn.insn_class
    if kind in (JMP, JMP32):
        operation = insn.code & 0xF0
        if insn.code == EXIT:
            return ()
        if operation == 0x00:  # JA; its 32-bit form keeps the distance in imm
            return (at + 1 + (insn.imm if kind == JMP32 else insn.off),)
        if operation == 0xE0:  # JCOND (may_goto)
            return (at + 1, at + 1 + insn.off)
        if operation != 0x80:  # not CALL
            return (at + 1, at + 1 + insn.off)
    return (at + 2,) if insn.code == 0x18 else (at + 1,)
