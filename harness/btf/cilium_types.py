# SPDX-License-Identifier: Apache-2.0
"""cilium/ebpf's relations between types: names, members, compatibility, match."""

from __future__ import annotations

from typing import Final

from harness.btf.btf import Btf
from harness.btf.kinds import INT_SIGNED, Kind

_COMPOSITES: Final = (Kind.STRUCT, Kind.UNION)


class Impossible(Exception):  # noqa: N818 - this candidate does not fit
    """errImpossibleRelocation, errIncompatibleTypes."""


class ProgramError(Exception):
    """The program does not load."""


def essential(name: bytes) -> bytes:
    """cilium's newEssentialName: everything before the last `___`, unless that is nothing."""
    at = name.rfind(b"___")
    return name[:at] if at > 0 else name


def go_kind(btf: Btf, type_id: int) -> int:
    """Kind as a Go type: ENUM64 is ENUM."""
    kind = btf.kind(btf.skip(type_id))
    return Kind.ENUM if kind == Kind.ENUM64 else kind


def _names_match(one: bytes, other: bytes) -> bool:
    return not one or not other or essential(one) == essential(other)


def members_compatible(local: Btf, one: int, target: Btf, other: int) -> None:
    kind, theirs = go_kind(local, one), go_kind(target, other)
    if kind in _COMPOSITES and theirs in _COMPOSITES:
        return
    if kind != theirs:
        raise Impossible
    if kind in (Kind.ARRAY, Kind.PTR, Kind.FLOAT, Kind.INT):
        return
    if kind not in (Kind.ENUM, Kind.FWD):
        raise ProgramError("a field of a kind that cannot be one")
    one, other = local.skip(one), target.skip(other)
    if not _names_match(local.name_bytes(one), target.name_bytes(other)):
        raise Impossible


def compatible(local: Btf, one: int, target: Btf, other: int, seen: set[tuple[int, int]]) -> None:
    one, other = local.skip(one), target.skip(other)
    kind = go_kind(local, one)
    if kind != go_kind(target, other):
        raise Impossible
    if (one, other) in seen:
        return
    seen.add((one, other))
    if kind in (Kind.VOID, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.FWD, Kind.INT):
        return
    if kind == Kind.PTR:
        compatible(local, local.reference(one), target, target.reference(other), seen)
    elif kind == Kind.ARRAY:
        compatible(local, local.array_of(one)[0], target, target.array_of(other)[0], seen)
    elif kind == Kind.FUNC_PROTO:
        compatible(local, local.reference(one), target, target.reference(other), seen)
        ours, theirs = local.parameters(one), target.parameters(other)
        if len(ours) != len(theirs):
            raise Impossible
        for mine, yours in zip(ours, theirs, strict=True):
            compatible(local, mine.type_id, target, yours.type_id, seen)
    else:
        raise ProgramError("a kind that cannot be compared")


def match(local: Btf, one: int, target: Btf, other: int, seen: set[tuple[int, int]]) -> None:
    one, other = local.skip(one), target.skip(other)
    kind = go_kind(local, one)
    if not _names_match(local.name_bytes(one), target.name_bytes(other)):
        raise Impossible
    if kind != go_kind(target, other):
        raise Impossible
    if (one, other) in seen:
        return
    seen.add((one, other))
    if kind == Kind.FWD:
        if local.kflag(one) != target.kflag(other):
            raise Impossible
    elif kind == Kind.ENUM:
        _enums_match(local, one, target, other)
    elif kind in _COMPOSITES:
        mine, yours = local.members(one), target.members(other)
        by_name = {member.name: member.type_id for member in yours}
        if len(mine) > len(yours):
            raise Impossible
        for member in mine:
            if member.name not in by_name:
                raise Impossible
            match(local, member.type_id, target, by_name[member.name], seen)
    elif kind == Kind.INT:
        if _int_shape(local, one) != _int_shape(target, other):
            raise Impossible
    elif kind == Kind.PTR:
        to, theirs = local.reference(one), target.reference(other)
        if not (
            _forward_matches(local, to, target, theirs)
            or _forward_matches(target, theirs, local, to)
        ):
            match(local, to, target, theirs, seen)
    elif kind == Kind.ARRAY:
        (element, length), (there, count) = local.array_of(one), target.array_of(other)
        if length != count:
            raise Impossible
        match(local, element, target, there, seen)
    elif kind == Kind.FUNC_PROTO:
        ours, parameters = local.parameters(one), target.parameters(other)
        if len(ours) != len(parameters):
            raise Impossible
        for parameter, counterpart in zip(ours, parameters, strict=True):
            match(local, parameter.type_id, target, counterpart.type_id, seen)
        match(local, local.reference(one), target, target.reference(other), seen)
    elif kind != Kind.VOID:
        raise ProgramError("a kind that cannot be matched")


def _forward_matches(btf: Btf, forward: int, other_btf: Btf, other: int) -> bool:
    """A forward declaration behind a pointer stands for any struct or union of its kind."""
    forward, other = btf.skip(forward), other_btf.skip(other)
    if btf.kind(forward) != Kind.FWD:
        return False
    return other_btf.kind(other) == (Kind.UNION if btf.kflag(forward) else Kind.STRUCT)


def _int_shape(btf: Btf, type_id: int) -> tuple[int, bool]:
    return btf.reference(type_id), btf.int_word(type_id) >> 24 & 15 == INT_SIGNED


def _enums_match(local: Btf, one: int, target: Btf, other: int) -> None:
    if local.reference(one) != target.reference(other):
        raise Impossible
    ours, theirs = local.enumerators(one), target.enumerators(other)
    names = {essential(value.name.encode()) for value in theirs}
    if len(ours) > len(theirs):
        raise Impossible
    if any(essential(value.name.encode()) not in names for value in ours):
        raise Impossible
