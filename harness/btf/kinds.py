# SPDX-License-Identifier: Apache-2.0
"""Numbers of the BTF format (Linux UAPI `btf.h`) and names of this library's closed sets."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Kind(IntEnum):
    """BTF type kinds."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class RelocationKind(IntEnum):
    """The 13 CO-RE relocation kinds (`enum bpf_core_relo_kind`)."""

    FIELD_BYTE_OFFSET = 0
    FIELD_BYTE_SIZE = 1
    FIELD_EXISTS = 2
    FIELD_SIGNED = 3
    FIELD_LSHIFT_U64 = 4
    FIELD_RSHIFT_U64 = 5
    TYPE_ID_LOCAL = 6
    TYPE_ID_TARGET = 7
    TYPE_EXISTS = 8
    TYPE_SIZE = 9
    ENUMVAL_EXISTS = 10
    ENUMVAL_VALUE = 11
    TYPE_MATCHES = 12


# What libbpf prints for a kind (`core_relo_kind_str`, `btf_kind_str`): the language of its logs.
RELOCATION_NAMES: Final = (
    "byte_off",
    "byte_sz",
    "field_exists",
    "signed",
    "lshift_u64",
    "rshift_u64",
    "local_type_id",
    "target_type_id",
    "type_exists",
    "type_size",
    "enumval_exists",
    "enumval_value",
    "type_matches",
)
KIND_NAMES: Final = (
    "void",
    "int",
    "ptr",
    "array",
    "struct",
    "union",
    "enum",
    "fwd",
    "typedef",
    "volatile",
    "const",
    "restrict",
    "func",
    "func_proto",
    "var",
    "datasec",
    "float",
    "decl_tag",
    "type_tag",
    "enum64",
)

FIELD_KINDS: Final = frozenset(range(6))
TYPE_KINDS: Final = frozenset((6, 7, 8, 9, 12))
ENUM_KINDS: Final = frozenset((10, 11))

# `info`: vlen in bits 0-23, kind in 24-30, kflag in 31. Blobs from before the UAPI change of
# 2026-05 use 16 and 5 of those bits and hold zeros in the others.
VLEN_MASK: Final = 0xFFFFFF
KIND_MASK: Final = 0x7F
KIND_SHIFT: Final = 24

INT_SIGNED: Final = 1
INT_CHAR: Final = 2
INT_BOOL: Final = 4

# Words (of 4 bytes) that follow the three common ones: a fixed number, and a number per vlen.
TRAILER_FIXED: Final = {Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}
TRAILER_PER_ELEMENT: Final = {
    Kind.STRUCT: 3,
    Kind.UNION: 3,
    Kind.ENUM: 2,
    Kind.FUNC_PROTO: 2,
    Kind.DATASEC: 3,
    Kind.ENUM64: 3,
}


# Typedefs and qualifiers; kinds with a size of their own; kinds whose size is another type's.
MODIFIERS: Final = frozenset(
    (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
)
IS_MODIFIER: Final = bytes(number in MODIFIERS for number in range(KIND_MASK + 1))
SIZED: Final = frozenset(
    (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC)
)
SIZE_FOLLOWS: Final = MODIFIERS | {Kind.VAR, Kind.DECL_TAG}


def kind_name(kind: int) -> str:
    """`struct` for 4; `kind 25` for a kind nobody has named yet."""
    return KIND_NAMES[kind] if 0 <= kind < len(KIND_NAMES) else f"kind {kind}"


def relocation_name(kind: int) -> str:
    """`byte_off` for 0; `unknown` as libbpf says for others."""
    return RELOCATION_NAMES[kind] if 0 <= kind < len(RELOCATION_NAMES) else "unknown"


# The first INT of one of these names tells how wide a pointer is (libbpf, determine_ptr_size).
LONG_NAMES: Final = (
    b"long",
    b"long int",
    b"int long",
    b"unsigned long",
    b"long unsigned",
    b"unsigned long int",
    b"unsigned int long",
    b"long unsigned int",
    b"long int unsigned",
    b"int unsigned long",
    b"int long unsigned",
)


def as_signed(value: int, bits: int, signed: bool) -> int:
    """`value` of `bits` bits, read as two's complement if `signed`."""
    return value - (1 << bits) if signed and value >> (bits - 1) else value
