# SPDX-License-Identifier: Apache-2.0
"""How much processor time a guest's QEMU got: a guest that gets none looks like one that hangs."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path

_EVERY_S = 0.5
_KEPT_S = 60.0
_LOOKS = 20  # for the processes: QEMU is started by others, which have its command line too
_TICKS_S = os.sysconf("SC_CLK_TCK")


class Share:
    """The part of a processor that the processes got whose command line has `mark`.

    A container's too, where its processes are on this machine. Nothing is known of others.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self._used_s: dict[int, float] = {}  # by pid, as last seen: it stays when one has ended
        self._looked = 0
        self._samples: deque[tuple[float, float]] = deque()  # monotonic s, s of processor

    def sample(self, now: float) -> None:
        """Look, unless that was done a moment ago."""
        if self._samples and now - self._samples[-1][0] < _EVERY_S:
            return
        if self._looked < _LOOKS:
            self._looked += 1
            self._used_s |= dict.fromkeys(_pids(self._mark) - self._used_s.keys(), 0.0)
        if not self._used_s:
            return
        for pid, before in self._used_s.items():
            self._used_s[pid] = max(before, _used_s(pid))
        self._samples.append((now, sum(self._used_s.values())))
        while now - self._samples[0][0] > _KEPT_S:
            self._samples.popleft()

    def lately(self, seconds: float) -> float | None:
        """Of one processor, in the last seconds; None when they were not seen."""
        if not self._samples:
            return None
        now, used = self._samples[-1]
        before = [sample for sample in self._samples if now - sample[0] >= seconds]
        if not before:
            return None
        then, used_then = before[-1]
        return max(0.0, used - used_then) / (now - then)


def _pids(mark: bytes) -> set[int]:
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
    return found


def _used_s(pid: int) -> float:
    """0 when it has ended. proc(5): fields 14 and 15, utime and stime in clock ticks."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S
