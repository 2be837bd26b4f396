# SPDX-License-Identifier: Apache-2.0
"""The core-access audit: is every read of kernel memory at a relocated offset?

Follows kernel pointers through the instructions of each program: from the context of tracing
programs, from helpers that return them, and from what was read out of kernel memory. A read at such
a pointer plus a constant that no CO-RE relocation covers breaks when the struct changes: a finding,
with its source line. Not followed: pointers kept in maps, and pointers to which something variable
was added (packet and string buffers have no struct to relocate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.btf.explore import STACK_BYTES, Steps, explore, meeting_points, successors
from harness.btf.features import helper, helper_number
from harness.btf.insn import (
    ALU64,
    CALL,
    EXIT,
    INSN_LEN,
    LDIMM64,
    LDX,
    PSEUDO_CALL,
    SIZE_BYTES,
    ST,
    STX,
    Insn,
)
from harness.btf.kinds import RelocationKind
from harness.btf.object import BpfObject, Program
from harness.btf.refs import Reference, ReferenceKind, references
from harness.btf.sections import section_kind

_READS: Final = frozenset(
    helper_number(name)
    for name in ("probe_read", "probe_read_str", "probe_read_kernel", "probe_read_kernel_str")
)
_RETURNS_KERNEL_POINTER: Final = frozenset(
    helper_number(name) for name in ("get_current_task", "get_current_task_btf", "sock_from_file")
)
# Their context holds kernel pointers: arguments, or registers with arguments.
_TRACING_TYPES: Final = frozenset(
    ("kprobe", "tracing", "raw_tracepoint", "raw_tracepoint_writable", "lsm", "perf_event", "ext")
)
# Programs that may load through a kernel pointer directly.
_TYPED_TYPES: Final = frozenset(("tracing", "lsm", "ext"))
_NO_REGISTERS: Final = (None,) * 5  # r11-r15 can be encoded but do not exist
_FRAMES: Final = 8
_MEM: Final = 0x60


class Pointer(NamedTuple):
    """What a register holds; None stands for anything else.

    `kernel`: a kernel pointer plus `fixed` bytes that no relocation accounts for. `context`,
    `stack`: pointers at offset `fixed` (None: varying). `offset`: a relocated constant.
    `const`: the number `fixed`.
    """

    what: str
    fixed: int | None = 0
    relocated: bool = False  # a relocated offset was added
    variable: bool = False  # something unknown was added
    stride: int = 0  # bytes of the struct that the relocated offset is into


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A read of kernel memory at a fixed offset."""

    program: str
    insn: int  # within the program
    how: str  # `helper probe_read_kernel`, `load of 8 bytes`
    offset: int  # the unrelocated part, bytes
    certain: bool  # False: behind a relocated offset, may be an element of an array
    file: str  # "" without line information
    line: int
    text: str  # the source line


Registers = tuple[Pointer | None, ...]
Stack = tuple[tuple[int, int, Pointer], ...]


class _State(NamedTuple):
    registers: Registers
    stack: Stack


def audit(obj: BpfObject) -> tuple[Finding, ...]:
    """Findings of all entry programs and what they call, by program and instruction."""
    return _Audit(obj).findings()


class _Audit:
    def __init__(self, obj: BpfObject) -> None:
        self._obj = obj
        self._found: dict[tuple[str, int], Finding] = {}
        self._results: dict[tuple[str, Registers, bool], Pointer | None] = {}
        self._references: dict[str, Mapping[int, Reference]] = {}
        self._meets: dict[str, frozenset[int]] = {}
        self._steps = Steps()
        # Relocated instructions by function, with the size of the struct they reach into.
        self._relocated: dict[str, dict[int, int]] = {}
        sections = {
            name: obj.section_index(name) for name in {r.section for r in obj.ext.relocations}
        }
        for record in obj.ext.relocations:
            insn = record.insn_off // INSN_LEN
            program = obj.program_at(sections[record.section], insn)
            if program is not None and record.kind == RelocationKind.FIELD_BYTE_OFFSET:
                size = obj.btf.try_size(record.type_id) if obj.btf is not None else 0
                places = self._relocated.setdefault(program.name, {})
                places[insn - program.start] = max(size, 0)

    def findings(self) -> tuple[Finding, ...]:
        for program in self._obj.entry_programs():
            kind = section_kind(program.section_name)
            of_type = kind.program_type if kind else ""
            context = Pointer("context", 0) if of_type in _TRACING_TYPES else None
            self.run(program, (None, context, None, None, None, None), of_type in _TYPED_TYPES, 0)
        return tuple(one for _, one in sorted(self._found.items()))

    def run(
        self, program: Program, arguments: Registers, typed: bool, depth: int
    ) -> Pointer | None:
        key = (program.name, arguments, typed)
        if key in self._results or depth > _FRAMES:
            return self._results.get(key)
        self._results[key] = None
        if program.name not in self._references:
            self._references[program.name] = references(self._obj, program)
        walker = _Function(
            self,
            program,
            self._references[program.name],
            self._relocated.get(program.name, {}),
            typed,
            depth,
        )
        start = _State(
            (*arguments, None, None, None, None, Pointer("stack", 0), *_NO_REGISTERS), ()
        )
        if program.name not in self._meets:
            self._meets[program.name] = meeting_points(program.insns)
        meets = self._meets[program.name]
        explore(meets, len(program.insns), start, walker.step, _join, self._steps)
        returned = walker.returns
        self._results[key] = next(iter(returned)) if len(returned) == 1 else None
        return self._results[key]

    def note(self, program: Program, insn: int, how: str, pointer: Pointer, extra: int) -> None:
        """Judge a read through a kernel pointer."""
        fixed = (pointer.fixed or 0) + extra
        if pointer.what != "kernel" or pointer.variable or fixed == 0:
            return
        if pointer.relocated and pointer.stride and fixed % pointer.stride == 0:
            return  # a later element of an array of these structs
        line = self._obj.line_at(program.section, program.start + insn)
        self._found.setdefault(
            (program.name, insn),
            Finding(
                program=program.name,
                insn=insn,
                how=how,
                offset=fixed,
                certain=not pointer.relocated,
                file=line.file if line else "",
                line=line.line if line else 0,
                text=line.text if line else "",
            ),
        )


class _Function:
    def __init__(
        self,
        audit: _Audit,
        program: Program,
        refs: Mapping[int, Reference],
        relocated: Mapping[int, int],
        typed: bool,
        depth: int,
    ) -> None:
        self.returns: set[Pointer | None] = set()
        self._audit = audit
        self._program = program
        self._refs = refs
        self._relocated = relocated
        self._typed = typed
        self._depth = depth

    def step(self, at: int, state: _State) -> Iterable[tuple[int, _State]]:
        insn = self._program.insns[at]
        kind = insn.insn_class
        if insn.code == EXIT:
            self.returns.add(state.registers[0])
            return ()
        if insn.code == CALL:
            state = self._call(at, insn, state)
        elif kind == ALU64:
            state = _set(state, insn.dst, self._alu(at, insn, state.registers))
        elif kind == LDX:
            state = _set(state, insn.dst, self._load(at, insn, state))
        elif kind in (ST, STX):
            state = self._store(at, insn, state)
        elif insn.code == LDIMM64:
            state = _set(state, insn.dst, self._immediate(at, insn))
        elif kind == 4:  # 32-bit arithmetic: no pointer survives it
            moved = insn.code & 0xF8 == 0xB0
            value = self._immediate(at, insn) if moved else None
            state = _set(state, insn.dst, value)
        return [(target, state) for target in successors(self._program.insns, at)]

    def _immediate(self, at: int, insn: Insn) -> Pointer | None:
        if at in self._relocated:
            return Pointer("offset", stride=self._relocated[at])
        reference = self._refs.get(at)
        if reference is None:
            return Pointer("const", insn.imm)
        if reference.kind is ReferenceKind.FUNCTION and reference.function is not None:
            self._audit.run(reference.function, (None,) * 6, self._typed, self._depth + 1)
        return None

    def _alu(self, at: int, insn: Insn, registers: Registers) -> Pointer | None:
        operation = insn.code & 0xF0
        left = registers[insn.dst]
        right = registers[insn.src] if insn.code & 8 else self._immediate(at, insn)
        if operation == 0xB0:
            return right
        if operation not in (0x00, 0x10):
            return None
        if left is not None and left.what in ("kernel", "stack", "context"):
            return _moved(left, right, -1 if operation else 1)
        if right is not None and right.what in ("kernel", "stack", "context") and not operation:
            return _moved(right, left, 1)
        if _is_number(left) and _is_number(right):
            assert left is not None
            assert right is not None
            total = (left.fixed or 0) + (right.fixed or 0) * (-1 if operation else 1)
            return Pointer("const", total)
        return None

    def _load(self, at: int, insn: Insn, state: _State) -> Pointer | None:
        pointer = state.registers[insn.src]
        if pointer is None or insn.code & 0xE0 not in (_MEM, 0x80, 0x20):
            return None
        size = SIZE_BYTES[insn.code & 0x18]
        if pointer.what == "stack" and pointer.fixed is not None:
            place = (pointer.fixed + insn.off, size)
            return next((value for a, b, value in state.stack if (a, b) == place), None)
        if pointer.what == "context":
            return Pointer("kernel") if size == INSN_LEN else None
        if pointer.what == "kernel":
            if self._typed and at not in self._relocated:
                self._audit.note(self._program, at, f"load of {size} bytes", pointer, insn.off)
            return Pointer("kernel") if size == INSN_LEN else None
        return None

    def _store(self, at: int, insn: Insn, state: _State) -> _State:
        pointer = state.registers[insn.dst]
        if pointer is None or pointer.what != "stack":
            return state
        if pointer.fixed is None:
            return _State(state.registers, ())
        value = state.registers[insn.src] if insn.insn_class == STX else None
        size = SIZE_BYTES[insn.code & 0x18]
        if insn.code & 0xE0 != _MEM or size != INSN_LEN:
            value = None
        return _State(state.registers, _put(state.stack, pointer.fixed + insn.off, size, value))

    def _call(self, at: int, insn: Insn, state: _State) -> _State:
        registers = state.registers
        reference = self._refs.get(at)
        result: Pointer | None = None
        stack = state.stack
        if insn.src == 0:
            source = registers[3]
            if insn.imm in _READS and source is not None:
                how = f"helper {helper(insn.imm).name}"
                self._audit.note(self._program, at, how, source, 0)
            for value in registers[1:6]:
                stack = _clobber(stack, value)
            if insn.imm in _READS:
                stack = _filled(stack, registers)
            if insn.imm in _RETURNS_KERNEL_POINTER:
                result = Pointer("kernel")
        else:
            if insn.src == PSEUDO_CALL and reference is not None and reference.function is not None:
                function = reference.function
                arguments = tuple(
                    None if value is not None and value.what == "stack" else value
                    for value in (None, *registers[1:6])
                )
                result = self._audit.run(
                    function,
                    arguments if function.local else (None,) * 6,
                    self._typed,
                    self._depth + 1,
                )
            for value in registers[1:6]:
                stack = _clobber(stack, value)
        return _State((result, *(None,) * 5, *registers[6:]), stack)


def _is_number(value: Pointer | None) -> bool:
    return value is not None and value.what == "const"


def _moved(pointer: Pointer, step: Pointer | None, sign: int) -> Pointer | None:
    """A pointer after an addition (or subtraction)."""
    if step is not None and step.what == "offset":
        if pointer.what != "kernel":
            return None
        return pointer._replace(relocated=True, stride=step.stride)
    if step is not None and step.what == "const" and pointer.fixed is not None:
        return pointer._replace(fixed=pointer.fixed + sign * (step.fixed or 0))
    if pointer.what == "kernel":
        return pointer._replace(variable=True)
    return pointer._replace(fixed=None) if pointer.what == "stack" else None


def _set(state: _State, register: int, value: Pointer | None) -> _State:
    registers = state.registers
    if registers[register] == value:
        return state
    return _State((*registers[:register], value, *registers[register + 1 :]), state.stack)


def _put(stack: Stack, place: int, size: int, value: Pointer | None) -> Stack:
    if not -STACK_BYTES <= place < 0:
        return stack  # not of the stack: no verifier lets that pass
    kept = [slot for slot in stack if slot[0] + slot[1] <= place or slot[0] >= place + size]
    if value is not None:
        kept.append((place, size, value))
        kept.sort(key=lambda slot: slot[:2])
    return tuple(kept)


def _clobber(stack: Stack, value: Pointer | None) -> Stack:
    """A callee may write through a pointer to the stack, from there up."""
    if value is None or value.what != "stack":
        return stack
    if value.fixed is None:
        return ()
    return tuple(slot for slot in stack if slot[0] + slot[1] <= (value.fixed or 0))


def _filled(stack: Stack, registers: Registers) -> Stack:
    """probe_read(to, size, from): eight bytes out of kernel memory may be a kernel pointer."""
    to, size, source = registers[1:4]
    if (
        to is None
        or to.what != "stack"
        or to.fixed is None
        or size is None
        or (size.what, size.fixed) != ("const", INSN_LEN)
        or source is None
        or source.what != "kernel"
    ):
        return stack
    return _put(stack, to.fixed, INSN_LEN, Pointer("kernel"))


def _join(one: _State, other: _State) -> _State:
    registers = tuple(
        left if left == right else None
        for left, right in zip(one.registers, other.registers, strict=True)
    )
    theirs = set(other.stack)
    return _State(registers, tuple(slot for slot in one.stack if slot in theirs))
