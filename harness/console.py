# SPDX-License-Identifier: Apache-2.0
"""What a kernel's console says about the kernel: trouble that ended it, splats that should not be."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class Trouble(StrEnum):
    """Why a guest cannot go on, as its own console tells."""

    PANIC = "panic"
    OUT_OF_MEMORY = "out-of-memory"
    SOFT_LOCKUP = "soft-lockup"
    RCU_STALL = "rcu-stall"
    AGENT_ENDED = "guest-lost"  # init says so, then it powers the guest off


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A line of the console that decides something, with the lines that follow it."""

    trouble: Trouble | None  # None: a splat, the kernel went on
    line: str
    excerpt: str
    before: str = ""  # the complaint that led there: an oops before its panic, a killed agent
    # x86: a CPU trapped at a breakpoint that memory does not hold (any more).
    stale_code: bool = False


# The texts are the kernel's own: kernel/panic.c, kernel/watchdog.c, kernel/rcu/tree_stall.h,
# mm/oom_kill.c; unchanged from 4.19 to 7.3. The last is ours: guestbin/init.c.
_TROUBLES: tuple[tuple[Trouble, re.Pattern[str]], ...] = (
    (Trouble.PANIC, re.compile(r"Kernel panic - not syncing|---\[ end Kernel panic")),
    (Trouble.SOFT_LOCKUP, re.compile(r"BUG: soft lockup - CPU#|NMI watchdog: Watchdog detected hard LOCKUP")),
    (Trouble.RCU_STALL, re.compile(r"rcu: INFO: rcu_\w+ (self-)?detected (expedited )?stall|INFO: rcu_\w+ (self-)?detected stall")),
    (Trouble.AGENT_ENDED, re.compile(r"km: guest down \(server status 0x[1-9a-f]")),
)  # fmt: skip
# oom_kill.c panics with "Out of memory: …panic_on_oom…" or "System is deadlocked on memory".
_MEMORY_PANIC = re.compile(r"Out of memory|deadlocked on memory")
# Not "Memory cgroup out of memory": that is somebody's own limit.
_OOM_KILLED = re.compile(r"(?<!cgroup )[Oo]ut of memory: Kill(?:ed)? process \d+ \(.*?\)")
_AGENT = "(qemu-ga)"
# What an oops begins with: arch/x86/mm/fault.c, arch/x86/kernel/{dumpstack,traps}.c,
# arch/arm64/mm/fault.c, lib/bug.c. Its panic says no more than "Fatal exception".
_OOPS = re.compile(
    r"\bBUG: (kernel NULL pointer|unable to handle|stack guard)|\bOops: |\bkernel BUG at\b|"
    r"Unable to handle kernel |Internal error: |general protection fault|invalid opcode: 0000|"
    r"\bint3: 0000"
)
# arch/x86/kernel/dumpstack.c, show_opcodes(): the bytes around the instruction pointer, which is in
# brackets and comes behind the breakpoint that was trapped at. "int3" has no "Oops: " before 6.10.
_BREAKPOINT = re.compile(r"\bint3: 0000")
_OPCODES = re.compile(r"\bCode: .*\b([0-9a-f]{2}) <")
_INT3 = "cc"
# asm-generic/bug.h and lib/bug.c ("WARNING: CPU: 0 PID: 1 at …"; since 6.18 "WARNING: file:line at
# function, CPU#0: comm/pid"), arch/*/mm/fault.c, lib/ubsan.c, mm/kasan, kernel/locking/lockdep.c.
_SPLAT = re.compile(
    r"\bWARNING: .*\bat \S+|\bWARNING: (possible|suspicious|inconsistent)|\bBUG: |\bOops\b.*:|"
    r"\bkernel BUG at\b|general protection fault|\bUBSAN: |\bKASAN: |refcount_t: |"
    r"\bINFO: task \S+ blocked for more than"
)
# One of these is in every line that the patterns of `Log` find; a search for each pattern in each
# line of a flood would take seconds.
_TELLING = (
    b"panic", b"lockup", b"LOCKUP", b"stall", b"guest down", b"ut of memory", b"BUG", b"Oops",
    b"Unable to handle", b"Internal error", b"general protection", b"invalid opcode", b"int3",
    b"Code: ",
)  # fmt: skip
_STAMP = re.compile(r"^(<\d+>)?\[\s*\d+\.\d+\](\[\s*\w+\])?\s*")
_EXCERPT_LINES = 24
_OOPS_LINES = 120  # from an oops to its panic: registers, stack, modules
_LINE_BYTES = 4096  # the kernel's own lines are under 1 KiB
_OVERLAP_BYTES = 256  # a kernel's words may begin anywhere in what somebody else writes
_KILLED_KEPT = 50


class Log:
    """A console that is read while it grows: every line is looked at once.

    What it keeps is bounded, however much is written: an overlong line is looked at in pieces.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._excerpt: list[str] = []
        self._trouble: Trouble | None = None
        self._before = ""
        self._oops: tuple[int, str] = (-_OOPS_LINES, "")  # number of its line, its text
        self._before_ip = ""  # of the oops: the byte before the instruction pointer, in hex
        self._count = 0
        self._killed: deque[str] = deque(maxlen=_KILLED_KEPT)
        self._agent_killed = ""

    def feed(self, data: bytes) -> None:
        """Read on."""
        *ended, rest = data.split(b"\n")
        for line in ended:
            self._pieces(self._partial + line)
            self._partial = b""
        self._partial = self._pieces(self._partial + rest, open_end=True)

    def _pieces(self, line: bytes, *, open_end: bool = False) -> bytes:
        """Look at a line; with open_end, return what has to wait for its end."""
        while len(line) > _LINE_BYTES:
            self._line(line[:_LINE_BYTES])
            line = line[_LINE_BYTES - _OVERLAP_BYTES :]
        if open_end:
            return line
        self._line(line)
        return b""

    def close(self) -> None:
        """Nothing more will come: what has no line end is a line too."""
        self.feed(b"\n")

    @property
    def trouble(self) -> Finding | None:
        """The first line that means the guest is lost, None while there is none."""
        if self._trouble is None:
            return None
        return Finding(
            trouble=self._trouble, line=_bare(self._excerpt[0]), before=self._before,
            excerpt="\n".join(self._excerpt),
            stale_code=_BREAKPOINT.search(self._before) is not None
            and self._before_ip not in ("", _INT3),
        )  # fmt: skip

    def take_killed(self) -> tuple[str, ...]:
        """What the kernel killed for want of memory since the last take, in its words."""
        killed = tuple(self._killed)
        self._killed.clear()
        return killed

    def _line(self, raw: bytes) -> None:
        self._count += 1
        if self._trouble is None and not any(word in raw for word in _TELLING):
            return
        line = raw.decode(errors="replace").rstrip("\r")
        if self._trouble is not None:
            if len(self._excerpt) < _EXCERPT_LINES:
                self._excerpt.append(line)
            return
        if killed := _OOM_KILLED.search(line):
            self._killed.append(killed[0])
            if killed[0].endswith(_AGENT):
                self._agent_killed = killed[0]
        if _OOPS.search(line) and self._count - self._oops[0] >= _OOPS_LINES:
            self._oops, self._before_ip = (self._count, _bare(line)), ""
        if not self._before_ip and (opcodes := _OPCODES.search(line)):
            self._before_ip = opcodes[1]
        for trouble, pattern in _TROUBLES:
            if pattern.search(line):
                self._trouble, self._before = self._judged(trouble, line)
                self._excerpt = [line]
                return

    def _judged(self, trouble: Trouble, line: str) -> tuple[Trouble, str]:
        if trouble is Trouble.PANIC and _MEMORY_PANIC.search(line):
            return Trouble.OUT_OF_MEMORY, self._agent_killed
        if trouble is Trouble.PANIC and self._count - self._oops[0] < _OOPS_LINES:
            return trouble, self._oops[1]
        if trouble is Trouble.AGENT_ENDED and self._agent_killed:
            return Trouble.OUT_OF_MEMORY, self._agent_killed
        return trouble, ""


def find_trouble(text: str) -> Finding | None:
    """The first line of a whole console that means the guest is lost, or None."""
    log = Log()
    log.feed(text.encode())
    log.close()
    return log.trouble


def find_splats(text: str) -> list[Finding]:
    """Every WARN, BUG, oops and sanitizer report of a kernel log, in order."""
    lines = text.splitlines()
    found: list[Finding] = []
    skip_to = 0
    for index, line in enumerate(lines):
        if index >= skip_to and _SPLAT.search(line):
            excerpt = "\n".join(lines[index : index + _EXCERPT_LINES])
            found.append(Finding(trouble=None, line=_bare(line), excerpt=excerpt))
            skip_to = _end_of_trace(lines, index)
    return found


def shortened(beginning: bytes, end: bytes, left_out: int) -> bytes:
    """A console's beginning and end, with what is left out between them said."""
    said = f"\n\n[kernel-matrix: {left_out:,} bytes of this console are left out here]\n\n"
    return beginning + said.encode() + end


def _bare(line: str) -> str:
    return _STAMP.sub("", line).strip()


def _end_of_trace(lines: list[str], index: int) -> int:
    """One splat is one report: its own lines end with "---[ end trace", or soon."""
    for offset, line in enumerate(lines[index : index + 80]):
        if "---[ end trace" in line:
            return index + offset + 1
    return index + 1
