# SPDX-License-Identifier: Apache-2.0
"""Type records decoded for people: what `Btf.type()`, `members()` and their kin return."""

from __future__ import annotations

from dataclasses import dataclass

from harness.btf.kinds import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A member of a struct or union."""

    name: str  # empty when anonymous
    type_id: int
    bit_offset: int
    bitfield_bits: int  # 0: not a bitfield


@dataclass(frozen=True, kw_only=True, slots=True)
class Enumerator:
    """One name of an enum, with its value (signed if the enum is)."""

    name: str
    value: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter of a function prototype; type id 0 at the end means variadic."""

    name: str
    type_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionVariable:
    """A variable of a data section: where it lies in it."""

    type_id: int
    offset: int  # bytes
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class MemberTable:
    """Where the members of a composite are by name; structs with the same names share one."""

    positions: dict[bytes, int]  # the first of that name
    anonymous: tuple[int, ...]  # positions of members without a name


@dataclass(frozen=True, kw_only=True, slots=True)
class Type:
    """One type record, decoded for people; `size` or `type_id` is 0 where the kind has none."""

    id: int
    kind: Kind
    name: str
    vlen: int
    kflag: bool
    size: int  # bytes
    type_id: int
