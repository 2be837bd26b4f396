# SPDX-License-Identifier: Apache-2.0
"""When two types of different BTFs count as the same: libbpf's three relations, exactly.

`fields_compatible` for members that a field relocation reaches, `types_compatible` for type
relocations and externs, `types_match` for TYPE_MATCHES. Each returns a bool or raises `Refusal`
where libbpf returns a negative errno, which fails the load of the whole object.
"""

from __future__ import annotations

from typing import Final

from harness.btf.btf import Btf
from harness.btf.index import essential_name
from harness.btf.kinds import INT_SIGNED, KIND_MASK, KIND_SHIFT, VLEN_MASK, Kind

_DEPTH: Final = 32
_NESTED: Final = 1024  # arrays of arrays; libbpf has no limit
# libbpf would walk an exponential pile of prototypes for hours; nothing real comes near this.
_BUDGET: Final = 1_000_000
_ENUMS: Final = (Kind.ENUM, Kind.ENUM64)
_COMPOSITES: Final = (Kind.STRUCT, Kind.UNION)


class Refusal(Exception):  # noqa: N818 - it is libbpf's answer, not a failure of ours
    """libbpf would return this errno here."""

    def __init__(self, errno_name: str, reason: str) -> None:
        super().__init__(f"{reason} (-{errno_name})")
        self.errno_name = errno_name
        self.reason = reason


def kinds_compatible(one: int, other: int) -> bool:
    """Same kind; both sizes of enum are one kind."""
    return one == other or (one in _ENUMS and other in _ENUMS)


def fields_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Whether a target member of this type can stand for the local one."""
    for _ in range(_NESTED):
        local_id, target_id = local.skip(local_id), target.skip(target_id)
        local_kind, target_kind = local.kind(local_id), target.kind(target_id)
        if local_kind in _COMPOSITES and target_kind in _COMPOSITES:
            return True
        if not kinds_compatible(local_kind, target_kind):
            return False
        if local_kind in (Kind.PTR, Kind.FLOAT):
            return True
        if local_kind == Kind.FWD or local_kind in _ENUMS:
            local_name = essential_name(local.name_bytes(local_id))
            target_name = essential_name(target.name_bytes(target_id))
            return not local_name or not target_name or local_name == target_name
        if local_kind == Kind.INT:
            return _plain_ints(local, local_id, target, target_id)
        if local_kind != Kind.ARRAY:
            return False
        local_id, target_id = local.array_of(local_id)[0], target.array_of(target_id)[0]
    raise Refusal("EINVAL", "an array of itself")


def types_compatible(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """TYPE_EXISTS, TYPE_SIZE, TYPE_ID_TARGET and typed externs; names are the caller's business."""
    return _Compatible(local, target).check(local_id, target_id, _DEPTH)


def types_match(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """TYPE_MATCHES: members, names, sizes and signs too."""
    return _Match(local, target).check(local_id, target_id, False, _DEPTH)


def names_match(local_name: bytes, target_name: bytes) -> bool:
    """Equal without flavours; an anonymous target only for an anonymous local one."""
    if not target_name:
        return not local_name
    return essential_name(local_name) == essential_name(target_name)


def _plain_ints(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Neither is one of the old bitfield ints (bit offset in the int itself)."""
    return not (local.int_word(local_id) >> 16 & 0xFF or target.int_word(target_id) >> 16 & 0xFF)


class _Compatible:
    def __init__(self, local: Btf, target: Btf) -> None:
        self._local = local
        self._target = target
        self._budget = _BUDGET

    def check(self, local_id: int, target_id: int, level: int) -> bool:
        local, target = self._local, self._target
        if not kinds_compatible(local.kind(local_id), target.kind(target_id)):
            return False
        for _ in range(_DEPTH):
            self._budget -= 1
            local_id, target_id = local.skip(local_id), target.skip(target_id)
            kind = local.kind(local_id)
            if not kinds_compatible(kind, target.kind(target_id)):
                return False
            if kind in (Kind.VOID, Kind.FWD) or kind in _COMPOSITES or kind in _ENUMS:
                return True
            if kind == Kind.INT:
                return _plain_ints(local, local_id, target, target_id)
            if kind == Kind.PTR:
                local_id, target_id = local.reference(local_id), target.reference(target_id)
            elif kind == Kind.ARRAY:
                local_id, target_id = local.array_of(local_id)[0], target.array_of(target_id)[0]
            elif kind == Kind.FUNC_PROTO:
                ours, theirs = _parameter_ids(local, local_id), _parameter_ids(target, target_id)
                self._budget -= len(ours)
                if len(ours) != len(theirs):
                    return False
                for one, other in zip(ours, theirs, strict=True):
                    if level <= 0 or self._budget <= 0:
                        raise Refusal("EINVAL", "prototypes are nested too deeply")
                    if not self.check(local.skip(one), target.skip(other), level - 1):
                        return False
                local_id = local.skip(local.reference(local_id))
                target_id = target.skip(target.reference(target_id))
            else:
                return False
        raise Refusal("EINVAL", "types are nested too deeply")


class _Match:
    def __init__(self, local: Btf, target: Btf) -> None:
        self._local = local
        self._target = target
        self._budget = _BUDGET

    def check(self, local_id: int, target_id: int, behind_ptr: bool, level: int) -> bool:
        local, target = self._local, self._target
        if level <= 0:
            raise Refusal("EINVAL", "types are nested too deeply")
        for _ in range(_DEPTH):
            self._budget -= 1
            if self._budget <= 0:
                raise Refusal("EINVAL", "types are too many to compare")
            local_id, target_id = local.skip(local_id), target.skip(target_id)
            if not names_match(local.name_bytes(local_id), target.name_bytes(target_id)):
                return False
            ours, theirs = local.kind(local_id), target.kind(target_id)
            if ours == Kind.VOID:
                return theirs == Kind.VOID
            if ours == Kind.FWD:
                return self._forward(local.kflag(local_id), theirs, target_id, behind_ptr)
            if ours in _ENUMS:
                return theirs in _ENUMS and self._enums(local_id, target_id)
            if ours in _COMPOSITES:
                if not behind_ptr:
                    return ours == theirs and self._members(local_id, target_id, level)
                if theirs == Kind.FWD:
                    return (ours == Kind.UNION) == target.kflag(target_id)
                return ours == theirs
            if ours != theirs:
                return False
            if ours == Kind.INT:
                return _size_and_sign(local, local_id) == _size_and_sign(target, target_id)
            if ours == Kind.PTR:
                behind_ptr = True
                local_id, target_id = local.reference(local_id), target.reference(target_id)
            elif ours == Kind.ARRAY:
                local_id, local_length = local.array_of(local_id)
                target_id, target_length = target.array_of(target_id)
                if local_length != target_length:
                    return False
            elif ours == Kind.FUNC_PROTO:
                mine, other = _parameter_ids(local, local_id), _parameter_ids(target, target_id)
                self._budget -= len(mine) + len(other)
                if len(mine) != len(other):
                    return False
                for one, two in zip(mine, other, strict=True):
                    if not self.check(one, two, behind_ptr, level - 1):
                        return False
                local_id, target_id = local.reference(local_id), target.reference(target_id)
            else:
                return False
        raise Refusal("EINVAL", "types are nested too deeply")

    def _forward(self, union: bool, kind: int, target_id: int, behind_ptr: bool) -> bool:
        if kind == Kind.FWD:
            return union == self._target.kflag(target_id)
        return behind_ptr and kind == (Kind.UNION if union else Kind.STRUCT)

    def _enums(self, local_id: int, target_id: int) -> bool:
        local, target = self._local, self._target
        if local.reference(local_id) != target.reference(target_id):
            return False
        if local.vlen(local_id) > target.vlen(target_id):
            return False
        self._budget -= target.vlen(target_id)
        present = {essential_name(name) for name in enumerator_names(target, target_id)}
        return all(essential_name(name) in present for name in enumerator_names(local, local_id))

    def _members(self, local_id: int, target_id: int, level: int) -> bool:
        local, target = self._local, self._target
        ours, theirs = _member_names(local, local_id), _member_names(target, target_id)
        self._budget -= len(ours) + len(theirs)
        if len(ours) > len(theirs):
            return False
        for name, type_id in ours:
            for other_name, other_id in theirs:
                self._budget -= 1
                if self._budget <= 0:
                    raise Refusal("EINVAL", "types are too many to compare")
                if names_match(name, other_name) and self.check(
                    type_id, other_id, False, level - 1
                ):
                    break
            else:
                return False
        return True


def enumerator_names(btf: Btf, type_id: int) -> list[bytes]:
    """Names of an enum's or enum64's enumerators, in order."""
    at = btf.record(type_id)
    info = btf.words[at + 1]
    width = 2 if info >> KIND_SHIFT & KIND_MASK == Kind.ENUM else 3
    offsets = btf.words[at + 3 : at + 3 + width * (info & VLEN_MASK) : width]
    return [btf.string_bytes(offset) for offset in offsets]


def _member_names(btf: Btf, type_id: int) -> list[tuple[bytes, int]]:
    at = btf.record(type_id)
    words = btf.words[at + 3 : at + 3 + 3 * (btf.words[at + 1] & VLEN_MASK)]
    return [
        (btf.string_bytes(name_off), member)
        for name_off, member in zip(words[::3], words[1::3], strict=True)
    ]


def _parameter_ids(btf: Btf, type_id: int) -> list[int]:
    at = btf.record(type_id)
    return list(btf.words[at + 4 : at + 3 + 2 * (btf.words[at + 1] & VLEN_MASK) : 2])


def _size_and_sign(btf: Btf, type_id: int) -> tuple[int, int]:
    return btf.reference(type_id), btf.int_word(type_id) >> 24 & INT_SIGNED
