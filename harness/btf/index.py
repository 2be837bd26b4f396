# SPDX-License-Identifier: Apache-2.0
"""Names → type ids, as two sorted arrays that can be stored and mapped back without parsing.

Key of a name is the CRC-32 of its essential part (`task_struct` for `task_struct___old`). The
index answers with a superset: who asks compares the names.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32


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
    """Sorted CRCs of essential names and, beside them, the type ids; ids ascend within a CRC."""

    __slots__ = ("hashes", "ids")

    def __init__(self, hashes: Sequence[int], ids: Sequence[int]) -> None:
        self.hashes = hashes
        self.ids = ids

    @classmethod
    def build(
        cls, words: array[int], offsets: array[int], strings: bytes, start: int, end: int
    ) -> NameIndex:
        """Index every named type. `offsets[0]` is void's; strings are `strings[start:end]`."""
        # C loops only (split, map, zip): a kernel has a few hundred thousand names.
        texts = strings[start : end - 1].split(b"\0")
        keys = list(map(crc32, texts))
        places = list(accumulate(map(len, texts), _next_place, initial=0))
        by_place: dict[int, int | None] = dict(zip(places, keys, strict=False))
        for place in _flavoured(strings, start, end):
            by_place[place - start] = _key(strings, place, end)
        by_place[0] = None  # the empty name
        name_offs = list(map(words.__getitem__, offsets))
        found = list(map(by_place.get, name_offs))
        if found.count(None) > name_offs.count(0):
            # Some names start inside other strings (shared suffixes).
            for type_id, name_off in enumerate(name_offs):
                if found[type_id] is None and name_off:
                    found[type_id] = _key(strings, start + name_off, end)
        pairs = [key << 32 | type_id for type_id, key in enumerate(found) if key is not None]
        pairs.sort()
        both = array("Q", pairs)
        if sys.byteorder != "little":
            both.byteswap()
        halves = memoryview(both.tobytes()).cast("I")
        ids, hashes = array("I", halves[::2].tobytes()), array("I", halves[1::2].tobytes())
        return cls(hashes, ids)

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


def _next_place(place: int, length: int) -> int:
    return place + length + 1


def _flavoured(strings: bytes, start: int, end: int) -> set[int]:
    """Places (in `strings`) of all strings that hold `___`."""
    places = set()
    at = strings.find(b"___", start, end)
    while at >= 0:
        places.add(strings.rfind(b"\0", start, at) + 1)
        at = strings.find(b"___", strings.index(0, at, end), end)
    return places


def _key(strings: bytes, begin: int, end: int) -> int | None:
    """Key of the name that starts at `begin`, None for the empty and the impossible."""
    if begin >= end:
        return None
    text = strings[begin : strings.index(0, begin, end)]
    return crc32(essential_name(text)) if text else None
