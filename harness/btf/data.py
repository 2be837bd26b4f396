# SPDX-License-Identifier: Apache-2.0
"""Maps, global data and externs of an object, out of its BTF and symbol table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from harness.btf.btf import Btf
from harness.btf.elf import SHF_EXECINSTR, SHT_NOBITS, STB_WEAK, STT_OBJECT, Section, Symbol
from harness.btf.kinds import INT_BOOL, Kind, kind_name
from harness.btf.object import BpfObject

_MAX_NESTED: Final = 16
_MAX_WORDS: Final = 200  # types in one spelling
_NUMBERS: Final = ("type", "key_size", "value_size", "max_entries", "map_flags", "pinning")


@dataclass(frozen=True, kw_only=True, slots=True)
class MapDefinition:
    """A map of the `.maps` section; 0 where the definition leaves a number to the kernel."""

    name: str
    type: int  # enum bpf_map_type
    key_size: int  # bytes
    value_size: int  # bytes
    max_entries: int
    flags: int
    pinned: bool
    key_type: str  # "" when only a size is given
    value_type: str
    inner: str  # what a map of maps holds, "" for others


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """A global variable."""

    name: str
    type: str
    offset: int  # bytes into its section
    size: int  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSection:
    """A section that becomes an array map: `.rodata`, `.data`, `.bss` and named kin."""

    name: str
    size: int  # bytes
    read_only: bool  # frozen at load: the verifier knows its contents (since Linux 5.5)
    variables: tuple[Variable, ...]


class ExternKind(StrEnum):
    """What an undefined symbol asks a kernel for."""

    KCONFIG = "kconfig"
    KSYM = "ksym"  # an address in kallsyms
    TYPED_KSYM = "typed-ksym"  # a VAR of the kernel's BTF
    KFUNC = "kfunc"  # a FUNC of the kernel's BTF
    UNKNOWN = "unknown"  # no BTF says; libbpf refuses


@dataclass(frozen=True, kw_only=True, slots=True)
class Extern:
    """An undefined symbol."""

    name: str
    kind: ExternKind
    weak: bool
    type: str  # C-like
    type_id: int  # of the symbol's type, typedefs and qualifiers followed (a prototype's, kfunc's)
    size: int  # bytes of a kconfig value


def maps(obj: BpfObject) -> tuple[MapDefinition, ...]:
    """BTF-defined maps, in the order of the section."""
    btf = obj.btf
    if btf is None:
        return ()
    section = btf.find(".maps", Kind.DATASEC)
    if not section:
        return ()
    found = []
    for variable in btf.variables(section):
        if btf.kind(variable.type_id) != Kind.VAR:
            continue
        layout = btf.skip(btf.reference(variable.type_id))
        if btf.kind(layout) == Kind.STRUCT:
            found.append(_map(btf, btf.name(variable.type_id), layout))
    return tuple(found)


def data_sections(obj: BpfObject) -> tuple[DataSection, ...]:
    """Sections of global data with their variables, in file order."""
    symbols: dict[int, list[Symbol]] = {}
    for symbol in obj.symbols:
        if symbol.type == STT_OBJECT:
            symbols.setdefault(symbol.section, []).append(symbol)
    types: dict[str, str] = {}
    return tuple(
        DataSection(
            name=section.name,
            size=section.size,
            read_only=section.name.startswith(".rodata"),
            variables=_variables(obj, symbols.get(section.index, []), types),
        )
        for section in obj.elf.sections
        if is_data(section)
    )


def is_data(section: Section) -> bool:
    """Whether libbpf makes a map of this section."""
    if not section.size or section.flags & SHF_EXECINSTR:
        return False
    name = section.name
    if name.startswith(".bss"):
        return section.type == SHT_NOBITS and (name == ".bss" or name.startswith(".bss."))
    return name.startswith((".data.", ".rodata.")) or name in (".data", ".rodata")


def externs(obj: BpfObject) -> tuple[Extern, ...]:
    """Undefined symbols, in the order of the symbol table."""
    btf = obj.btf
    found = []
    homes = _homes(btf) if btf is not None else {}
    for symbol in obj.externs():
        weak = symbol.bind == STB_WEAK
        home, type_id = homes.get(symbol.name, ("", 0))
        if btf is None or not type_id:
            found.append(
                Extern(
                    name=symbol.name,
                    kind=ExternKind.UNKNOWN,
                    weak=weak,
                    type="",
                    type_id=0,
                    size=0,
                )
            )
            continue
        target = btf.skip(btf.reference(type_id))
        kind = ExternKind.UNKNOWN
        if home == ".kconfig":
            kind = ExternKind.KCONFIG
        elif home == ".ksyms":
            if btf.kind(type_id) == Kind.FUNC:
                kind = ExternKind.KFUNC
            else:
                kind = ExternKind.TYPED_KSYM if target else ExternKind.KSYM
        found.append(
            Extern(
                name=symbol.name,
                kind=kind,
                weak=weak,
                type=type_text(btf, btf.reference(type_id)),
                type_id=target,
                size=max(btf.try_size(target), 0),
            )
        )
    return tuple(found)


class KconfigType(StrEnum):
    """How libbpf reads a kconfig value into an extern."""

    CHAR = "char"
    BOOL = "bool"
    INT = "int"
    TRISTATE = "tristate"
    CHARS = "char[]"
    UNKNOWN = "unknown"


def kconfig_type(btf: Btf, type_id: int) -> KconfigType:
    """The kind of value an extern of this type takes."""
    type_id = btf.skip(type_id)
    kind = btf.kind(type_id)
    if kind == Kind.INT:
        encoding = btf.int_word(type_id) >> 24 & 15
        if encoding & INT_BOOL:
            return KconfigType.BOOL if btf.size(type_id) == 1 else KconfigType.UNKNOWN
        if btf.size(type_id) == 1:
            return KconfigType.CHAR
        return KconfigType.INT if btf.size(type_id) in (2, 4, 8) else KconfigType.UNKNOWN
    if kind in (Kind.ENUM, Kind.ENUM64):
        tristate = btf.name(type_id) == "libbpf_tristate" and btf.size(type_id) == 4
        return KconfigType.TRISTATE if tristate else KconfigType.UNKNOWN
    if kind == Kind.ARRAY:
        element, length = btf.array_of(type_id)
        element = btf.skip(element)
        # An array of arrays is none, nor is an array of itself.
        if length and btf.kind(element) == Kind.INT:
            char = kconfig_type(btf, element) is KconfigType.CHAR
            return KconfigType.CHARS if char else KconfigType.UNKNOWN
    return KconfigType.UNKNOWN


def type_text(btf: Btf, type_id: int) -> str:
    """A short C-like spelling of a type."""
    return _Spelling(btf).of(type_id, _MAX_NESTED)


class _Spelling:
    """One type's spelling, "…" for what is nested too deeply or is too much to read.

    Prototypes whose parameters are prototypes double with each level.
    """

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._left = _MAX_WORDS

    def of(self, type_id: int, depth: int) -> str:
        self._left -= 1
        if depth == 0 or self._left < 0:
            return "…"
        btf, deeper = self._btf, depth - 1
        kind = btf.kind(type_id)
        name = btf.name(type_id) if type_id else "void"
        if kind == Kind.PTR:
            return self.of(btf.reference(type_id), deeper) + " *"
        if kind in (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT):
            return f"{kind_name(kind)} {self.of(btf.reference(type_id), deeper)}"
        if kind == Kind.TYPE_TAG:
            return self.of(btf.reference(type_id), deeper)
        if kind == Kind.ARRAY:
            element, length = btf.array_of(type_id)
            return f"{self.of(element, deeper)}[{length}]"
        if kind in (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64):
            word = "enum" if kind in (Kind.ENUM, Kind.ENUM64) else kind_name(kind)
            return f"{word} {name or '<anon>'}"
        if kind == Kind.FWD:
            return f"{'union' if btf.kflag(type_id) else 'struct'} {name}"
        if kind == Kind.FUNC_PROTO:
            given = btf.parameters(type_id)
            shown = [self.of(one.type_id, deeper) if one.type_id else "..." for one in given[:64]]
            parameters = ", ".join([*shown, *(["…"] if given[64:] else [])])
            return f"{self.of(btf.reference(type_id), deeper)} ({parameters or 'void'})"
        return name or kind_name(kind)


def _homes(btf: Btf) -> dict[str, tuple[str, int]]:
    """Extern name → (name of the data section that lists it, id of its VAR or FUNC)."""
    homes: dict[str, tuple[str, int]] = {}
    for one in btf:
        if one.kind is not Kind.DATASEC or one.name not in (".kconfig", ".ksyms"):
            continue
        for variable in btf.variables(one.id):
            homes.setdefault(btf.name(variable.type_id), (one.name, variable.type_id))
    return homes


def _map(btf: Btf, name: str, layout: int) -> MapDefinition:
    numbers = dict.fromkeys(_NUMBERS, 0)
    types = {"key": "", "value": ""}
    inner = ""
    for member in btf.members(layout):
        type_id = btf.skip(member.type_id)
        kind = btf.kind(type_id)
        if member.name == "values" and kind == Kind.ARRAY:
            element = btf.skip(btf.array_of(type_id)[0])
            pointee = btf.reference(element) if btf.kind(element) == Kind.PTR else element
            inner = type_text(btf, pointee)
            numbers["value_size"] = 4
            continue
        if kind != Kind.PTR:
            continue
        pointee = btf.skip(btf.reference(type_id))
        if member.name in numbers and btf.kind(pointee) == Kind.ARRAY:
            numbers[member.name] = btf.array_of(pointee)[1]
        elif member.name in types:
            types[member.name] = type_text(btf, btf.reference(type_id))
            numbers[f"{member.name}_size"] = max(btf.try_size(pointee), 0)
    return MapDefinition(
        name=name,
        type=numbers["type"],
        key_size=numbers["key_size"],
        value_size=numbers["value_size"],
        max_entries=numbers["max_entries"],
        flags=numbers["map_flags"],
        pinned=bool(numbers["pinning"]),
        key_type=types["key"],
        value_type=types["value"],
        inner=inner,
    )


def _variables(
    obj: BpfObject, symbols: list[Symbol], types: dict[str, str]
) -> tuple[Variable, ...]:
    """From a section's symbols: clang leaves the offsets in BTF at 0. types: by name, so far."""
    found = []
    for symbol in symbols:
        if obj.btf is not None and symbol.name not in types:
            variable = obj.btf.find(symbol.name, Kind.VAR)
            types[symbol.name] = type_text(obj.btf, obj.btf.reference(variable)) if variable else ""
        found.append(
            Variable(
                name=symbol.name,
                type=types.get(symbol.name, ""),
                offset=symbol.value,
                size=symbol.size,
            )
        )
    return tuple(sorted(found, key=lambda one: (one.offset, one.name)))
