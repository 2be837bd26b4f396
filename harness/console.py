# SPDX-License-Identifier: Apache-2.0
"""What a kernel's console says about the kernel: trouble that ended it, splats that should not be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Trouble(StrEnum):
    """Why a guest cannot go on, as its own console tells."""

    PANIC = "panic"
    OUT_OF_MEMORY = "out-of-memory"
    SOFT_LOCKUP = "soft-lockup"
    RCU_STALL = "rcu-stall"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A line of the console that decides something, with the lines that follow it."""

    trouble: Trouble | None  # None: a splat, the kernel went on
    line: str
    excerpt: str


# The texts are the kernel's own: kernel/panic.c, kernel/watchdog.c, kernel/rcu/tree_stall.h,
# mm/oom_kill.c; unchanged from 4.19 to 7.3.
_TROUBLES: tuple[tuple[Trouble, re.Pattern[str]], ...] = (
    (Trouble.PANIC, re.compile(r"Kernel panic - not syncing|---\[ end Kernel panic")),
    (Trouble.SOFT_LOCKUP, re.compile(r"BUG: soft lockup - CPU#|NMI watchdog: Watchdog detected hard LOCKUP")),
    (Trouble.RCU_STALL, re.compile(r"rcu: INFO: rcu_\w+ (self-)?detected (expedited )?stall|INFO: rcu_\w+ (self-)?detected stall")),
)  # fmt: skip
# asm-generic/bug.h and lib/bug.c ("WARNING: CPU: 0 PID: 1 at …"; since 6.18 "WARNING: file:line at
# function, CPU#0: comm/pid"), arch/*/mm/fault.c, lib/ubsan.c, mm/kasan, kernel/locking/lockdep.c.
_SPLAT = re.compile(
    r"\bWARNING: .*\bat \S+|\bWARNING: (possible|suspicious|inconsistent)|\bBUG: |\bOops\b.*:|"
    r"\bkernel BUG at\b|general protection fault|\bUBSAN: |\bKASAN: |refcount_t: |"
    r"\bINFO: task \S+ blocked for more than"
)
_STAMP = re.compile(r"^(<\d+>)?\[\s*\d+\.\d+\](\[\s*\w+\])?\s*")
_EXCERPT_LINES = 24


def find_trouble(text: str) -> Finding | None:
    """The first line that means the guest is lost, or None."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        for trouble, pattern in _TROUBLES:
            if pattern.search(line):
                killed_by_oom = trouble is Trouble.PANIC and "Out of memory" in line
                return _finding(lines, index, Trouble.OUT_OF_MEMORY if killed_by_oom else trouble)
    return None


def find_splats(text: str) -> list[Finding]:
    """Every WARN, BUG, oops and sanitizer report of a kernel log, in order."""
    lines = text.splitlines()
    found: list[Finding] = []
    skip_to = 0
    for index, line in enumerate(lines):
        if index >= skip_to and _SPLAT.search(line):
            found.append(_finding(lines, index, None))
            skip_to = _end_of_trace(lines, index)
    return found


def _finding(lines: list[str], index: int, trouble: Trouble | None) -> Finding:
    excerpt = "\n".join(lines[index : index + _EXCERPT_LINES])
    return Finding(trouble=trouble, line=_STAMP.sub("", lines[index]).strip(), excerpt=excerpt)


def _end_of_trace(lines: list[str], index: int) -> int:
    """One splat is one report: its own lines end with "---[ end trace", or soon."""
    for offset, line in enumerate(lines[index : index + 80]):
        if "---[ end trace" in line:
            return index + offset + 1
    return index + 1
