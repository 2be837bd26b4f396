# SPDX-License-Identifier: Apache-2.0
"""The reader: all kinds, both byte orders, both headers, split blobs, and errors that say where."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.btf import BpfObject, Btf, BtfError, BtfExt, Kind
from harness.btf.index import essential_name
from tests.btf.builder import BtfBuilder, ByteOrder, ObjectBuilder
from tests.btf.conftest import Compile


def _everything(byte_order: ByteOrder = "little", header_len: int = 24) -> BtfBuilder:
    one = BtfBuilder(byte_order=byte_order, header_len=header_len)
    number = one.integer("int", 4, 1)
    one.integer("long unsigned int", 8, 0)
    pointer = one.pointer(4)
    one.composite("s", 24, [("a", number, 0), ("", 5, 64), ("p", 3, 128)])
    one.composite("", 8, [("x", number, 0), ("y", number, 3, 5)], union=True)
    one.enum("e", [("A", -1), ("B", 7)], signed=True)
    one.enum64("big", [("C", 1 << 40), ("D", (1 << 64) - 1)])
    one.forward("f", union=True)
    typedef = one.reference(Kind.TYPEDEF, 4, "s_t")
    one.reference(Kind.CONST, typedef)
    one.reference(Kind.VOLATILE, 10)
    one.reference(Kind.RESTRICT, pointer)
    one.reference(Kind.TYPE_TAG, 4, "user")
    one.array(number, 5)
    prototype = one.prototype(number, [("s", pointer), ("", 0)])
    function = one.function("func", prototype)
    variable = one.variable("var", 14)
    one.section(".data", 20, [(variable, 0, 20)])
    one.float("double", 8)
    one.tag("kfunc", function)
    return one


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("header_len", [24, 32])
def test_every_kind_reads_back(byte_order: ByteOrder, header_len: int) -> None:
    """The 20 kinds in both byte orders, with the header of 2018 and of 2026."""
    btf = Btf.parse(_everything(byte_order, header_len).build())

    assert len(btf) == 20
    assert {one.kind for one in btf} == set(Kind) - {Kind.VOID}
    assert [m.name for m in btf.members(4)] == ["a", "", "p"]
    assert [m.bit_offset for m in btf.members(4)] == [0, 64, 128]
    assert [(m.bit_offset, m.bitfield_bits) for m in btf.members(5)] == [(0, 0), (3, 5)]
    assert [(e.name, e.value) for e in btf.enumerators(6)] == [("A", -1), ("B", 7)]
    assert [e.value for e in btf.enumerators(7)] == [1 << 40, (1 << 64) - 1]
    assert btf.skip(11) == 4
    assert btf.array_of(14) == (1, 5)
    assert btf.size(14) == 20
    assert btf.size(17) == 20
    assert [p.type_id for p in btf.parameters(15)] == [3, 0]
    assert btf.variables(18)[0].size == 20
    assert btf.kflag(8)
    assert btf.find("s", Kind.STRUCT) == 4
    assert btf.find("s", Kind.UNION) == 0
    assert btf.pointer_size == 8
    assert btf.linkage(17) == 1


def test_pointers_are_as_wide_as_long() -> None:
    """A 32-bit kernel's BTF says so only through its `long`."""
    builder = BtfBuilder()
    builder.integer("long int", 4)

    assert Btf.parse(builder.build()).pointer_size == 4


def test_split_btf_continues_its_base() -> None:
    """A module's ids and string offsets start where vmlinux's end."""
    base = _everything()
    parent = Btf.parse(base.build())
    split = BtfBuilder(first_id=parent.type_count, string_base=len(base.strings))
    own = split.composite("module_struct", 8, [("base_member", 4, 0)])

    btf = Btf.parse(split.build(), base=parent)

    assert btf.first_own_id == parent.type_count
    assert btf.find("module_struct") == own
    assert btf.name(btf.members(own)[0].type_id) == "s"
    assert btf.find("s", Kind.STRUCT) == 4


def test_a_kind_of_the_future_is_skipped_by_its_layout() -> None:
    """Headers of 32 bytes carry the trailer length of every kind."""
    builder = BtfBuilder(header_len=32)
    builder.integer()
    builder.record(25, "novel", 2, 0, 1, 2, 3, 4, 5)  # one word, and two per element
    builder.integer("long", 8)
    plain = bytearray(builder.build())
    types_end = 32 + len(b"".join(builder.types))
    layout = bytearray(26 * 4)
    layout[25 * 4 : 25 * 4 + 2] = bytes((4, 8))
    struct.pack_into("<I", plain, 16, struct.unpack_from("<I", plain, 16)[0] + len(layout))
    struct.pack_into("<II", plain, 24, types_end - 32, len(layout))
    blob = bytes(plain[:types_end]) + bytes(layout) + bytes(plain[types_end:])

    assert Btf.parse(blob).name(3) == "long"


@pytest.mark.parametrize(
    ("change", "field", "offset"),
    [
        pytest.param(lambda b: b[:10], "magic", 0, id="short"),
        pytest.param(lambda b: b"\0" * len(b), "magic", 0, id="magic"),
        pytest.param(lambda b: b[:4] + b"\x08\0\0\0" + b[8:], "hdr_len", 4, id="short-header"),
        pytest.param(lambda b: b[:4] + b"\xff" * 4 + b[8:], "hdr_len", 4, id="long-header"),
        pytest.param(lambda b: b[:8] + b"\x01\0\0\0" + b[12:], "type_off", 8, id="unaligned"),
        pytest.param(lambda b: b[:12] + b"\xf0\xff\xff\xff" + b[16:], "str_off", 16, id="types"),
        pytest.param(lambda b: b[:20] + b"\xff" * 4 + b[24:], "str_len", 20, id="strings"),
        pytest.param(lambda b: b[:-1] + b"x", "strings", None, id="unterminated"),
        pytest.param(lambda b: b[:31] + b"\x63" + b[32:], "info", 28, id="kind"),
        pytest.param(lambda b: b[:30] + b"\xff" + b[31:], "vlen", None, id="vlen"),
    ],
)
def test_errors_name_offset_and_field(change: object, field: str, offset: int | None) -> None:
    """One error, never a traceback."""
    assert callable(change)
    builder = BtfBuilder()
    builder.composite("s", 4, [("a", 1, 0)])

    with pytest.raises(BtfError) as caught:
        Btf.parse(change(builder.build()), source="x.btf")

    assert caught.value.field == field
    assert caught.value.message.startswith("x.btf: ")
    assert caught.value.offset is not None
    if offset is not None:
        assert caught.value.offset == offset


def test_cycles_and_bad_ids_are_errors() -> None:
    """libbpf would loop for ever on a typedef of itself."""
    builder = BtfBuilder()
    builder.reference(Kind.TYPEDEF, 1, "loop")
    builder.pointer(99)
    builder.array(3, 2)
    btf = Btf.parse(builder.build())

    with pytest.raises(BtfError):
        btf.skip(1)
    with pytest.raises(BtfError):
        btf.kind(99)
    with pytest.raises(BtfError):
        btf.members(2)
    assert btf.try_size(3) == -7


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("a___b___c", "a___b"),
        ("a____b", "a____b"),
        ("___b", "___b"),
        ("a___", "a___"),
        ("a___b_", "a"),
        ("x____y___z", "x____y"),
        ("a___b____c", "a"),
        ("", ""),
    ],
)
def test_flavours_are_cut_as_libbpf_cuts_them(name: str, essential: str) -> None:
    """The last `X___Y` with neither X nor Y an underscore."""
    assert essential_name(name.encode()) == essential.encode()


def test_an_object_gives_lines_functions_and_relocations(compile_bpf: Compile) -> None:
    """What a compiler wrote, in file order."""
    obj = BpfObject.from_file(compile_bpf("kinds.bpf.c"))

    assert {one.section for one in obj.ext.functions} >= {"tp_btf/fields", "tp_btf/enums"}
    first = obj.ext.relocations[0]
    assert (first.section, first.access, first.kind) == ("tp_btf/fields", "0:0", 0)
    lines = [obj.line_at(one.section, one.insn_off // 8) for one in obj.ext.relocations]
    assert all(line is not None and line.file.endswith("kinds.bpf.c") for line in lines)
    assert any(line is not None and "field_offset(o->name[5])" in line.text for line in lines)
    optional = next(one for one in obj.programs if one.name == "optional")
    assert (optional.autoload, optional.section_name) == (False, "tp_btf/optional")


def test_a_big_endian_object_reads_and_resolves(compile_bpf: Compile) -> None:
    """Registers swap nibbles, words swap bytes."""
    little = BpfObject.from_file(compile_bpf("kinds.bpf.c"))
    big = BpfObject.from_file(compile_bpf("kinds.bpf.c", "-target", "bpfeb"))

    assert big.byte_order == "big"
    assert [one.insns for one in big.programs][2:3] == [one.insns for one in little.programs][2:3]
    assert [(one.access, one.kind) for one in big.ext.relocations] == [
        (one.access, one.kind) for one in little.ext.relocations
    ]


def test_ext_errors_name_offset_and_field() -> None:
    """Records are stepped by their own size, blocks are bounded."""
    built = ObjectBuilder(btf=BtfBuilder())
    number = built.btf.integer()
    built.relocate("socket", 0, number, "0", 8)
    data = bytearray(built.ext())
    btf = Btf.parse(built.btf.build())

    assert BtfExt.parse(bytes(data), btf).relocations[0].kind == 8
    data[40] = 99  # num_info
    with pytest.raises(BtfError, match="cut off") as caught:
        BtfExt.parse(bytes(data), btf)

    assert caught.value.field == "num_info"


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    """Usual mistakes: another machine's file, a missing one, text."""
    text = tmp_path / "a.o"
    text.write_text("hello")

    with pytest.raises(BtfError, match="not a readable ELF"):
        BpfObject.from_file(text)
    with pytest.raises(BtfError, match="cannot be read"):
        BpfObject.from_file(tmp_path / "absent.o")
    with pytest.raises(BtfError, match="magic"):
        Btf.from_file(text)
