# SPDX-License-Identifier: Apache-2.0
"""Names → type ids, as two sorted arrays that can be stored and mapped back without parsing.

Key of a name is the CRC-32 of its essential part (`task_struct` for `task_struct___old`). The
index answers with a superset: who asks compares the names.
"""

from __future__ import annotations

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
        # All strings at once: C loops over the few hundred thousand names of a kernel.
        texts = strings[start : end - 1].split(b"\0")
        keys = list(map(crc32, texts))
        for position, text in enumerate(texts):
            if b"___" in text:
                keys[position] = crc32(essential_name(text))
        places = accumulate((len(text) + 1 for text in texts), initial=0)
        by_place = dict(zip(places, keys, strict=False))
        by_place[0] = -1  # the empty name
        pairs: list[int] = []
        append = pairs.append
        get = by_place.get
        for type_id, name_off in enumerate(map(words.__getitem__, offsets)):
            key = get(name_off)
            if key is None:
                key = _key_inside(strings, start + name_off, end)
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


def _key_inside(strings: bytes, begin: int, end: int) -> int:
    """Key of a name that starts inside another string (shared suffixes), -1 for none."""
    if begin >= end:
        return -1
    text = strings[begin : strings.index(0, begin, end)]
    return crc32(essential_name(text)) if text else -1
