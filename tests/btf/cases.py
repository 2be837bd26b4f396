# SPDX-License-Identifier: Apache-2.0
"""Random pairs of related BTFs with relocations between them, reproducible by seed.

The target is the local type list built again with some decisions changed, once or several times
over, so that names meet, layouts differ and candidates are ambiguous.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from harness.btf import Btf, RelocationKind, RelocationRecord, Rules
from harness.btf.insn import ALU64, LDIMM64, LDX, SIZE_BITS, ST, STX, Insn, signed32
from harness.btf.kinds import FIELD_KINDS, TYPE_KINDS, Kind
from harness.btf.match import Refusal
from harness.btf.spec import parse
from harness.btf.values import LATEST, Value, compute
from tests.btf.builder import BtfBuilder, ByteOrder, ObjectBuilder

_STRUCTS = ("s", "t", "u", "s___old", "t___v2__x", "u____no", "s___a___b", "__s")
_MEMBERS = ("a", "b", "c", "d", "e", "", "", "f", "a___x")
_ENUMERATORS = ("A", "B", "C", "A___x", "D", "B___y")
_ENUMS = ("e", "e___x", "f", "")
_TYPEDEFS = ("td", "td___x", "te")
_KINDS = (*range(13), *range(6), *range(6), 10, 11)  # fields are hardest: draw them more often
_MEM = 0x60


class _Dice:
    """Draws from `base`; now and then, where `drift` says so, the draw is another."""

    def __init__(self, seed: int, drift_seed: int, drift: float) -> None:
        self._base = random.Random(seed)
        self._drift = random.Random(drift_seed)
        self._chance = drift

    def below(self, end: int) -> int:
        drawn = self._base.randrange(end)
        if self._drift.random() < self._chance:
            return self._drift.randrange(end)
        return drawn

    def chance(self, probability: float) -> bool:
        return self.below(1000) < probability * 1000

    def pick(self, names: tuple[str, ...]) -> str:
        return names[self.below(len(names))]


def _add_types(builder: BtfBuilder, dice: _Dice, count: int) -> list[int]:
    """Append `count` types that refer to each other; returns their ids."""
    first = len(builder.types) + builder.first_id
    ids: list[int] = []

    def some() -> int:
        return first + dice.below(len(ids)) if ids else 0

    def sized() -> int:
        """A type that can be a member: no function, no void."""
        return first + dice.below(len(ids)) if ids else builder.integer()

    for size, name in ((4, "int"), (8, "long int"), (1, "char"), (4, "unsigned int"), (8, "u64")):
        ids.append(builder.integer(name, size, 0 if name.startswith("u") else 1))
    for _ in range(count):
        what = dice.below(26)
        if what < 9:
            ids.append(_add_composite(builder, dice, first, sized))
        elif what < 11:
            ids.append(builder.array(sized(), (0, 1, 2, 3, 4)[dice.below(5)]))
        elif what < 14:
            ids.append(builder.pointer(some()))
        elif what < 16:
            values = [
                (dice.pick(_ENUMERATORS), dice.below(9) - 4) for _ in range(1 + dice.below(4))
            ]
            size = (4, 4, 8, 1)[dice.below(4)]
            ids.append(builder.enum(dice.pick(_ENUMS), values, size, signed=dice.chance(0.5)))
        elif what == 16:
            values = [
                (dice.pick(_ENUMERATORS), dice.below(1 << 40) - (1 << 39))
                for _ in range(1 + dice.below(4))
            ]
            size = (8, 8, 4)[dice.below(3)]
            ids.append(builder.enum64(dice.pick(_ENUMS), values, size, signed=dice.chance(0.5)))
        elif what == 17:
            ids.append(builder.forward(dice.pick(_STRUCTS), union=dice.chance(0.3)))
        elif what < 21:
            ids.append(builder.reference(Kind.TYPEDEF, some(), dice.pick(_TYPEDEFS)))
        elif what == 21:
            kind = (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT)[dice.below(3)]
            ids.append(builder.reference(kind, some()))
        elif what == 22:
            parameters = [("", some()) for _ in range(dice.below(4))]
            ids.append(builder.prototype(some() if dice.chance(0.8) else 0, parameters))
        elif what == 23:
            ids.append(builder.float("double", (8, 4)[dice.below(2)]))
        elif what == 24:
            ids.append(builder.reference(Kind.TYPE_TAG, some(), "tag"))
        else:
            odd = dice.below(3)
            size, offset, bits = (4, 3, 5) if odd == 0 else ((2, 0, 0), (1, 0, 0))[odd - 1]
            ids.append(
                builder.integer(
                    dice.pick(("short", "int", "bool")), size, dice.below(3), offset, bits
                )
            )
    return ids


def _add_composite(
    builder: BtfBuilder, dice: _Dice, first: int, member_type: Callable[[], int]
) -> int:
    kflag = dice.chance(0.3)
    members: list[tuple[str, int, int, int]] = []
    offset = 0
    for _ in range(dice.below(6)):
        bits = 1 + dice.below(40) if kflag and dice.chance(0.5) else 0
        # libbpf 1.x divides by the size of a bitfield's type: it has to have one.
        type_id = first + dice.below(5) if bits else member_type()
        members.append((dice.pick(_MEMBERS), type_id, offset, bits))
        offset += bits or 8 * (1, 2, 4, 8, 8, 3)[dice.below(6)]
        if not bits and dice.chance(0.8):
            offset = (offset + 31) // 32 * 32
    if dice.chance(0.02):
        offset += 300_000
        members.append((dice.pick(_MEMBERS), member_type(), offset, 0))
    return builder.composite(
        "" if dice.chance(0.3) else dice.pick(_STRUCTS),
        offset // 8 + 8,
        list(members),
        union=dice.chance(0.25),
        kflag=kflag,
    )


@dataclass
class Case:
    """A target and some objects, as bytes."""

    target: bytes
    objects: list[bytes]


def make(seed: int, objects: int = 8, byte_order: ByteOrder = "little") -> Case:
    """A reproducible case."""
    rng = random.Random(seed)
    count = rng.randrange(4, 40)
    base = rng.randrange(1 << 30)
    target = BtfBuilder(byte_order=byte_order)
    drift = rng.choice((0.0, 0.02, 0.05, 0.2))
    for copy in range(rng.choice((1, 1, 2, 3))):
        _add_types(target, _Dice(base, rng.randrange(1 << 30), drift if copy else drift / 2), count)
    return Case(
        target=target.build(),
        objects=[_object(rng, base, count, byte_order) for _ in range(objects)],
    )


def _object(rng: random.Random, base: int, count: int, byte_order: ByteOrder) -> bytes:
    local = BtfBuilder(byte_order=byte_order)
    ids = _add_types(
        local, _Dice(base, rng.randrange(1 << 30), rng.choice((0.0, 0.0, 0.02))), count
    )
    built = ObjectBuilder(btf=local)
    btf = Btf.parse(local.build())
    insns: list[Insn] = []
    for _ in range(rng.randrange(1, 10)):
        type_id, access, kind = _relocation(rng, btf, ids)
        built.relocate("socket", len(insns), type_id, access, kind)
        insns += _instruction(rng, btf, type_id, access, kind)
    insns += [Insn(0xB7, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0)]
    built.program("prog", "socket", insns)
    return built.build()


def _relocation(rng: random.Random, btf: Btf, ids: list[int]) -> tuple[int, str, int]:
    """A type, an access string and a kind that mostly make sense together."""
    while True:
        type_id, kind = rng.choice(ids), rng.choice(_KINDS)
        access = _access(rng, btf, type_id, kind)
        if rng.random() < 0.01:
            break
        if not _fits(btf, type_id, kind):
            continue
        record = RelocationRecord(
            section="", index=0, insn_off=0, type_id=type_id, access=access, kind=kind
        )
        try:
            compute(parse(btf, record), kind, LATEST)
        except Refusal:
            if rng.random() < 0.95:
                continue
        break
    return type_id, access, kind


def _fits(btf: Btf, type_id: int, kind: int) -> bool:
    if not btf.name_bytes(type_id):
        return False
    reached = btf.kind(btf.skip(type_id))
    if kind in FIELD_KINDS:
        return reached in (Kind.STRUCT, Kind.UNION)
    if kind in TYPE_KINDS:
        return True
    return reached in (Kind.ENUM, Kind.ENUM64)


def _access(rng: random.Random, btf: Btf, type_id: int, kind: int) -> str:
    if kind in TYPE_KINDS:
        return "0" if rng.random() < 0.98 else "1"
    if kind not in FIELD_KINDS:
        return str(rng.randrange(4))
    steps = [rng.choice((0, 0, 0, 0, 0, 1, 3))]
    current = btf.skip(type_id)
    while rng.random() < 0.9 and len(steps) < 12:
        reached = btf.kind(current)
        if reached in (Kind.STRUCT, Kind.UNION) and btf.vlen(current):
            number = rng.randrange(btf.vlen(current) + (rng.random() < 0.01))
            steps.append(number)
            if number >= btf.vlen(current):
                break
            current = btf.skip(btf.members(current)[number].type_id)
        elif reached == Kind.ARRAY:
            element, length = btf.array_of(current)
            steps.append(rng.randrange(length + 1))
            current = btf.skip(element)
        else:
            break
    return ":".join(map(str, steps))


def _instruction(
    rng: random.Random, btf: Btf, type_id: int, access: str, kind: int, rules: Rules = LATEST
) -> list[Insn]:
    record = RelocationRecord(
        section="", index=0, insn_off=0, type_id=type_id, access=access, kind=kind
    )
    try:
        value = compute(parse(btf, record), kind, rules)
    except Refusal:
        value = Value(number=0)
    held = value.number if rng.random() < 0.98 else value.number + 1
    form = rng.randrange(4)
    if kind == RelocationKind.FIELD_BYTE_OFFSET and form < 2 and -0x8000 <= held < 0x8000:
        size = value.width if value.width in SIZE_BITS and rng.random() < 0.95 else 4
        return [Insn(rng.choice((LDX, ST, STX)) | _MEM | SIZE_BITS[size], 1, 2, held, 0)]
    if form == 2 or kind == RelocationKind.ENUMVAL_VALUE:
        return [
            Insn(LDIMM64, 3, 0, 0, signed32(held)),
            Insn(0, 0, 0, 0, signed32(held >> 32)),
        ]
    if rng.random() < 0.01:
        return [Insn(0x15, 1, 0, 0, 0)]
    return [Insn(rng.choice((ALU64 | 0xB0, ALU64, 0xB4)), 4, 0, 0, signed32(held))]
