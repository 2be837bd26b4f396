# SPDX-License-Identifier: Apache-2.0
"""From a matched path to the number that goes into the instruction (bpf_core_calc_relo).

Differences between libbpf releases are fields of `Rules`, never comparisons of versions elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.btf.btf import Btf
from harness.btf.errors import BtfError
from harness.btf.kinds import (
    ENUM_KINDS,
    FIELD_KINDS,
    INT_SIGNED,
    Kind,
    RelocationKind,
    relocation_name,
)
from harness.btf.match import Refusal
from harness.btf.spec import Spec

_U32: Final = 0xFFFFFFFF
_MAX_NESTED: Final = 1024  # arrays of arrays; libbpf has no limit
_U64: Final = 0xFFFFFFFFFFFFFFFF
_ENUMS: Final = (Kind.ENUM, Kind.ENUM64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What changed between libbpf releases."""

    # v1.6 (2025-02): width of a load from an array is one element, before: the whole array
    element_width: bool = True
    # v1.3 (2023-08): signedness of enums is their kflag, before: bit 24 of the next word
    enum_sign: bool = True
    # v1.3 (2023-08): a kfunc extern's name loses its flavour
    kfunc_flavours: bool = True

    @classmethod
    def of(cls, version: str) -> Rules:
        """The rules of a libbpf release, such as `1.1.2`."""
        try:
            major, minor = (int(part) for part in version.lstrip("v").split(".")[:2])
        except ValueError as error:
            raise BtfError(
                f"'{version}' is no libbpf version", hint="write it like 1.1.2"
            ) from error
        at = (major, minor)
        return cls(element_width=at >= (1, 6), enum_sign=at >= (1, 3), kfunc_flavours=at >= (1, 3))


LATEST: Final = Rules()


class Unsatisfied(Exception):  # noqa: N818 - a request, not a failure
    """There is no value: the instruction is to be poisoned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A computed value with what patching needs to know."""

    number: int  # unsigned 64 bits
    width: int = 0  # bytes of the field, 0 where no load can be meant
    width_type: int = 0  # the type that has this width
    validate: bool = True  # the instruction must hold the local value


def compute(spec: Spec | None, kind: int, rules: Rules) -> Value:
    """The value of a path; None asks what happens when nothing matches."""
    try:
        if kind in FIELD_KINDS:
            return _field(spec, kind, rules)
        if kind in ENUM_KINDS:
            return _enumerator(spec, kind)
        return _type(spec, kind)
    except (BtfError, LookupError) as error:
        raise Refusal("EINVAL", f"no value: {error}") from error


def widths_conflict(local: Btf, old: Value, target: Btf, new: Value) -> bool:
    """A load or store of these widths cannot be adjusted (libbpf's fail_memsz_adjust)."""
    if old.width == new.width:
        return False
    kinds = local.kind(old.width_type), target.kind(new.width_type)
    if kinds == (Kind.PTR, Kind.PTR):
        return False
    if kinds == (Kind.INT, Kind.INT):
        signs = (
            local.int_word(old.width_type) >> 24 & 15,
            target.int_word(new.width_type) >> 24 & 15,
        )
        return INT_SIGNED in signs
    return True


def _field(spec: Spec | None, kind: int, rules: Rules) -> Value:
    if kind == RelocationKind.FIELD_EXISTS:
        return Value(number=1 if spec else 0)
    if spec is None:
        raise Unsatisfied
    last = spec.accessors[-1]
    if last.name is None:
        return _element(spec, last.type_id, kind, rules)
    btf = spec.btf
    at = btf.record(last.type_id)
    member_id, offset = btf.words[at + 4 + 3 * last.number : at + 6 + 3 * last.number]
    type_id = btf.skip(member_id)
    bit_off, bit_size = spec.bit_offset, offset >> 24 if btf.words[at + 1] >> 31 else 0
    bitfield = bit_size > 0
    if bitfield:
        byte_size, byte_off = _load_unit(btf.reference(type_id), bit_off, bit_size)
    else:
        byte_size = _size(btf, type_id)
        byte_off = bit_off // 8
        bit_size = byte_size * 8 & _U32
    if kind == RelocationKind.FIELD_BYTE_OFFSET:
        width = 0 if bitfield else _width(btf, type_id, rules)
        return Value(
            number=byte_off,
            width=width,
            width_type=0 if bitfield else type_id,
            validate=not bitfield,
        )
    if kind == RelocationKind.FIELD_BYTE_SIZE:
        return Value(number=byte_size, validate=not bitfield)
    if kind == RelocationKind.FIELD_SIGNED:
        return Value(number=_sign(btf, type_id, rules))
    if kind == RelocationKind.FIELD_RSHIFT_U64:
        return Value(number=64 - bit_size & _U32)
    if btf.byte_order == "little":
        shift = 64 - (bit_off + bit_size - byte_off * 8)
    else:
        shift = (8 - byte_size) * 8 + (bit_off - byte_off * 8)
    return Value(number=shift & _U32, validate=not bitfield)


def _element(spec: Spec, type_id: int, kind: int, rules: Rules) -> Value:
    if kind == RelocationKind.FIELD_BYTE_OFFSET:
        width = _width(spec.btf, type_id, rules)
        return Value(number=spec.bit_offset // 8, width=width, width_type=type_id)
    if kind == RelocationKind.FIELD_BYTE_SIZE:
        return Value(number=_size(spec.btf, type_id))
    raise Refusal("EINVAL", f"{relocation_name(kind)} cannot be applied to an array access")


def _load_unit(byte_size: int, bit_off: int, bit_size: int) -> tuple[int, int]:
    """(size, offset) in bytes of the smallest aligned load that covers a bitfield."""
    if byte_size == 0:
        raise Refusal("EINVAL", "a bitfield of a type without size")
    byte_off = bit_off // 8 // byte_size * byte_size
    while bit_off + bit_size - byte_off * 8 & _U32 > byte_size * 8:
        if byte_size >= 8:
            raise Refusal("E2BIG", "a bitfield that no 64-bit load covers")
        byte_size *= 2
        byte_off = bit_off // 8 // byte_size * byte_size
    return byte_size, byte_off


def _size(btf: Btf, type_id: int) -> int:
    size = btf.try_size(type_id)
    if size < 0:
        raise Refusal("EINVAL", f"type {type_id} has no size")
    return size


def _width(btf: Btf, type_id: int, rules: Rules) -> int:
    current = btf.skip(type_id)
    steps = 0
    while rules.element_width and btf.kind(current) == Kind.ARRAY:
        current = btf.skip(btf.array_of(current)[0])
        steps += 1
        if steps > _MAX_NESTED:
            raise Refusal("EINVAL", f"type {type_id} is an array of itself")
    return _size(btf, current)


def _sign(btf: Btf, type_id: int, rules: Rules) -> int:
    kind = btf.kind(type_id)
    if kind in _ENUMS and (rules.enum_sign or btf.kflag(type_id)):
        return int(btf.kflag(type_id))
    if kind == Kind.INT or not rules.enum_sign:
        return btf.words[btf.record(type_id) + 3] >> 24 & INT_SIGNED
    return 0


def _type(spec: Spec | None, kind: int) -> Value:
    if spec is None:
        return Value(number=0)
    if kind == RelocationKind.TYPE_SIZE:
        return Value(number=_size(spec.btf, spec.root_id))
    if kind == RelocationKind.TYPE_ID_TARGET:
        # Linkers renumber types without touching instructions, so the old value proves nothing.
        return Value(number=spec.root_id, validate=False)
    return Value(number=1)


def _enumerator(spec: Spec | None, kind: int) -> Value:
    if kind == RelocationKind.ENUMVAL_EXISTS:
        return Value(number=1 if spec else 0)
    if spec is None:
        raise Unsatisfied
    chosen = spec.accessors[0]
    at = spec.btf.record(chosen.type_id)
    if spec.btf.kind(chosen.type_id) == Kind.ENUM:
        low = spec.btf.words[at + 4 + 2 * chosen.number]
        return Value(number=(low - (1 << 32) if low >> 31 else low) & _U64)
    low, high = spec.btf.words[at + 4 + 3 * chosen.number : at + 6 + 3 * chosen.number]
    return Value(number=high << 32 | low)
