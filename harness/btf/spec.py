# SPDX-License-Identifier: Apache-2.0
"""What a relocation points at: access strings parsed on the object's BTF, found again on a target.

Follows libbpf's bpf_core_parse_spec and bpf_core_spec_match, quirks included: bit offsets are
32-bit and wrap, and a member found inside an anonymous struct with an incompatible type leaves its
offset behind in a search that goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from harness.btf.btf import Btf
from harness.btf.errors import BtfError
from harness.btf.ext import RelocationRecord
from harness.btf.index import essential_name
from harness.btf.kinds import (
    ENUM_KINDS,
    FIELD_KINDS,
    TYPE_KINDS,
    VLEN_MASK,
    Kind,
    RelocationKind,
    kind_name,
    relocation_name,
)
from harness.btf.match import (
    Refusal,
    enumerator_names,
    fields_compatible,
    types_compatible,
    types_match,
)

_MAX_LEN: Final = 64
_MAX_VISITS: Final = 10_000  # of anonymous structs and unions; libbpf would go on for ages
_U32: Final = 0xFFFFFFFF
_ENUMS: Final = (Kind.ENUM, Kind.ENUM64)
_COMPOSITES: Final = (Kind.STRUCT, Kind.UNION)
_INDEX: Final = re.compile(r"\s*([+-]?[0-9]{1,20})")  # what sscanf("%d") takes


class Accessor(NamedTuple):
    """One step: member `number` (with a name) of a composite, or element `number` (without)."""

    type_id: int
    number: int
    name: bytes | None


@dataclass(slots=True)
class Spec:
    """A path from a root type to what is relocated; same shape for the object and the target."""

    btf: Btf
    root_id: int
    kind: int
    accessors: list[Accessor] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)  # every step, anonymous members included
    bit_offset: int = 0
    visits: int = 0  # of composites, in the search for members

    def text(self) -> str:
        """The path as libbpf prints it: `<byte_off> [4] struct sk_buff.len (0:7 @ offset 112)`."""
        btf = self.btf
        name = btf.name(self.root_id) or "<anon>"
        text = (
            f"<{relocation_name(self.kind)}> [{self.root_id}] "
            f"{kind_name(btf.kind(self.root_id))} {name}"
        )
        if self.kind in ENUM_KINDS and self.raw:
            chosen = btf.enumerators(btf.skip(self.root_id))[self.raw[0]]
            return f"{text}::{chosen.name} = {chosen.value}"
        if self.kind not in FIELD_KINDS:
            return text
        for number, accessor in enumerate(self.accessors):
            if accessor.name is not None:
                text += "." + accessor.name.decode("utf-8", "backslashreplace")
            elif number or accessor.number:
                text += f"[{accessor.number}]"
        rest = f".{self.bit_offset % 8}" if self.bit_offset % 8 else ""
        return f"{text} ({':'.join(map(str, self.raw))} @ offset {self.bit_offset // 8}{rest})"


def is_flexible(btf: Btf, previous: Accessor, elements: int) -> bool:
    """Whether an array reached through `previous` is a flexible array member."""
    return (
        previous.name is not None
        and elements == 0
        and previous.number == btf.vlen(previous.type_id) - 1
    )


def parse(btf: Btf, record: RelocationRecord) -> Spec:
    """The relocation's path on the object's own BTF; `Refusal` as libbpf refuses."""
    try:
        return _parse(btf, record)
    except (BtfError, LookupError) as error:
        raise Refusal("EINVAL", f"parsing '{record.access}' failed: {error}") from error


def _parse(btf: Btf, record: RelocationRecord) -> Spec:
    text = record.access
    if not text or text.startswith(":"):
        raise Refusal("EINVAL", f"access string '{text}' is malformed")
    spec = Spec(btf=btf, root_id=record.type_id, kind=record.kind)
    if record.kind in TYPE_KINDS:
        if text != "0":
            raise Refusal("EINVAL", f"access string '{text}' of a type relocation is not '0'")
        return spec
    indices = _indices(text)
    current = btf.skip(record.type_id)
    if record.kind in ENUM_KINDS:
        if btf.kind(current) not in _ENUMS or len(indices) > 1 or indices[0] >= btf.vlen(current):
            raise Refusal("EINVAL", f"'{text}' is no enumerator of type {record.type_id}")
        name = enumerator_names(btf, current)[indices[0]]
        spec.accessors.append(Accessor(current, indices[0], name))
        spec.raw = indices
        return spec
    spec.accessors.append(Accessor(current, indices[0], None))
    spec.raw = indices
    if record.kind not in FIELD_KINDS:
        raise Refusal("EINVAL", f"unknown relocation kind '{record.kind}'")
    spec.bit_offset = indices[0] * _size(btf, current) * 8 & _U32
    for step, index in enumerate(indices[1:], 1):
        current = _step(btf, spec, btf.skip(current), index, text, step)
    return spec


def _step(btf: Btf, spec: Spec, current: int, index: int, text: str, step: int) -> int:
    """Take one step of the access string and return the type it leads to."""
    kind = btf.kind(current)
    if kind in _COMPOSITES:
        if index >= btf.vlen(current):
            raise Refusal("EINVAL", f"member '{index}' of '{text}' does not exist")
        at = btf.record(current)
        name_off, member, offset = btf.words[at + 3 + 3 * index : at + 6 + 3 * index]
        if btf.words[at + 1] >> 31:
            offset &= 0xFFFFFF
        spec.bit_offset = spec.bit_offset + offset & _U32
        if name_off:
            name = btf.string_bytes(name_off)
            if not name:
                raise Refusal("EINVAL", f"member '{index}' of '{text}' has an empty name")
            spec.accessors.append(Accessor(current, index, name))
        return member
    if kind == Kind.ARRAY:
        element, elements = btf.array_of(current)
        element = btf.skip(element)
        if index >= elements and not is_flexible(btf, spec.accessors[-1], elements):
            raise Refusal("EINVAL", f"element '{index}' of '{text}' is outside its array")
        spec.accessors.append(Accessor(element, index, None))
        spec.bit_offset = spec.bit_offset + index * _size(btf, element) * 8 & _U32
        return element
    raise Refusal("EINVAL", f"'{text}' reaches a {kind_name(kind)} at step {step}")


def _indices(text: str) -> list[int]:
    indices: list[int] = []
    at = 0
    while at < len(text):
        if text[at] == ":":
            at += 1
        found = _INDEX.match(text, at)
        if found is None or not 0 <= int(found[1]) < 1 << 31:
            raise Refusal("EINVAL", f"access string '{text}' is malformed at {at}")
        if len(indices) == _MAX_LEN:
            raise Refusal("E2BIG", f"access string '{text}' has more than {_MAX_LEN} steps")
        indices.append(int(found[1]))
        at = found.end()
    return indices


def _size(btf: Btf, type_id: int) -> int:
    size = btf.try_size(type_id)
    if size < 0:
        raise Refusal("EINVAL" if size == -22 else "E2BIG", f"type {type_id} has no usable size")
    return size


def match(local: Spec, target: Btf, candidate: int) -> Spec | None:
    """The same path on a candidate type of the target; None when the candidate does not fit."""
    try:
        return _match(local, target, candidate)
    except (BtfError, LookupError) as error:
        raise Refusal("EINVAL", f"matching candidate [{candidate}] failed: {error}") from error


def _match(local: Spec, target: Btf, candidate: int) -> Spec | None:
    spec = Spec(btf=target, root_id=candidate, kind=local.kind)
    if local.kind in TYPE_KINDS:
        relation = types_match if local.kind == RelocationKind.TYPE_MATCHES else types_compatible
        return spec if relation(local.btf, local.root_id, target, candidate) else None
    if local.kind in ENUM_KINDS:
        return _match_enumerator(local, spec, target.skip(candidate))
    current = candidate
    for number, accessor in enumerate(local.accessors):
        current = target.skip(current)
        if accessor.name is not None:
            found = _match_member(local.btf, accessor, spec, current)
            if not found:
                return None
            current = found
            continue
        if number:
            if target.kind(current) != Kind.ARRAY:
                return None
            element, elements = target.array_of(current)
            if accessor.number >= elements and not is_flexible(
                target, spec.accessors[-1], elements
            ):
                return None
            current = target.skip(element)
        if len(spec.raw) == _MAX_LEN:
            raise Refusal("E2BIG", "the target's types are nested too deeply")
        spec.accessors.append(Accessor(current, accessor.number, None))
        spec.raw.append(accessor.number)
        spec.bit_offset = spec.bit_offset + accessor.number * _size(target, current) * 8 & _U32
    return spec


def _match_enumerator(local: Spec, spec: Spec, target_id: int) -> Spec | None:
    if spec.btf.kind(target_id) not in _ENUMS:
        return None
    wanted = essential_name(local.accessors[0].name or b"")
    for number, name in enumerate(enumerator_names(spec.btf, target_id)):
        if essential_name(name) == wanted:
            spec.accessors.append(Accessor(target_id, number, name))
            spec.raw.append(number)
            return spec
    return None


def _match_member(local: Btf, wanted: Accessor, spec: Spec, target_id: int) -> int:
    """Depth-first search for a member by name; the id of its type, 0 when there is none."""
    target = spec.btf
    target_id = target.skip(target_id)
    if target.kind(target_id) not in _COMPOSITES:
        return 0
    words = target.words
    at = target.record(target_id)
    info = words[at + 1]
    if info & VLEN_MASK == 0:
        return 0
    if len(spec.raw) == _MAX_LEN:
        raise Refusal("E2BIG", "the target's types are nested too deeply")
    spec.visits += 1
    if spec.visits > _MAX_VISITS:  # two anonymous members of one type double it with each level
        raise Refusal("E2BIG", "the target's types are too many to search")
    mask = 0xFFFFFF if info >> 31 else _U32
    table = target.member_table(target_id)
    position = table.positions.get(wanted.name or b"", -1)
    for index in table.anonymous:
        if 0 <= position < index:
            break
        offset = words[at + 5 + 3 * index] & mask
        spec.bit_offset = spec.bit_offset + offset & _U32
        spec.raw.append(index)
        found = _match_member(local, wanted, spec, words[at + 4 + 3 * index])
        if found:
            return found
        # What an incompatible member below left behind stays: so it is in libbpf.
        spec.bit_offset = spec.bit_offset - offset & _U32
        spec.raw.pop()
    if position < 0:
        return 0
    spec.bit_offset = spec.bit_offset + (words[at + 5 + 3 * position] & mask) & _U32
    spec.raw.append(position)
    member = words[at + 4 + 3 * position]
    at_local = local.record(wanted.type_id) + 4 + 3 * wanted.number
    if not fields_compatible(local, local.words[at_local], target, member):
        return 0
    spec.accessors.append(Accessor(target_id, position, wanted.name))
    # A member of type void would be id 0; libbpf's fields of it are never compatible.
    return member
