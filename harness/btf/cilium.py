# SPDX-License-Identifier: Apache-2.0
"""Where the Go loader cilium/ebpf (as of its commit 5ba0b3b2, 2026-07) would decide otherwise.

It groups a program's relocations by local type, tries every target type of that name, and takes the
one with the fewest failures; ties have to agree. libbpf goes relocation by relocation and prunes.
Validation of what the instruction held before is left out: it does not depend on the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.btf.btf import Btf
from harness.btf.cilium_types import (
    Impossible,
    ProgramError,
    compatible,
    essential,
    go_kind,
    match,
    members_compatible,
)
from harness.btf.errors import BtfError
from harness.btf.index import essential_name
from harness.btf.insn import ALU, ALU64, LDX, ST, STX
from harness.btf.kinds import (
    ENUM_KINDS,
    FIELD_KINDS,
    INT_SIGNED,
    TYPE_KINDS,
    VLEN_MASK,
    Kind,
    RelocationKind,
)
from harness.btf.relo import Outcome, Plan, Resolution, Site, Status

_COMPOSITES: Final = (Kind.STRUCT, Kind.UNION)
_ENUMS: Final = (Kind.ENUM, Kind.ENUM64)
_EXISTENCE: Final = frozenset(
    (
        RelocationKind.FIELD_EXISTS,
        RelocationKind.TYPE_EXISTS,
        RelocationKind.ENUMVAL_EXISTS,
        RelocationKind.TYPE_MATCHES,
    )
)
_MAX_DEPTH: Final = 32
_U64: Final = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """What cilium/ebpf would do with a relocation that libbpf treats otherwise."""

    number: int  # of the Site
    text: str  # `poison`, `= 16`, `error: …`, …


_MAX_FIXUPS: Final = 100_000  # of an object on a kernel; real ones need thousands


@dataclass(frozen=True, slots=True)
class _Fixup:
    local: int = 0
    target: int = 0
    poison: bool = False


@dataclass(slots=True)
class _Field:
    """coreField: a type at a byte offset, perhaps some bits of it."""

    type_id: int
    offset: int
    bit_offset: int = 0
    bits: int = 0
    last: bool = False  # the last member: may be a flexible array


def disagreements(
    plan: Plan, outcome: Outcome, target: Btf, modules: Sequence[Btf] = ()
) -> dict[int, Disagreement]:
    """By number of the relocation; those on which both agree are absent."""
    local = plan.obj.btf
    if local is None:
        return {}
    by_function: dict[str, list[Site]] = {}
    for site in plan.sites:
        by_function.setdefault(site.program.name, []).append(site)
    run = _Run(local, (target, *modules))
    found: dict[int, Disagreement] = {}
    for program in plan.obj.entry_programs():
        groups: dict[int, list[Site]] = {}
        for function in plan.graph(program):
            for site in by_function.get(function.name, ()):
                if site.record.kind != RelocationKind.TYPE_ID_LOCAL and site.spec is not None:
                    groups.setdefault(site.record.type_id, []).append(site)
        for type_id, sites in groups.items():
            answers = run.group(type_id, tuple((s.record.kind, tuple(_raw(s))) for s in sites))
            for site, answer in zip(sites, answers, strict=True):
                text = _difference(site, outcome.resolutions[site.number], answer)
                if text:
                    found[site.number] = Disagreement(number=site.number, text=text)
    return found


def _raw(site: Site) -> list[int]:
    assert site.spec is not None
    return site.spec.raw or [0]


def _difference(site: Site, ours: Resolution, theirs: _Fixup | str) -> str:
    if isinstance(theirs, str):
        return "" if ours.status is Status.ERROR else f"error: {theirs}"
    insn = site.program.insns[site.insn]
    kind = insn.insn_class
    if not theirs.poison:
        memory = kind in (LDX, ST, STX)
        if (memory and theirs.target > 0x7FFF) or (
            kind in (ALU, ALU64) and theirs.target > 0x7FFFFFFF
        ):
            return "" if ours.status is Status.ERROR else "error: the value does not fit"
    if ours.status is Status.ERROR:
        return "poison" if theirs.poison else f"= {theirs.target}"
    if theirs.poison:
        return "" if ours.status is Status.POISON else "poison"
    if ours.status is Status.POISON or theirs.target != ours.value:
        return f"= {theirs.target}"
    return f"= {theirs.target}, access width unchanged" if ours.width else ""


class _Run:
    def __init__(self, local: Btf, targets: Sequence[Btf]) -> None:
        self._local = local
        self._targets = targets
        self._groups: dict[tuple[object, ...], list[_Fixup | str]] = {}
        self._fixups: dict[tuple[object, ...], _Fixup | str] = {}
        self._candidates: dict[bytes, list[tuple[Btf, int]]] = {}

    def group(
        self, type_id: int, wanted: tuple[tuple[int, tuple[int, ...]], ...]
    ) -> list[_Fixup | str]:
        key = (type_id, wanted)
        if key not in self._groups:
            self._groups[key] = self._solve(type_id, wanted)
        return self._groups[key]

    def _solve(
        self, type_id: int, wanted: tuple[tuple[int, tuple[int, ...]], ...]
    ) -> list[_Fixup | str]:
        if not self._local.name_bytes(type_id):
            return ["anonymous type"] * len(wanted)
        best_score, best = len(wanted), None
        for target, candidate in self._list(type_id):
            fixups = [self._fixup(type_id, kind, raw, target, candidate) for kind, raw in wanted]
            errors = [one for one in fixups if isinstance(one, str)]
            if errors:
                return [errors[0]] * len(wanted)
            plain = [one for one in fixups if isinstance(one, _Fixup)]
            score = sum(
                one.poison or (kind in _EXISTENCE and one.target == 0)
                for (kind, _), one in zip(wanted, plain, strict=True)
            )
            if score < best_score:
                best_score, best = score, plain
            elif score == best_score and best is not None:
                pairs = zip(best, plain, strict=True)
                if any((a.local, a.target) != (b.local, b.target) for a, b in pairs):
                    return ["multiple types match"] * len(wanted)
        if best is None:
            return [
                _Fixup(1, 0) if kind in _EXISTENCE else _Fixup(poison=True) for kind, _ in wanted
            ]
        return list(best)

    def _list(self, type_id: int) -> list[tuple[Btf, int]]:
        name = essential(self._local.name_bytes(type_id))
        if name not in self._candidates:
            # libbpf's index cuts names by another rule: ask for both and compare.
            self._candidates[name] = [
                (target, candidate)
                for target in self._targets
                for candidate in target.names.candidates(essential_name(name))
                if essential(target.name_bytes(candidate)) == name
                and candidate >= target.first_own_id
            ]
        return self._candidates[name]

    def _fixup(
        self, type_id: int, kind: int, raw: tuple[int, ...], target: Btf, candidate: int
    ) -> _Fixup | str:
        key = (type_id, kind, raw, id(target), candidate)
        if key not in self._fixups:
            if len(self._fixups) >= _MAX_FIXUPS:
                return "too many types to try"
            try:
                self._fixups[key] = _fixup(self._local, type_id, kind, raw, target, candidate)
            except Impossible:
                missing = _Fixup(1, 0) if kind in _EXISTENCE else _Fixup(poison=True)
                self._fixups[key] = missing
            except (ProgramError, BtfError, LookupError) as error:
                self._fixups[key] = str(error)
        return self._fixups[key]


def _fixup(
    local: Btf, type_id: int, kind: int, raw: tuple[int, ...], target: Btf, candidate: int
) -> _Fixup:
    if kind == RelocationKind.TYPE_MATCHES:
        match(local, type_id, target, candidate, set())
        return _Fixup(1, 1)
    if kind in TYPE_KINDS:
        compatible(local, type_id, target, candidate, set())
        if kind == RelocationKind.TYPE_EXISTS:
            return _Fixup(1, 1)
        if kind == RelocationKind.TYPE_ID_TARGET:
            if target.first_own_id > 1:
                raise Impossible  # ids of modules cannot be encoded
            return _Fixup(type_id, candidate)
        return _Fixup(_size(local, type_id), _size(target, candidate))
    if kind in ENUM_KINDS:
        ours, theirs = _enum_value(local, type_id, raw, target, candidate)
        return _Fixup(1, 1) if kind == RelocationKind.ENUMVAL_EXISTS else _Fixup(ours, theirs)
    if kind not in FIELD_KINDS:
        raise ProgramError("unknown relocation kind")
    if target.kind(target.skip(candidate)) == Kind.FWD:
        raise Impossible
    one, other = _find_field(local, type_id, raw, target, candidate)
    if kind == RelocationKind.FIELD_EXISTS:
        return _Fixup(1, 1)
    if kind == RelocationKind.FIELD_BYTE_OFFSET:
        return _Fixup(one.offset, other.offset)
    if kind == RelocationKind.FIELD_BYTE_SIZE:
        return _Fixup(_size(local, one.type_id), _size(target, other.type_id))
    if kind == RelocationKind.FIELD_SIGNED:
        return _signed(local, one.type_id, target, other.type_id)
    bits = other.bits or _size(target, other.type_id) * 8
    if kind == RelocationKind.FIELD_RSHIFT_U64:
        return _Fixup(0, 64 - bits & _U64)
    if target.byte_order == "little":
        return _Fixup(0, 64 - other.bit_offset - bits & _U64)
    return _Fixup(0, 64 - _size(target, other.type_id) * 8 + other.bit_offset & _U64)


def _size(btf: Btf, type_id: int) -> int:
    size = btf.try_size(type_id)
    if size < 0:
        raise ProgramError("a type without size")
    return size


def _signed(local: Btf, one: int, target: Btf, other: int) -> _Fixup:
    kind, theirs = go_kind(local, one), go_kind(target, other)
    if kind == Kind.ENUM:
        if theirs != Kind.ENUM:
            raise ProgramError("the target is no enum")
        return _Fixup(local.is_signed(one), target.is_signed(other))
    if kind == Kind.INT:
        if theirs != Kind.INT:
            raise ProgramError("the target is no int")
        return _Fixup(
            local.int_word(local.skip(one)) >> 24 & INT_SIGNED,
            target.int_word(target.skip(other)) >> 24 & INT_SIGNED,
        )
    raise ProgramError("no signedness")


def _enum_value(
    local: Btf, type_id: int, raw: tuple[int, ...], target: Btf, candidate: int
) -> tuple[int, int]:
    chosen = local.enumerators(local.skip(type_id))[raw[0]]
    if go_kind(target, candidate) != Kind.ENUM:
        raise Impossible
    wanted = essential(chosen.name.encode())
    for one in target.enumerators(target.skip(candidate)):
        if essential(one.name.encode()) == wanted:
            return chosen.value & _U64, one.value & _U64
    raise Impossible


def _find_field(
    local: Btf, type_id: int, raw: tuple[int, ...], target: Btf, candidate: int
) -> tuple[_Field, _Field]:
    one, other = _Field(type_id, 0), _Field(candidate, 0)
    members_compatible(local, type_id, target, candidate)
    if raw[0]:
        one.offset = raw[0] * _size(local, type_id)
        other.offset = raw[0] * _size(target, candidate)
    for step, index in enumerate(raw[1:], 2):
        kind = go_kind(local, one.type_id)
        if kind in _COMPOSITES:
            member = _member(local, local.skip(one.type_id), index)
            if not member.name:
                if go_kind(local, member.type_id) not in _COMPOSITES:
                    raise ProgramError("an unnamed field that is no struct")
                one = _Field(member.type_id, one.offset + member.bit_offset // 8)
                continue
            if go_kind(target, other.type_id) not in _COMPOSITES:
                raise Impossible
            found = _find_member(target, target.skip(other.type_id), member.name)
            bitfield = member.bits or found.bits
            if bitfield and step < len(raw):
                raise ProgramError("cannot descend into a bitfield")
            one = _moved(one, member.type_id, member.bit_offset, member.bits, member.last)
            other = _moved(other, found.type_id, found.bit_offset, found.bits, found.last)
            if bitfield:
                _align(local, one, member.bit_offset)
                _align(target, other, found.bit_offset)
        elif kind == Kind.ARRAY:
            one, other = _element(local, one, target, other, index)
        else:
            raise ProgramError("a field of something that has none")
        members_compatible(local, one.type_id, target, other.type_id)
    return one, other


def _moved(field: _Field, type_id: int, bit_offset: int, bits: int, last: bool) -> _Field:
    return _Field(type_id, field.offset + bit_offset // 8, bits=bits, last=last)


def _align(btf: Btf, field: _Field, bit_offset: int) -> None:
    """Load offset of a bitfield: aligned to its type."""
    alignment = _alignment(btf, field.type_id)
    start = bit_offset // 8 // alignment * alignment
    field.offset += start - bit_offset // 8
    field.bit_offset = bit_offset - start * 8


def _alignment(btf: Btf, type_id: int) -> int:
    type_id = btf.skip(type_id)
    kind = btf.kind(type_id)
    if kind in (Kind.INT, Kind.ENUM, Kind.ENUM64):
        return btf.reference(type_id) or 1
    if kind == Kind.PTR:
        return btf.pointer_size
    if kind == Kind.ARRAY:
        return _alignment(btf, btf.array_of(type_id)[0])
    raise ProgramError("no alignment")


def _element(
    local: Btf, one: _Field, target: Btf, other: _Field, index: int
) -> tuple[_Field, _Field]:
    if go_kind(target, other.type_id) != Kind.ARRAY:
        raise Impossible
    element, length = local.array_of(local.skip(one.type_id))
    target_element, target_length = target.array_of(target.skip(other.type_id))
    if (length == 0 and not one.last) or (target_length == 0 and not other.last):
        raise ProgramError("invalid flexible array")
    if length and index >= length:
        raise ProgramError("an index outside the array")
    if target_length and index >= target_length:
        raise Impossible
    return (
        _Field(element, one.offset + (index * _size(local, element) if index else 0)),
        _Field(
            target_element, other.offset + (index * _size(target, target_element) if index else 0)
        ),
    )


@dataclass(slots=True)
class _Member:
    name: bytes
    type_id: int
    bit_offset: int
    bits: int
    last: bool


def _member(btf: Btf, type_id: int, number: int) -> _Member:
    at = btf.record(type_id)
    info = btf.words[at + 1]
    count = info & VLEN_MASK
    if number >= count:
        raise ProgramError("a member that does not exist")
    name_off, member, offset = btf.words[at + 3 + 3 * number : at + 6 + 3 * number]
    bits, offset = (offset >> 24, offset & 0xFFFFFF) if info >> 31 else (0, offset)
    return _Member(btf.string_bytes(name_off), member, offset, bits, number == count - 1)


def _find_member(btf: Btf, type_id: int, name: bytes) -> _Member:
    """Breadth first through anonymous structs and unions."""
    waiting = [(type_id, 0)]
    seen: set[tuple[int, int]] = set()
    for composite, base in waiting:
        if (composite, base) in seen:
            continue
        if len(seen) >= _MAX_DEPTH:
            raise ProgramError("nested too deeply")
        seen.add((composite, base))
        table = btf.member_table(composite)
        position = table.positions.get(name, -1)
        for number in table.anonymous:
            if 0 <= position < number:
                break
            member = _member(btf, composite, number)
            inner = btf.skip(member.type_id)
            if btf.kind(inner) not in _COMPOSITES:
                raise ProgramError("an anonymous member that is no struct")
            waiting.append((inner, base + member.bit_offset))
        if position >= 0:
            found = _member(btf, composite, position)
            found.bit_offset += base
            return found
    raise Impossible
