# SPDX-License-Identifier: Apache-2.0
"""Which poisoned instructions a verifier would reach.

`bpf_core_field_exists` and its kin become constants in the patched code, rodata and kconfig values
are constants of frozen maps; the verifier follows only the branches that these leave open. This
does the same: constants in registers and stack slots, path by path. What it cannot evaluate it
treats as unknown, so "dead" is certain and "reachable" may be too cautious.

Contents of frozen maps count since Linux 5.5 (a23740ec43ba, "bpf: Track contents of read-only maps
as scalars"): `Constants.read_only_maps` turns that off for older kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from harness.btf.arith import NONNULL, Registers, Value, alu, decide
from harness.btf.explore import STACK_BYTES, Steps, explore, meeting_points, successors
from harness.btf.insn import (
    ALU,
    ALU64,
    CALL,
    EXIT,
    INSN_LEN,
    JMP,
    JMP32,
    LDIMM64,
    LDX,
    POISON_IMM,
    PSEUDO_CALL,
    SIZE_BYTES,
    ST,
    STX,
    Insn,
)
from harness.btf.object import BpfObject, Program
from harness.btf.refs import Reference, ReferenceKind, references

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_NO_REGISTERS: Final = (None,) * 5  # r11-r15 can be encoded but do not exist
_FRAMES: Final = 8  # the verifier's limit of nested calls
_MEM: Final = 0x60
_CALLBACK_ARGS: Final = 6


Stack = tuple[tuple[int, int, Value], ...]  # (offset, size, value), ascending


class State(NamedTuple):
    """Registers r0-r10 and what is known of the stack."""

    registers: Registers
    stack: Stack


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """What is known of a kernel and of the loader's settings."""

    # Contents of read-only sections by name, where a loader changes them; the file's otherwise.
    rodata: Mapping[str, bytes] = field(default_factory=dict)
    # Extern → value, as libbpf would set it; a missing one is unknown.
    kconfig: Mapping[str, int] = field(default_factory=dict)
    # Kernel symbols and functions that did not resolve: weak ones are 0, calls are poison.
    unresolved: frozenset[str] = frozenset()
    resolved: frozenset[str] = frozenset()
    # Helpers (by number) and maps (by name) that the kernel does not have.
    absent_helpers: frozenset[int] = frozenset()
    absent_maps: frozenset[str] = frozenset()
    read_only_maps: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """The result for one entry program."""

    # (function, instruction) of what a verifier reaches and refuses: poison, absent helpers, maps
    refused: frozenset[tuple[str, int]]
    complete: bool  # False: too large to walk; everything not visited may be reachable


class Guard:
    """Reachability in one object on one kernel; functions are analysed once per argument set."""

    def __init__(
        self,
        obj: BpfObject,
        code: Mapping[tuple[int, int], tuple[Insn, ...]],
        constants: Constants,
        opaque: Mapping[tuple[int, int], frozenset[int]],
    ) -> None:
        """`code` is `Outcome.insns`: patched, by (section index, start) of each function.

        `opaque` are instructions whose relocated value (an offset) is to decide nothing, so that
        a result holds for all kernels that differ in offsets only.
        """
        self._opaque = opaque
        self._obj = obj
        self._code = code
        self._constants = constants
        self._references: dict[tuple[int, int], dict[int, Reference]] = {}
        self._meets: dict[tuple[int, int], frozenset[int]] = {}
        self._results: dict[tuple[tuple[int, int], Registers], Value | None] = {}
        self._refused: set[tuple[str, int]] = set()
        self._complete = True
        self._steps = Steps()
        self._sections = {section.name: section.data for section in obj.elf.sections}

    def reach(self, program: Program) -> Reach:
        """Walk an entry program and everything it calls."""
        self._refused = set()
        self._results = {}
        self._complete = True
        self._run(program, (None,) * 6, 0)
        return Reach(refused=frozenset(self._refused), complete=self._complete)

    def _run(self, program: Program, arguments: Registers, depth: int) -> Value | None:
        """Walk a function with r0-r5; its return value if that is always the same."""
        key = (program.section_index, program.start)
        memo = (key, arguments)
        if memo in self._results:
            return self._results[memo]
        if depth > _FRAMES:
            self._complete = False
            return None
        self._results[memo] = None  # recursion sees an unknown
        if key not in self._references:
            self._references[key] = references(self._obj, program)
        walker = _Function(
            self,
            program,
            self._code[key],
            self._references[key],
            self._opaque.get(key, frozenset()),
            depth,
        )
        start = State((*arguments, None, None, None, None, Value("stack", 0), *_NO_REGISTERS), ())
        if key not in self._meets:
            self._meets[key] = meeting_points(program.insns)
        self._complete &= explore(
            self._meets[key], len(walker.insns), start, walker.step, _join, self._steps
        )
        self._results[memo] = walker.returned()
        return self._results[memo]

    # Called back by the functions that are walked.

    def refuse(self, program: Program, insn: int) -> None:
        self._refused.add((program.name, insn))

    def call(self, function: Program, arguments: Registers, depth: int) -> Value | None:
        if not function.local:
            # A global function is verified by itself, for any arguments.
            self._run(function, (None,) * 6, depth + 1)
            return None
        safe = tuple(
            None if value is not None and value.what == "stack" else value for value in arguments
        )
        return self._run(function, safe, depth + 1)

    def load(self, pointer: Value, offset: int, size: int) -> Value | None:
        """A read from a frozen map."""
        if not self._constants.read_only_maps or pointer.number is None:
            return None
        at = pointer.number + offset
        if pointer.what == "kconfig":
            number = self._constants.kconfig.get(pointer.name)
            if number is None or at != 0:
                return None
            return Value("const", number & (1 << 8 * size) - 1)
        if not pointer.name.startswith(".rodata"):
            return None
        data = self._constants.rodata.get(pointer.name, self._sections.get(pointer.name, b""))
        if at < 0 or at + size > len(data):
            return None
        return Value("const", int.from_bytes(data[at : at + size], self._obj.byte_order))

    def address(self, reference: Reference, insns: tuple[Insn, ...], at: int) -> Value | None:
        """The value of a relocated 64-bit load."""
        if reference.kind is ReferenceKind.DATA:
            return Value("data", reference.offset, reference.name)
        if reference.kind is ReferenceKind.MAP or reference.kind is ReferenceKind.FUNCTION:
            return NONNULL
        if reference.kind is ReferenceKind.EXTERN:
            if reference.name in self._constants.unresolved:
                return Value("const", 0)
            if reference.name in self._constants.resolved:
                return NONNULL
            return Value("kconfig", 0, reference.name)
        return None

    def unresolved(self, name: str) -> bool:
        return name in self._constants.unresolved

    def absent_helper(self, number: int) -> bool:
        return number in self._constants.absent_helpers

    def absent_map(self, reference: Reference | None) -> bool:
        return (
            reference is not None
            and reference.kind is ReferenceKind.MAP
            and reference.name in self._constants.absent_maps
        )


class _Function:
    """The transfer function of one walk."""

    def __init__(
        self,
        guard: Guard,
        program: Program,
        insns: tuple[Insn, ...],
        refs: dict[int, Reference],
        opaque: frozenset[int],
        depth: int,
    ) -> None:
        self.insns = insns
        self._opaque = opaque
        self._guard = guard
        self._program = program
        self._refs = refs
        self._depth = depth
        self._returns: set[Value | None] = set()

    def returned(self) -> Value | None:
        value = next(iter(self._returns)) if len(self._returns) == 1 else None
        return value if value is not None and value.what == "const" else None

    def step(self, at: int, state: State) -> Iterable[tuple[int, State]]:
        insn = self.insns[at]
        kind = insn.insn_class
        if insn.code == CALL:
            return self._call(at, insn, state)
        if insn.code == EXIT:
            self._returns.add(state.registers[0])
            return ()
        if kind in (JMP, JMP32):
            return self._jump(at, insn, state)
        if kind in (ALU, ALU64):
            state = _set(state, insn.dst, alu(insn, state.registers, at in self._opaque))
        elif insn.code == LDIMM64:
            if self._guard.absent_map(self._refs.get(at)):
                self._guard.refuse(self._program, at)
            state = _set(state, insn.dst, self._load_immediate(at, insn))
        elif kind == LDX:
            value = None if at in self._opaque else self._load(insn, state)
            state = _set(state, insn.dst, value)
        elif kind in (ST, STX):
            state = _store(insn, state, at in self._opaque)
        elif kind == 0:  # legacy packet loads: r0 is the result, r1-r5 are lost
            state = State((None,) * 6 + state.registers[6:], state.stack)
        return [(target, state) for target in successors(self.insns, at)]

    def _load_immediate(self, at: int, insn: Insn) -> Value | None:
        reference = self._refs.get(at)
        if at in self._opaque:
            return None
        if reference is None:
            if insn.src:
                return NONNULL
            high = self.insns[at + 1].imm if at + 1 < len(self.insns) else 0
            return Value("const", (insn.imm & _U32) | (high & _U32) << 32)
        if reference.kind is ReferenceKind.FUNCTION and reference.function is not None:
            self._guard.call(reference.function, (None,) * _CALLBACK_ARGS, self._depth)
        return self._guard.address(reference, self.insns, at)

    def _load(self, insn: Insn, state: State) -> Value | None:
        pointer = state.registers[insn.src]
        if pointer is None or insn.code & 0xE0 != _MEM:
            return None
        size = SIZE_BYTES[insn.code & 0x18]
        if pointer.what in ("data", "kconfig"):
            return self._guard.load(pointer, insn.off, size)
        if pointer.what == "stack" and pointer.number is not None:
            place = pointer.number + insn.off
            return next(
                (value for at, width, value in state.stack if (at, width) == (place, size)), None
            )
        return None

    def _call(self, at: int, insn: Insn, state: State) -> Iterable[tuple[int, State]]:
        reference = self._refs.get(at)
        if insn.src == 0 and insn.imm == POISON_IMM:
            return self._poison(at, state)
        if insn.src == 0 and self._guard.absent_helper(insn.imm):
            self._guard.refuse(self._program, at)
        result: Value | None = None
        if reference is not None and reference.kind is ReferenceKind.EXTERN_CALL:
            if self._guard.unresolved(reference.name):
                self._guard.refuse(self._program, at)
        elif insn.src == PSEUDO_CALL and reference is not None and reference.function is not None:
            result = self._guard.call(reference.function, state.registers[:6], self._depth)
        stack = state.stack
        for value in state.registers[1:6]:
            if value is not None and value.what == "stack":
                stack = _forget_from(stack, value.number)
        registers = (result, *(None,) * 5, *state.registers[6:])
        return [(at + 1, State(registers, stack))]

    def _poison(self, at: int, state: State) -> Iterable[tuple[int, State]]:
        """Note it and go on as the original instruction would: the verifier stops at the first."""
        self._guard.refuse(self._program, at)
        original = self._program.insns[at]
        if original.insn_class in (ALU, ALU64, LDX) or original.code == LDIMM64:
            state = _set(state, original.dst, None)
        return [(target, state) for target in successors(self._program.insns, at)]

    def _jump(self, at: int, insn: Insn, state: State) -> Iterable[tuple[int, State]]:
        targets = successors(self.insns, at)
        if len(targets) == 1:
            return [(targets[0], state)]
        left = state.registers[insn.dst]
        right = (
            state.registers[insn.src]
            if insn.code & 8
            else Value("const", insn.imm & (_U64 if insn.insn_class == JMP else _U32))
        )
        taken = decide(insn, left, right)
        ways = []
        operation = insn.code & 0xF0
        for target, way in zip(targets, (False, True), strict=True):
            if taken is not None and taken is not way:
                continue
            after = state
            equal = (operation == 0x10 and way) or (operation == 0x50 and not way)
            known = right is not None and right.what == "const"
            if equal and known and left is None and insn.insn_class == JMP:
                after = _set(state, insn.dst, right)
            ways.append((target, after))
        return ways


def _set(state: State, register: int, value: Value | None) -> State:
    registers = state.registers
    if registers[register] == value:
        return state
    return State((*registers[:register], value, *registers[register + 1 :]), state.stack)


def _join(one: State, other: State) -> State:
    registers = tuple(
        left if left == right else None
        for left, right in zip(one.registers, other.registers, strict=True)
    )
    if one.stack == other.stack:
        return State(registers, one.stack)
    theirs = set(other.stack)
    return State(registers, tuple(slot for slot in one.stack if slot in theirs))


def _forget_from(stack: Stack, offset: int | None) -> Stack:
    """A callee may write from `offset` up; None: anywhere."""
    if offset is None:
        return ()
    return tuple(slot for slot in stack if slot[0] + slot[1] <= offset)


def _store(insn: Insn, state: State, opaque: bool) -> State:
    pointer = state.registers[insn.dst]
    if pointer is None or pointer.what != "stack":
        return state
    if pointer.number is None or opaque:
        return State(state.registers, ())
    place, size = pointer.number + insn.off, SIZE_BYTES[insn.code & 0x18]
    if not -STACK_BYTES <= place < 0:
        return state  # not of the stack: no verifier lets that pass
    kept = [slot for slot in state.stack if slot[0] + slot[1] <= place or slot[0] >= place + size]
    value: Value | None = None
    if insn.code & 0xE0 == _MEM:
        if insn.insn_class == ST:
            value = Value("const", insn.imm & (1 << 8 * size) - 1)
        else:
            value = state.registers[insn.src]
            if value is not None and value.what == "const" and value.number is not None:
                value = Value("const", value.number & (1 << 8 * size) - 1)
            elif size != INSN_LEN:
                value = None
    if value is not None:
        kept.append((place, size, value))
        kept.sort(key=lambda slot: slot[:2])
    registers = state.registers
    if insn.code & 0xE0 == 0xC0:  # atomic: fetches and exchanges change a register
        changed = [0] if insn.imm & 0xF0 == 0xF0 else [insn.src]
        registers = tuple(None if n in changed else one for n, one in enumerate(registers))
    return State(registers, tuple(kept))
