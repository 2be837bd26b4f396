# SPDX-License-Identifier: Apache-2.0
"""Names → type ids, as two sorted arrays that can be stored and mapped back without parsing.

Key of a name is the CRC-32 of its essential part (`task_struct` for `task_struct___old`). The
index answers with a superset: who asks compares the names.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from zlib import crc32

from harness.btf.errors import BtfError
from harness.btf.kinds import KIND_MASK, KIND_SHIFT, Kind


def essential_name(name: bytes) -> bytes:
    """The name without its flavour: cut at the last `X___Y` where neither X nor Y is `_`.

    Scans from `len - 5` down to 0 as libbpf's bpf_core_essential_name_len does.
    """
    end = len(name) - 1
    while (at := name.rfind(b"___", 1, end)) > 0:
        if name[at - 1] != 0x5F and name[at + 3] != 0x5F:
            return name[:at]
        end = at + 2
    return name


class NameIndex:
    """Sorted CRCs of essential names and, beside them, the type ids; ids ascend within a CRC.

    Functions are left out: they are most of a kernel's names, and few of them are ever asked for.
    """

    __slots__ = ("hashes", "ids")

    def __init__(self, hashes: Sequence[int], ids: Sequence[int]) -> None:
        self.hashes = hashes
        self.ids = ids

    @classmethod
    def build(
        cls, words: array[int], offsets: array[int], strings: bytes, start: int, end: int
    ) -> NameIndex:
        """Index every named type. `offsets[0]` is void's; strings are `strings[start:end]`."""
        function = int(Kind.FUNC)
        pairs: list[int] = []
        append = pairs.append
        known: dict[int, int] = {}
        left = 4 * (end - start) + (1 << 16)
        for type_id, at in enumerate(offsets):
            name_off = words[at]
            if not name_off or words[at + 1] >> KIND_SHIFT & KIND_MASK == function:
                continue
            key = known.get(name_off)
            if key is None:
                key, length = _key(strings, start + name_off, end)
                known[name_off] = key
                left -= length
                if left < 0:  # every name the end of one long name: hours of checksums
                    raise BtfError("types' names overlap", field="name_off")
            if key >= 0:
                append(key << 32 | type_id)
        pairs.sort()
        return cls(
            array("I", [pair >> 32 for pair in pairs]),
            array("I", [pair & 0xFFFFFFFF for pair in pairs]),
        )

    def candidates(self, essential: bytes) -> list[int]:
        """Ids whose name may have this essential part, ascending."""
        key = crc32(essential)
        hashes = self.hashes
        at = bisect_left(hashes, key)
        found = []
        while at < len(hashes) and hashes[at] == key:
            found.append(self.ids[at])
            at += 1
        return found


class FunctionIndex:
    """Functions by exact name: searched in the strings, so that no table of them is built."""

    __slots__ = ("_end", "_first", "_found", "_more", "_start", "_strings")

    def __init__(
        self, words: array[int], offsets: array[int], strings: bytes, start: int, end: int
    ) -> None:
        self._strings, self._start, self._end = strings, start, end
        self._found: dict[bytes, list[int]] = {}
        # By offset of the name. No list per function: tens of thousands cost more than the search.
        self._first: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}
        first, function = self._first, int(Kind.FUNC)
        for type_id, at in enumerate(offsets):
            if words[at + 1] >> KIND_SHIFT & KIND_MASK == function:
                place = words[at]
                if place in first:
                    self._more.setdefault(place, []).append(type_id)
                else:
                    first[place] = type_id

    def ids(self, name: bytes) -> list[int]:
        """Ids of the functions of this name, ascending."""
        if name not in self._found:
            found: list[int] = []
            wanted = name + b"\0"
            at = self._strings.find(wanted, self._start, self._end) if name else -1
            while at >= 0:  # a name may start inside a longer string
                place = at - self._start
                if place in self._first:
                    found += [self._first[place], *self._more.get(place, ())]
                at = self._strings.find(wanted, at + 1, self._end)
            self._found[name] = sorted(found)
        return self._found[name]

    def every(self) -> list[int]:
        """Ids of all functions, ascending."""
        return sorted([*self._first.values(), *(one for ids in self._more.values() for one in ids)])


def _key(strings: bytes, begin: int, end: int) -> tuple[int, int]:
    """Key and length of the name that starts at `begin`; -1 for the empty and the impossible."""
    if begin >= end:
        return -1, 0
    text = strings[begin : strings.index(0, begin, end)]
    if not text:
        return -1, 0
    return crc32(essential_name(text) if b"___" in text else text), len(text)
