# SPDX-License-Identifier: Apache-2.0
"""What this process has of the machine at the moment, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_SELF = Path("/proc/self")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a process holds, besides time."""

    resident_kib: int
    descriptors: int
    threads: int
    children: int  # and theirs


def now() -> Usage:
    """This process's."""
    return Usage(
        resident_kib=resident_kib(),
        descriptors=len(list((_SELF / "fd").iterdir())) - 1,  # without the one that lists them
        threads=len(list((_SELF / "task").iterdir())),
        children=len(_descendants("self")),
    )


def resident_kib() -> int:
    """Resident memory of this process."""
    pages = int((_SELF / "statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 10


def _descendants(pid: str) -> list[str]:
    found: list[str] = []
    for path in Path("/proc", pid).glob("task/*/children"):
        try:
            children = path.read_text(encoding="ascii").split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found
