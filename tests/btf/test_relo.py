# SPDX-License-Identifier: Apache-2.0
"""Resolution rules one by one, without a compiler or libbpf; both byte orders."""

from __future__ import annotations

import pytest

from harness.btf import BpfObject, Btf, BtfError, Outcome, Plan, Rules, Status
from harness.btf.cilium import disagreements
from harness.btf.crosscheck import compare_log, parse_log
from harness.btf.insn import ALU64, LDIMM64, LDX, POISON, Insn
from harness.btf.kinds import RelocationKind as R
from tests.btf.builder import BtfBuilder, ByteOrder, ObjectBuilder

_MOV = ALU64 | 0xB0
_LOAD_W = LDX | 0x60


class _Pair:
    """An object and a target under construction."""

    def __init__(self, byte_order: ByteOrder = "little") -> None:
        self.local = BtfBuilder(byte_order=byte_order)
        self.target = BtfBuilder(byte_order=byte_order)
        self.int = self.local.integer()
        self.target.integer()
        self._built = ObjectBuilder(btf=self.local)
        self._insns: list[Insn] = []

    def add(self, type_id: int, access: str, kind: int, *insns: Insn) -> None:
        self._built.relocate("socket", len(self._insns), type_id, access, kind)
        self._insns += insns or (Insn(_MOV, 1, 0, 0, 1),)

    def plan(self, rules: Rules | None = None) -> Plan:
        self._built.program("prog", "socket", [*self._insns, Insn(0x95, 0, 0, 0, 0)])
        obj = BpfObject.parse(self._built.build())
        return Plan(obj, rules=rules or Rules())

    def outcome(self, rules: Rules | None = None) -> Outcome:
        return self.plan(rules).resolve(Btf.parse(self.target.build()))


def test_results_depend_on_the_order_of_relocations() -> None:
    """A relocation that fits one of two same-named structs leaves only that one to the next."""

    def exists(first: str) -> list[int]:
        pair = _Pair()
        console = pair.local.composite(
            "console", 8, [("index", pair.int, 0), ("hvc", pair.int, 32)]
        )
        pair.target.composite("console", 4, [("index", 1, 0)])
        pair.target.composite("console", 4, [("hvc", 1, 0)])
        for access in (first, "0:1", "0:0"):
            pair.add(console, access, R.FIELD_EXISTS)
        return [one.value for one in pair.outcome().resolutions]

    assert exists("0:0") == [1, 0, 1]
    assert exists("0:1") == [1, 1, 0]


def test_candidates_that_disagree_are_an_error_and_those_that_agree_are_not() -> None:
    """Duplicates are common where BTF was not deduplicated."""
    pair = _Pair()
    same = pair.local.composite("same", 8, [("x", pair.int, 32)])
    other = pair.local.composite("other", 8, [("x", pair.int, 32)])
    for offset in (64, 64):
        pair.target.composite("same", 16, [("x", 1, offset)])
    for offset in (0, 64):
        pair.target.composite("other___v2", 16, [("x", 1, offset)])
    for type_id in (same, other):
        pair.add(type_id, "0:0", R.FIELD_BYTE_OFFSET, Insn(_MOV, 1, 0, 0, 4))

    good, bad = pair.outcome().resolutions

    assert (good.status, good.value, len(good.targets)) == (Status.RESOLVED, 8, 2)
    assert bad.status is Status.ERROR
    assert "ambiguity" in bad.reason


@pytest.mark.parametrize(("shift", "order"), [(64 - 3 - 5, "little"), (32 + 3, "big")])
def test_bitfields_shift_by_byte_order(shift: int, order: ByteOrder) -> None:
    """A big-endian kernel counts bits from the other end."""
    pair = _Pair(order)
    bits = pair.local.composite("bits", 4, [("a", pair.int, 0, 5)])
    pair.target.composite("bits", 4, [("pad", 1, 0, 3), ("a", 1, 3, 5)])
    pair.add(bits, "0:0", R.FIELD_LSHIFT_U64, Insn(_MOV, 1, 0, 0, 59))

    assert pair.outcome().resolutions[0].value == shift


def test_a_load_narrows_for_unsigned_and_is_poisoned_for_signed() -> None:
    """Zero extension keeps an unsigned value; nothing keeps a signed one."""
    pair = _Pair()
    wide = pair.local.integer("u64", 8, 0)
    signed = pair.local.integer("s64", 8, 1)
    narrow = pair.target.integer("u32", 4, 0)
    one = pair.local.composite("one", 16, [("u", wide, 0), ("s", signed, 64)])
    pair.target.composite("one", 16, [("s", 1, 0), ("u", narrow, 64)])
    pair.add(one, "0:0", R.FIELD_BYTE_OFFSET, Insn(LDX | 0x78, 1, 2, 0, 0))
    pair.add(one, "0:1", R.FIELD_BYTE_OFFSET, Insn(LDX | 0x78, 1, 2, 8, 0))

    outcome = pair.outcome()

    assert [x.status for x in outcome.resolutions] == [Status.RESOLVED, Status.POISON]
    assert outcome.resolutions[0].width == 4
    code = next(iter(outcome.insns.values()))
    assert code[0] == Insn(_LOAD_W, 1, 2, 8, 0)
    assert code[1] == POISON


def test_array_width_follows_the_release_of_libbpf() -> None:
    """Since v1.6 a load from an array field has the width of an element."""
    pair = _Pair()
    local = pair.local.array(pair.int, 2)
    one = pair.local.composite("one", 8, [("a", local, 0)])
    longer = pair.target.array(1, 4)
    pair.target.composite("one", 16, [("a", longer, 0)])
    pair.add(one, "0:0", R.FIELD_BYTE_OFFSET, Insn(_LOAD_W, 1, 2, 0, 0))
    plan = pair.plan()
    target = Btf.parse(pair.target.build())
    old = Plan(plan.obj, rules=Rules.of("1.1.2"))

    assert plan.resolve(target).resolutions[0].status is Status.RESOLVED
    assert old.resolve(target).resolutions[0].status is Status.POISON


def test_a_64_bit_load_is_poisoned_whole() -> None:
    """Half a load would be an unknown opcode."""
    pair = _Pair()
    enum = pair.local.enum("gone", [("A", 3)])
    pair.add(enum, "0", R.ENUMVAL_VALUE, Insn(LDIMM64, 1, 0, 0, 3), Insn(0, 0, 0, 0, 0))

    outcome = pair.outcome()

    assert outcome.resolutions[0].status is Status.POISON
    assert next(iter(outcome.insns.values()))[:2] == (POISON, POISON)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (R.FIELD_BYTE_OFFSET, Status.POISON),
        (R.FIELD_EXISTS, Status.ABSENT),
        (R.TYPE_ID_TARGET, Status.ABSENT),
        (R.TYPE_EXISTS, Status.ABSENT),
        (R.TYPE_SIZE, Status.ABSENT),
        (R.TYPE_MATCHES, Status.ABSENT),
        (R.TYPE_ID_LOCAL, Status.RESOLVED),
    ],
)
def test_a_missing_type_is_poison_or_zero_by_kind(kind: R, status: Status) -> None:
    """Sizes and ids of types that are not there are 0, offsets are poison."""
    pair = _Pair()
    gone = pair.local.composite("gone", 8, [("x", pair.int, 0)])
    held = {R.FIELD_BYTE_OFFSET: 0, R.TYPE_SIZE: 8}.get(kind, 1)
    access = "0:0" if kind in (R.FIELD_BYTE_OFFSET, R.FIELD_EXISTS) else "0"
    pair.add(gone, access, kind, Insn(_MOV, 1, 0, 0, held))

    assert pair.outcome().resolutions[0].status is status


def test_an_instruction_that_holds_something_else_is_an_error() -> None:
    """libbpf takes it for a broken compiler or linker, and so for the end."""
    pair = _Pair()
    one = pair.local.composite("one", 8, [("x", pair.int, 32)])
    pair.target.composite("one", 8, [("x", 1, 32)])
    pair.add(one, "0:0", R.FIELD_BYTE_OFFSET, Insn(_MOV, 1, 0, 0, 5))

    outcome = pair.outcome()

    assert outcome.first_error is not None
    assert "holds 5, not 4" in outcome.first_error.reason


def test_modules_are_asked_only_for_what_vmlinux_lacks() -> None:
    """As libbpf does without a custom BTF."""
    pair = _Pair()
    here = pair.local.composite("here", 4, [("x", pair.int, 0)])
    there = pair.local.composite("there", 4, [("x", pair.int, 0)])
    pair.target.composite("here", 8, [("x", 1, 32)])
    for type_id in (here, there):
        pair.add(type_id, "0:0", R.FIELD_BYTE_OFFSET, Insn(_MOV, 1, 0, 0, 0))
    vmlinux = Btf.parse(pair.target.build())
    split = BtfBuilder(first_id=vmlinux.type_count, string_base=len(pair.target.strings))
    split.composite("here", 16, [("x", 1, 96)])
    split.composite("there", 16, [("x", 1, 64)])
    module = Btf.parse(split.build(), base=vmlinux)

    found = pair.plan().resolve(vmlinux, [module]).resolutions

    assert [one.value for one in found] == [4, 8]


def test_byte_orders_must_agree() -> None:
    """An object for one cannot be resolved on the other."""
    pair = _Pair()
    pair.add(pair.int, "0", R.TYPE_EXISTS)
    other = BtfBuilder(byte_order="big")
    other.integer()

    with pytest.raises(BtfError, match="big-endian"):
        pair.plan().resolve(Btf.parse(other.build()))


def test_cilium_poisons_the_size_of_a_missing_type() -> None:
    """A difference that matters to Go programs."""
    pair = _Pair()
    gone = pair.local.composite("gone", 8, [("x", pair.int, 0)])
    here = pair.local.composite("here", 8, [("x", pair.int, 0)])
    pair.target.composite("here", 8, [("x", 1, 0)])
    pair.add(gone, "0", R.TYPE_SIZE, Insn(_MOV, 1, 0, 0, 8))
    pair.add(here, "0", R.TYPE_SIZE, Insn(_MOV, 1, 0, 0, 8))
    plan = pair.plan()
    target = Btf.parse(pair.target.build())

    found = disagreements(plan, plan.resolve(target), target)

    assert {number: one.text for number, one in found.items()} == {0: "poison"}


def test_cilium_does_not_prune() -> None:
    """It chooses per program what fits most relocations, so order means nothing."""
    pair = _Pair()
    console = pair.local.composite(
        "console", 12, [("index", pair.int, 0), ("hvc", pair.int, 32), ("x", pair.int, 64)]
    )
    pair.target.composite("console", 4, [("index", 1, 0)])
    pair.target.composite("console", 8, [("hvc", 1, 0), ("x", 1, 32)])
    for access in ("0:0", "0:1", "0:2"):
        pair.add(console, access, R.FIELD_EXISTS)
    plan = pair.plan()
    target = Btf.parse(pair.target.build())

    found = disagreements(plan, plan.resolve(target), target)

    assert {number: one.text for number, one in found.items()} == {0: "= 0", 1: "= 1", 2: "= 1"}


_LOG = """\
libbpf: CO-RE relocating [3] struct one: found target candidate [2] struct one in [vmlinux]
libbpf: prog 'prog': relo #0: <byte_off> [2] struct one.x (0:0 @ offset 4)
libbpf: prog 'prog': relo #0: matching candidate #0 <byte_off> [2] struct one.x (0:0 @ offset 8)
libbpf: prog 'prog': relo #0: patched insn #0 (ALU/ALU64) imm 4 -> 8
"""


def test_a_log_that_agrees_has_no_differences_and_one_that_does_not_has() -> None:
    """What the guest's libbpf said is held against the prediction."""
    pair = _Pair()
    one = pair.local.composite("one", 8, [("x", pair.int, 32)])
    pair.target.composite("one", 12, [("x", 1, 64)])
    pair.add(one, "0:0", R.FIELD_BYTE_OFFSET, Insn(_MOV, 1, 0, 0, 4))
    plan = pair.plan()
    outcome = plan.resolve(Btf.parse(pair.target.build()))

    assert [row.value for row in parse_log(_LOG)] == [8]
    assert compare_log(plan, outcome, _LOG) == ()
    (changed,) = compare_log(plan, outcome, _LOG.replace("-> 8", "-> 16"))
    assert (changed.what, changed.predicted, changed.actual) == ("value", "8", "16")
    (gone,) = compare_log(plan, outcome, "")
    assert gone.what == "missing"
