# SPDX-License-Identifier: Apache-2.0
"""Reader of BTF type information: `.BTF` sections, `/sys/kernel/btf/*`, detached and split blobs.

A `Btf` keeps the type records as one array of 32-bit words and the offset of each record in
another; no Python object per type. `type()` and `members()` make objects for people; the resolver
reads the words. Types have ids from 1 in file order; id 0 is void.

A split BTF (a module's) is stored behind its base in the same arrays: its ids start at
`first_own_id`, its string offsets continue the base's, as the format has it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from harness.btf.blob import RECORD_WORDS, ByteOrder, Header, walk
from harness.btf.errors import BtfError
from harness.btf.index import FunctionIndex, NameIndex, essential_name
from harness.btf.kinds import (
    INT_SIGNED,
    IS_MODIFIER,
    KIND_MASK,
    KIND_SHIFT,
    LONG_NAMES,
    SIZE_FOLLOWS,
    SIZED,
    VLEN_MASK,
    Kind,
    as_signed,
    kind_name,
)
from harness.btf.types import (
    Enumerator,
    Member,
    MemberTable,
    Parameter,
    SectionVariable,
    Type,
)

_MAX_RESOLVE_DEPTH: Final = 32
_MAX_SKIPPED: Final = 1024  # typedefs and qualifiers in a row; the kernel's verifier takes 32
_MAX_STRING: Final = 64 << 10  # bytes; names have up to 511, source lines more
_U32_MAX: Final = 0xFFFFFFFF


class Btf:
    """A parsed BTF blob. Immutable once built; safe to share between threads."""

    __slots__ = (
        "_functions",
        "_names",
        "_pointer_size",
        "_strings",
        "_strings_end",
        "_strings_start",
        "_tables",
        "_tables_by_names",
        "byte_order",
        "first_own_id",
        "offsets",
        "source",
        "words",
    )

    words: array[int]  # the type section in host order, then three zero words: void
    offsets: array[int]  # of each type's record in `words`, by id
    byte_order: ByteOrder
    first_own_id: int  # 1, or the number of ids of the base in a split BTF
    source: str

    def __init__(
        self,
        *,
        words: array[int],
        offsets: array[int],
        strings: bytes,
        strings_start: int,
        strings_end: int,
        byte_order: ByteOrder,
        first_own_id: int,
        source: str,
    ) -> None:
        self.words = words
        self.offsets = offsets
        self._strings = strings
        self._strings_start = strings_start
        self._strings_end = strings_end
        self.byte_order = byte_order
        self.first_own_id = first_own_id
        self.source = source
        self._names: NameIndex | None = None
        self._functions: FunctionIndex | None = None
        self._pointer_size = 0
        self._tables: dict[int, MemberTable] = {}
        self._tables_by_names: dict[bytes, MemberTable] = {}

    @classmethod
    def parse(
        cls,
        data: bytes,
        *,
        base: Btf | None = None,
        source: str = "BTF",
        offsets: array[int] | None = None,
    ) -> Btf:
        """Read a raw BTF blob; `base` is vmlinux's for a module's split BTF.

        `offsets` is a stored result of an earlier walk over the same bytes (see `store`).
        """
        header = Header.parse(data, source)
        start = header.types_start
        own = array("I")
        own.frombytes(data[start : start + header.type_len])
        if header.byte_order != sys.byteorder:
            own.byteswap()
        strings, first, last = data, header.strings_start, header.strings_end
        first_own_id = 1
        if base is None:
            words = own
        else:
            if base.byte_order != header.byte_order:
                raise BtfError(
                    f"is {header.byte_order}-endian, its base '{base.source}' is not",
                    offset=0,
                    field="magic",
                    source=source,
                )
            # Stored behind the base: the format numbers ids and strings that way.
            words = base.words[:-RECORD_WORDS]
            strings = base.raw_strings() + data[first:last]
            first, last = 0, len(strings)
            first_own_id = base.type_count
        if offsets is None:
            own_offsets = walk(own, start, header.layout(data, source), source)
            if base is None:
                offsets = own_offsets
            else:
                shift = len(words)
                offsets = base.offsets[:]
                offsets.extend(array("I", [offset + shift for offset in own_offsets[1:]]))
        if base is not None:
            words.extend(own)
        offsets[0] = len(words)
        words.extend((0,) * RECORD_WORDS)
        return cls(
            words=words,
            offsets=offsets,
            strings=strings,
            strings_start=first,
            strings_end=last,
            byte_order=header.byte_order,
            first_own_id=first_own_id,
            source=source,
        )

    @classmethod
    def from_file(cls, path: Path | str, *, base: Btf | None = None) -> Btf:
        """Read a raw BTF file, or the `.BTF` section of an ELF file (vmlinux, module, object)."""
        from harness.btf.elf import read_btf_bytes

        return cls.parse(read_btf_bytes(Path(path)), base=base, source=str(path))

    # -- strings ------------------------------------------------------------------------------

    def raw_strings(self) -> bytes:
        """The string section, base's included."""
        return self._strings[self._strings_start : self._strings_end]

    @property
    def strings_len(self) -> int:
        """Bytes of the string section, base's included."""
        return self._strings_end - self._strings_start

    @property
    def string_view(self) -> tuple[bytes, int, int]:
        """(buffer, start, end) of the strings: for searches without copies."""
        return self._strings, self._strings_start, self._strings_end

    def string_bytes(self, offset: int) -> bytes:
        """The string at `offset` of the string section, without its NUL."""
        begin = self._strings_start + offset
        if begin >= self._strings_end:
            raise BtfError(
                f"string offset '{offset}' is outside the {self._strings_end - self._strings_start}"
                " bytes of strings",
                field="name_off",
                source=self.source,
            )
        end = self._strings.index(0, begin, self._strings_end)
        if end - begin > _MAX_STRING:
            raise BtfError(
                f"the string at '{offset}' has {end - begin} bytes",
                field="name_off",
                source=self.source,
            )
        return self._strings[begin:end]

    def string(self, offset: int) -> str:
        """The string at `offset`, decoded for people."""
        return self.string_bytes(offset).decode("utf-8", "backslashreplace")

    # -- records ------------------------------------------------------------------------------

    @property
    def type_count(self) -> int:
        """Ids in use, void included: valid ids are below it."""
        return len(self.offsets)

    def record(self, type_id: int) -> int:
        """Where the record of `type_id` starts in `words`."""
        if not 0 <= type_id < len(self.offsets):
            raise BtfError(
                f"type id '{type_id}' is not below {len(self.offsets)}",
                field="type",
                source=self.source,
            )
        return self.offsets[type_id]

    def kind(self, type_id: int) -> int:
        """The kind of a type, a `Kind` unless the blob is newer than this library."""
        try:
            return self.words[self.offsets[type_id] + 1] >> KIND_SHIFT & KIND_MASK
        except IndexError:
            return self.words[self.record(type_id) + 1]

    def vlen(self, type_id: int) -> int:
        """Number of members, enumerators, parameters or variables; linkage of a function."""
        return self.words[self.record(type_id) + 1] & VLEN_MASK

    def kflag(self, type_id: int) -> bool:
        """Bit 31: struct with bitfields, union forward, signed enum."""
        return bool(self.words[self.record(type_id) + 1] >> 31)

    def name_bytes(self, type_id: int) -> bytes:
        """The name of a type, empty when it has none."""
        return self.string_bytes(self.words[self.record(type_id)])

    def name(self, type_id: int) -> str:
        """The name of a type, decoded for people."""
        return self.string(self.words[self.record(type_id)])

    def reference(self, type_id: int) -> int:
        """The third word of a record: the size, or the id of the type referred to."""
        return self.words[self.record(type_id) + 2]

    def type(self, type_id: int) -> Type:
        """The record of `type_id`, decoded."""
        at = self.record(type_id)
        name_off, info, size_or_type = self.words[at : at + RECORD_WORDS]
        number = info >> KIND_SHIFT & KIND_MASK
        try:
            kind = Kind(number)
        except ValueError as error:
            raise BtfError(
                f"type {type_id} is of unknown kind '{number}'", field="info", source=self.source
            ) from error
        refers = kind not in SIZED and kind not in (Kind.VOID, Kind.ARRAY, Kind.FWD)
        return Type(
            id=type_id,
            kind=kind,
            name=self.string(name_off),
            vlen=info & VLEN_MASK,
            kflag=bool(info >> 31),
            size=size_or_type if kind in SIZED else 0,
            type_id=size_or_type if refers else 0,
        )

    def __iter__(self) -> Iterator[Type]:
        return (self.type(type_id) for type_id in range(1, self.type_count))

    def __len__(self) -> int:
        return self.type_count - 1

    def members(self, type_id: int) -> tuple[Member, ...]:
        """Members of a struct or union, in order."""
        at = self._expect(type_id, "struct or union", (Kind.STRUCT, Kind.UNION))
        info = self.words[at + 1]
        found = []
        for name_off, member_type, offset in self._elements(at, info & VLEN_MASK, 3):
            bits, bit_offset = (offset >> 24, offset & 0xFFFFFF) if info >> 31 else (0, offset)
            found.append(
                Member(
                    name=self.string(name_off),
                    type_id=member_type,
                    bit_offset=bit_offset,
                    bitfield_bits=bits,
                )
            )
        return tuple(found)

    def enumerators(self, type_id: int) -> tuple[Enumerator, ...]:
        """Names and values of an enum or enum64, in order."""
        at = self._expect(type_id, "enum", (Kind.ENUM, Kind.ENUM64))
        info = self.words[at + 1]
        signed = bool(info >> 31)
        if info >> KIND_SHIFT & KIND_MASK == Kind.ENUM:
            return tuple(
                Enumerator(name=self.string(name_off), value=as_signed(value, 32, signed))
                for name_off, value in self._elements(at, info & VLEN_MASK, 2)
            )
        return tuple(
            Enumerator(name=self.string(name_off), value=as_signed(high << 32 | low, 64, signed))
            for name_off, low, high in self._elements(at, info & VLEN_MASK, 3)
        )

    def parameters(self, type_id: int) -> tuple[Parameter, ...]:
        """Parameters of a function prototype, in order."""
        at = self._expect(type_id, "func_proto", (Kind.FUNC_PROTO,))
        return tuple(
            Parameter(name=self.string(name_off), type_id=parameter)
            for name_off, parameter in self._elements(at, self.words[at + 1] & VLEN_MASK, 2)
        )

    def variables(self, type_id: int) -> tuple[SectionVariable, ...]:
        """Variables of a data section, in order."""
        at = self._expect(type_id, "datasec", (Kind.DATASEC,))
        return tuple(
            SectionVariable(type_id=variable, offset=offset, size=size)
            for variable, offset, size in self._elements(at, self.words[at + 1] & VLEN_MASK, 3)
        )

    def array_of(self, type_id: int) -> tuple[int, int]:
        """(element type id, number of elements) of an array."""
        at = self._expect(type_id, "array", (Kind.ARRAY,))
        return self.words[at + 3], self.words[at + 5]

    def int_word(self, type_id: int) -> int:
        """The fourth word of an int: encoding in bits 24-27, bit offset in 16-23, bits in 0-7."""
        return self.words[self._expect(type_id, "int", (Kind.INT,)) + 3]

    def is_signed(self, type_id: int) -> bool:
        """Whether an int or enum (typedefs and qualifiers followed) is signed."""
        type_id = self.skip(type_id)
        kind = self.kind(type_id)
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self.kflag(type_id)
        return kind == Kind.INT and bool(self.int_word(type_id) >> 24 & INT_SIGNED)

    def linkage(self, type_id: int) -> int:
        """Linkage of a variable or function: 0 static, 1 global, 2 extern."""
        at = self._expect(type_id, "var or func", (Kind.VAR, Kind.FUNC))
        if self.kind(type_id) == Kind.VAR:
            return self.words[at + 3]
        return self.words[at + 1] & 0xFFFF

    # -- walking ------------------------------------------------------------------------------

    def skip(self, type_id: int) -> int:
        """Follow typedefs, const, volatile, restrict and type tags to the type behind them."""
        words, offsets = self.words, self.offsets
        steps = 0
        try:
            at = offsets[type_id]
            while IS_MODIFIER[words[at + 1] >> KIND_SHIFT & KIND_MASK]:
                type_id = words[at + 2]
                at = offsets[type_id]
                steps += 1
                if steps > _MAX_SKIPPED:
                    raise BtfError(
                        f"type '{type_id}' is a typedef of itself, or of too many",
                        field="type",
                        source=self.source,
                    )
        except IndexError:
            self.record(type_id)
        return type_id

    def member_table(self, type_id: int) -> MemberTable:
        """Members of a struct or union by name, for searches; the caller knows it is one."""
        table = self._tables.get(type_id)
        if table is None:
            at = self.offsets[type_id]
            count = self.words[at + 1] & VLEN_MASK
            offsets = self.words[at + 3 : at + 3 + 3 * count : 3]
            # A BTF that was not deduplicated repeats a struct hundreds of times.
            key = offsets.tobytes()
            table = self._tables_by_names.get(key)
            if table is None:
                table = self._tables_by_names[key] = self._member_table(offsets)
            self._tables[type_id] = table
        return table

    def _member_table(self, offsets: array[int]) -> MemberTable:
        positions: dict[bytes, int] = {}
        anonymous = []
        strings, start, end = self._strings, self._strings_start, self._strings_end
        left = 4 * (end - start) + _MAX_STRING
        for number, offset in enumerate(offsets):
            begin = start + offset
            # A name outside the strings is none, as in libbpf.
            name = strings[begin : strings.index(0, begin, end)] if begin < end else b""
            left -= len(name)
            if left < 0:
                raise BtfError("members' names overlap", field="name_off", source=self.source)
            if name:
                positions.setdefault(name, number)
            else:
                anonymous.append(number)
        return MemberTable(positions, tuple(anonymous))

    def size(self, type_id: int) -> int:
        """Size of a type in bytes; an error for those that have none (void, functions, …)."""
        size = self.try_size(type_id)
        if size < 0:
            raise BtfError(
                f"type '{type_id}' ({kind_name(self.kind(type_id))}) has no size",
                field="size",
                source=self.source,
            )
        return size

    def try_size(self, type_id: int) -> int:
        """As `size`, but -22 (no size) or -7 (too big), the errno libbpf gives."""
        words, count, elements = self.words, len(self.offsets), 1
        for _ in range(_MAX_RESOLVE_DEPTH):
            if not 0 < type_id < count:
                return -22
            at = self.offsets[type_id]
            kind = words[at + 1] >> KIND_SHIFT & KIND_MASK
            if kind in SIZED or kind == Kind.PTR:
                size = self.pointer_size if kind == Kind.PTR else words[at + 2]
                if elements and size > _U32_MAX // elements:
                    return -7
                return elements * size
            if kind == Kind.ARRAY:
                length = words[at + 5]
                if elements and length > _U32_MAX // elements:
                    return -7
                elements *= length
                type_id = words[at + 3]
            elif kind in SIZE_FOLLOWS:
                type_id = words[at + 2]
            else:
                return -22
        return -22

    @property
    def pointer_size(self) -> int:
        """4 or 8: the width of the first `long`; 8 when there is none."""
        if not self._pointer_size:
            found = [
                (type_id, size)
                for name in LONG_NAMES
                for type_id in self.ids_named(name, Kind.INT)
                if (size := self.reference(type_id)) in (4, 8)
            ]
            self._pointer_size = min(found)[1] if found else 8
        return self._pointer_size

    # -- names --------------------------------------------------------------------------------

    @property
    def names(self) -> NameIndex:
        """The name index, built on first use or set from a store."""
        if self._names is None:
            self._names = NameIndex.build(self.words, self.offsets, *self.string_view)
        return self._names

    @names.setter
    def names(self, index: NameIndex) -> None:
        self._names = index

    @property
    def functions(self) -> FunctionIndex:
        """Functions by name, built on first use."""
        if self._functions is None:
            self._functions = FunctionIndex(self.words, self.offsets, *self.string_view)
        return self._functions

    def ids_named(self, name: bytes | str, kind: Kind | None = None) -> list[int]:
        """Ids of all types of exactly this name (and kind), ascending; base's included."""
        wanted = name.encode() if isinstance(name, str) else name
        functions = self.functions.ids(wanted) if kind in (None, Kind.FUNC) else []
        if kind is Kind.FUNC:
            return functions
        others = [
            type_id
            for type_id in self.names.candidates(essential_name(wanted))
            if self.name_bytes(type_id) == wanted and (kind is None or self.kind(type_id) == kind)
        ]
        return sorted(others + functions)

    def ids_of_essential(self, essential: bytes, *, functions: bool = False) -> list[int]:
        """Ids of all types whose name without its flavour (`___x`) is this, ascending.

        Functions are searched instead where they are meant: nobody relocates against them.
        """
        candidates = self.functions.every() if functions else self.names.candidates(essential)
        return [
            type_id
            for type_id in candidates
            if essential_name(self.name_bytes(type_id)) == essential
        ]

    def find(self, name: bytes | str, kind: Kind | None = None) -> int:
        """The first id of exactly this name and kind, 0 when there is none."""
        found = self.ids_named(name, kind)
        return found[0] if found else 0

    # -- helpers ------------------------------------------------------------------------------

    def _expect(self, type_id: int, what: str, kinds: Sequence[Kind]) -> int:
        at = self.record(type_id)
        kind = self.words[at + 1] >> KIND_SHIFT & KIND_MASK
        if kind not in kinds:
            raise BtfError(
                f"type '{type_id}' is {kind_name(kind)}, not {what}",
                field="info",
                source=self.source,
            )
        return at

    def _elements(self, at: int, count: int, width: int) -> Iterator[tuple[int, ...]]:
        first = at + RECORD_WORDS
        chunk = self.words[first : first + count * width]
        return zip(*(chunk[lane::width] for lane in range(width)), strict=True)
