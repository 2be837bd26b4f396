# SPDX-License-Identifier: Apache-2.0
"""BTF and objects made to be expensive: an answer or one error, in seconds and megabytes.

Each is a few hundred kilobytes that a straightforward reader would take hours or gigabytes for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from harness import bpfobject
from harness.btf import BpfObject, Btf, Kind, Plan, RelocationKind
from harness.btf.access import audit
from harness.btf.blob import Header
from harness.btf.cilium import disagreements
from harness.btf.data import type_text
from harness.btf.insn import CALL, EXIT, Insn
from harness.btf.kernel import KernelView
from harness.btf.verdict import Judge
from tests.btf.builder import BtfBuilder, ObjectBuilder
from tests.hostile.bounded import answer

_MOV_K, _MOV_X, _ADD_K = 0xB7, 0xBF, 0x07
_RETURN = [Insn(_MOV_K, 0, 0, 0, 0), Insn(EXIT, 0, 0, 0, 0)]


def everything(data: bytes, target: bytes) -> None:
    """All that is ever asked of an object."""
    obj = BpfObject.parse(data)
    facts = bpfobject.facts(obj)
    bpfobject.to_json(facts)
    bpfobject.render_text(facts)
    plan = Plan(obj)
    btf = Btf.parse(target)
    outcome = plan.resolve(btf)
    Judge(plan).judge(KernelView(name="k", btf=btf), outcome)
    disagreements(plan, outcome, btf)
    audit(obj)


def _object(
    types: Callable[[BtfBuilder], list[tuple[int, str, int]]], *, count: int = 1
) -> tuple[bytes, bytes]:
    """An object whose relocations (type, access, kind) are those; its types are the kernel's too."""
    builder = BtfBuilder()
    builder.integer()
    relocations = types(builder)
    made = ObjectBuilder(btf=builder)
    insns = [Insn(_MOV_K, 1, 0, 0, 0) for _ in range(count * len(relocations))]
    made.program("p", "kprobe/x", [*insns, *_RETURN])
    for number in range(len(insns)):
        made.relocate("kprobe/x", number, *relocations[number % len(relocations)])
    data = made.build()
    return data, builder.build()


def _prototypes_that_double(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    proto = builder.prototype(1, [("a", 1)])
    for _ in range(40):
        pointer = builder.pointer(proto)
        proto = builder.prototype(pointer, [("a", pointer), ("b", pointer)])
    function = builder.pointer(proto)
    entry = builder.reference(Kind.TYPEDEF, function, "f")
    builder.section(".ksyms", 0, [])
    variable = builder.variable("v", entry)
    builder.section(".maps", 8, [(variable, 0, 8)])
    return [(entry, "0", RelocationKind.TYPE_EXISTS), (entry, "0", RelocationKind.TYPE_MATCHES)]


def _anonymous_members_that_double(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    inner = builder.composite("", 4, [("x", 1, 0)])
    for _ in range(50):
        inner = builder.composite("", 4, [("", inner, 0), ("", inner, 0)])
    # The kernel's is found under the same name and has no such member.
    struct_id = builder.composite("s", 8, [("", inner, 0), ("a", 1, 32)])
    builder.composite("s___other", 8, [("", inner, 0)])
    return [(struct_id, "0:1", RelocationKind.FIELD_BYTE_OFFSET)]


def _members_that_all_look_alike(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    inner = builder.composite("i", 4, [("x", 1, 0)] * 300)
    for level in range(6):
        inner = builder.composite(f"l{level}", 4, [("x", inner, 0)] * 300)
    builder.composite("l5", 4, [("x", inner, 0)] * 300)
    return [(inner, "0", RelocationKind.TYPE_MATCHES)]


def _typedefs_in_a_row(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    last = builder.composite("s", 4, [("x", 1, 0)])
    for _ in range(20_000):
        last = builder.reference(Kind.TYPEDEF, last, "t")
    return [(last, "0:0", RelocationKind.FIELD_BYTE_OFFSET)]


def _a_typedef_of_itself(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    own = len(builder.types) + 1
    builder.reference(Kind.TYPEDEF, own, "t")
    return [(own, "0:0", RelocationKind.FIELD_BYTE_OFFSET)]


def _an_array_of_itself(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    own = len(builder.types) + 1
    builder.array(own, 1)
    struct_id = builder.composite("s", 4, [("x", own, 0)])
    variable = builder.variable("CONFIG_X", own)
    builder.section(".kconfig", 4, [(variable, 0, 4)])
    return [
        (struct_id, "0:0", RelocationKind.FIELD_BYTE_OFFSET),
        (struct_id, "0:0:0:0:0", RelocationKind.FIELD_BYTE_OFFSET),
        (struct_id, "0:0", RelocationKind.FIELD_BYTE_SIZE),
    ]


def _many_of_a_name(builder: BtfBuilder) -> list[tuple[int, str, int]]:
    ids = [builder.composite("s", 4, [(f"m{number}", 1, 0)]) for number in range(1500)]
    return [(one, "0:0", RelocationKind.FIELD_EXISTS) for one in ids[:500]]


OBJECTS = {
    "prototypes-that-double": _prototypes_that_double,
    "anonymous-members-that-double": _anonymous_members_that_double,
    "members-that-all-look-alike": _members_that_all_look_alike,
    "typedefs-in-a-row": _typedefs_in_a_row,
    "a-typedef-of-itself": _a_typedef_of_itself,
    "an-array-of-itself": _an_array_of_itself,
    "many-types-of-a-name": _many_of_a_name,
}


@pytest.mark.parametrize("types", OBJECTS.values(), ids=OBJECTS)
def test_types_that_multiply_are_given_up(
    types: Callable[[BtfBuilder], list[tuple[int, str, int]]],
) -> None:
    """libbpf, and a reader that follows it, would search for ages."""
    data, target = _object(types)

    answer(lambda: everything(data, target), memory_mib=256, seconds=60)


def test_a_long_spelling_is_cut() -> None:
    """`inspect` shows the type of every variable."""
    builder = BtfBuilder()
    builder.integer()
    _prototypes_that_double(builder)
    btf = Btf.parse(builder.build())

    assert len(type_text(btf, btf.type_count - 6)) < 10_000


def _calls_with_other_arguments() -> bytes:
    """Eight functions; each calls the next with another constant, 200 times."""
    made = ObjectBuilder(btf=BtfBuilder())
    made.btf.integer()
    length = 200 * 2 + 2
    text: list[Insn] = []
    for level in range(8):
        for number in range(200):
            ahead = length - (2 * number + 2)
            call = Insn(CALL, 0, 1, 0, ahead) if level < 7 else Insn(_MOV_K, 3, 0, 0, number)
            text += [Insn(_MOV_K, 1, 0, 0, 1000 * level + number), call]
        text += _RETURN
    for level in range(8):
        made.program(f"f{level}", ".text", text[level * length : (level + 1) * length])
    made.program("p", "kprobe/x", [Insn(CALL, 0, 0, 0, 12_345), *_RETURN])
    return made.build()


def _stores_everywhere() -> bytes:
    """60,000 stores at as many places that are not on the stack."""
    made = ObjectBuilder(btf=BtfBuilder())
    made.btf.integer()
    stores = [Insn(0x7A, 10, 0, number - 32768, number) for number in range(60_000)]
    made.program("p", "kprobe/x", [*stores, *_RETURN])
    return made.build()


CODE = {"calls-with-other-arguments": _calls_with_other_arguments,
        "stores-everywhere": _stores_everywhere}  # fmt: skip


@pytest.mark.parametrize("made", CODE.values(), ids=CODE)
def test_code_that_multiplies_is_given_up(made: Callable[[], bytes]) -> None:
    """The analysis of reachability follows calls with what is known of their arguments."""
    data = made()
    obj = BpfObject.parse(data)
    target = Btf.parse(obj.elf.sections[obj.section_index(".BTF")].data)

    def analyse() -> None:
        plan = Plan(obj)
        outcome = plan.resolve(target)
        Judge(plan).judge(KernelView(name="k", btf=target), outcome)
        audit(obj)

    answer(analyse, memory_mib=512, seconds=60)


def _strings_within_a_string(records: int) -> bytes:
    """Types whose names are the ends of one name of 400 kB."""
    builder = BtfBuilder()
    builder.integer()
    builder.string("x" * 400_000)
    at = builder.string("x" * 400_000)
    for number in range(records):
        words = (at + number, Kind.STRUCT << 24, 4)
        builder.types.append(struct.pack("<3I", *words))
    return builder.build()


def test_names_within_a_name_are_refused() -> None:
    """100,000 names of 350 kB on average are 35 GB."""
    data = _strings_within_a_string(100_000)

    said = answer(lambda: Btf.parse(data).names, memory_mib=128)

    assert "names overlap" in said


def _lines_within_a_line() -> bytes:
    builder = BtfBuilder()
    builder.integer()
    at = builder.string("y" * 60_000)
    made = ObjectBuilder(btf=builder)
    made.program("p", "kprobe/x", _RETURN)
    section = builder.string("kprobe/x")
    records = b"".join(struct.pack("<4I", 0, at, at + n, 0) for n in range(50_000))
    body = struct.pack("<I2I", 16, section, 50_000) + records
    head = struct.pack("<HBBIIIIIII", 0xEB9F, 1, 0, 32, 0, 0, 0, len(body), 0, 0)
    made.ext = lambda: head + body  # type: ignore[method-assign]
    return made.build()


def test_lines_within_a_line_are_refused() -> None:
    """50,000 lines of 30 kB on average are 1.5 GB, out of an object of 900 kB."""
    data = _lines_within_a_line()

    said = answer(lambda: BpfObject.parse(data), memory_mib=256)

    assert "strings that overlap" in said


def _sections(count: int) -> bytes:
    """An ELF file in which each of `count` sections is the whole file."""
    size = 64 + 64 * count
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 1, 247, 1, 0, 0, 64, 0, 64, 0, 0, 64, count, 0
    )  # fmt: skip
    one = struct.pack("<IIQQQQIIQQ", 0, 1, 0, 0, 0, size, 0, 0, 1, 0)
    return header + one * count


@pytest.mark.parametrize(
    ("count", "words"), [(10_000, "in a file of"), (60_000, "'60000' sections")]
)
def test_sections_that_are_all_the_whole_file_are_refused(count: int, words: str) -> None:
    """10,000 copies of 640 kB are 6 GB."""
    data = _sections(count)

    assert words in answer(lambda: BpfObject.parse(data), memory_mib=256)


def test_functions_that_are_all_the_whole_section_are_refused() -> None:
    """Each would be a copy of its instructions."""
    made = ObjectBuilder(btf=BtfBuilder())
    made.btf.integer()
    made.program("p", "kprobe/x", [Insn(_MOV_K, 0, 0, 0, 0)] * 20_000 + _RETURN)
    for number in range(5000):
        made.programs.append((f"f{number}", "kprobe/x", []))
    data = bytearray(made.build())
    obj = BpfObject
    elf_symbols = data.index(struct.pack("<QQ", 0, 20_002 * 8)) + 16
    size = struct.pack("<QQ", 0, 20_002 * 8)
    for number in range(5000):
        at = elf_symbols + 24 * number + 8
        data[at : at + 16] = size

    assert "overlap" in answer(lambda: obj.parse(bytes(data)), memory_mib=256)


def test_a_header_that_promises_more_than_there_is_is_refused() -> None:
    """The first thing that is believed."""
    data = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0xFFFFFFFC, 0xFFFFFFFC, 0xFFFFFFFF)

    assert "behind" in answer(lambda: Header.parse(data, "x"), memory_mib=64)
