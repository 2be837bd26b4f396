# SPDX-License-Identifier: Apache-2.0
"""Memory of a process, of maps and of the kernel, out of what a guest prints. Pure.

A sample is taken by `sample` of SHELL. Kernel memory is what is neither free nor a user's:
MemTotal - MemFree - pages on the CPUs' free lists (/proc/zoneinfo, "count:") - AnonPages - Cached
- Buffers - SReclaimable. It holds slabs, per-CPU memory, vmalloc, page tables and pages taken
directly, so a map or an element of whatever kind is in it. The free lists matter: MemFree alone
loses 20 MiB to them when a loader ends (6.1, two CPUs).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.objcheck import HeldMap

# sample PID-or-"": sections that read_samples() understands. Resident memory from smaps_rollup,
# which walks the page tables: since Linux v6.2 the counters of statm may be 64 pages a CPU behind.
SHELL = r"""
keep='^(MemTotal|MemFree|AnonPages|Cached|Buffers|SReclaimable|SUnreclaim|Percpu|Rss):|count:|managed'
sample() {
	echo @sample
	[ "$1" ] && { "$loader" stats || exit 4; }
	if [ "$1" ] && [ -r /proc/$1/smaps_rollup ]; then
		grep -hE "$keep" /proc/meminfo /proc/zoneinfo /proc/$1/smaps_rollup || exit 6
	else
		grep -hE "$keep" /proc/meminfo /proc/zoneinfo || exit 6
		[ "$1" ] && echo "statm $(cat /proc/$1/statm)"
	fi
	echo @
}
# What can be given back is, and what CPUs have counted for themselves is added up.
settle() {
	echo 3 >/proc/sys/vm/drop_caches
	cat /proc/sys/vm/stat_refresh >/dev/null 2>&1
}
"""
_FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_ON_LISTS = re.compile(r"^\s+count:\s+(\d+)$", re.MULTILINE)
_MANAGED = re.compile(r"^\s+managed\s+(\d+)$", re.MULTILINE)
_STATM = re.compile(r"^statm \d+ (\d+) ", re.MULTILINE)
_SUBMITTED = re.compile(r'"type":"stats".*"submitted":(\d+)')
_ATTEMPTS = re.compile(r'"type":"flood".*"attempts":(\d+)')
_KIB = 1024
# What a hash map takes for an element beside key and value (struct htab_elem), at least.
_ELEMENT_BYTES = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One reading. Memory in bytes."""

    attempts: int  # datagrams sent before it
    submitted: int | None  # events so far by the observer's count; None: none was attached
    kernel: int
    slab: int  # the part of it that no pressure gives back
    percpu: int
    resident: int | None  # of the loader


def read_samples(text: str) -> list[Sample]:
    """The samples of a command's output, with the floods between them counted."""
    found: list[Sample] = []
    attempts = 0
    for number, part in enumerate(text.split("@sample\n")):
        inside, _, after = part.partition("\n@\n")
        if number:
            found.append(_sample(inside, attempts))
        else:
            after = part
        attempts += sum(int(count) for count in _ATTEMPTS.findall(after))
    return found


def _sample(text: str, attempts: int) -> Sample:
    fields = {name: int(value) * _KIB for name, value in _FIELD.findall(text)}
    managed = sum(int(pages) for pages in _MANAGED.findall(text))
    lists = _ON_LISTS.findall(text)
    try:
        total = fields["MemTotal"]
        if not managed or not lists:
            raise KeyError("zoneinfo")
        # The zones' pages are MemTotal but for what the kernel frees after its start.
        page = 1 << round(math.log2(total / managed))
        users = ("AnonPages", "Cached", "Buffers", "SReclaimable")
        free = fields["MemFree"] + page * sum(int(pages) for pages in lists)
        submitted, statm = _SUBMITTED.search(text), _STATM.search(text)
        return Sample(
            attempts=attempts,
            submitted=int(submitted[1]) if submitted else None,
            kernel=total - free - sum(fields[name] for name in users),
            slab=fields["SUnreclaim"], percpu=fields.get("Percpu", 0),
            resident=fields.get("Rss", int(statm[1]) * page if statm else None),
        )  # fmt: skip
    except KeyError as error:
        raise HarnessError(
            f"the guest's memory figures lack {error}: '{text[:200].strip()}'",
            hint="the guest needs /proc/meminfo and /proc/zoneinfo (CONFIG_PROC_FS)",
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A least squares line."""

    slope: float
    error: float  # standard error of the slope


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line through at least three points (x, y) with different x."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return Line(slope=slope, error=math.sqrt(left / (n - 2) / spread))


def map_bytes(held: HeldMap, cpus: int) -> int:
    """What a map takes: what the kernel says, or what its type and sizes must take, if that is more.

    The kernel's "memlock" is, before v5.11, pages charged when the map is made, everything
    included; from v5.11, key and value sizes times entries (0 for a ring buffer, one copy of a
    per-CPU value); from v6.4, the map's own account, where a map without preallocation counts for
    the elements that it holds. cpus: possible ones.
    """
    kind = held.of or ""
    if kind in ("ringbuf", "user_ringbuf"):
        return max(held.memlock_bytes or 0, held.max_entries)
    copies = cpus if "percpu" in kind else 1
    size = _padded(held.value_size) * copies
    entries = held.max_entries
    if held.elements is not None:
        size += _padded(held.key_size) + _ELEMENT_BYTES
        entries = held.max_entries if held.prealloc else held.elements
    return max(held.memlock_bytes or 0, size * entries)


def _padded(size: int) -> int:
    return (size + 7) & ~7
