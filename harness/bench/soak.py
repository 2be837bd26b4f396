# SPDX-License-Identifier: Apache-2.0
"""Many cells one after another in one process: does each give a result, and is anything kept?

Memory is judged by its growth: the least-squares slope of resident memory over the number of cells,
with its 95 % interval, as each pass over the kernels has ended: within one it comes and goes by 20 MiB
(types of kernels, answers). The first pass fills what is filled once (caches, libraries) and does not
count. Growth is a leak when even the interval's lower end is above `LEAK_KIB` a cell, none when its
upper end is not; between them it cannot be told.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from harness.bench import usage
from harness.bench.usage import Usage
from harness.progress import Event, Finished, Listener
from harness.results import Cause, Cell, Run, Verdict

LEAK_KIB = 64.0  # a cell: 10,000 cells then take 640 MiB
_LEAST_SAMPLES = 6  # for a slope
# `unknown` with one of these says something about the kernel or the subject's own command.
_EXPLAINED = (Cause.PANIC, Cause.HANG, Cause.TIMEOUT, Cause.NOT_STARTED, Cause.FLAKY)

Once = Callable[[int, int, Listener], Run]  # pass number, most cells, listener → what was found


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """Growth a cell, by least squares."""

    per_cell: float
    low: float  # of the 95 % interval
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """What was counted, and what this process held meanwhile."""

    asked: int
    verdicts: tuple[tuple[str, int], ...]  # of cells
    unexplained: tuple[str, ...]  # kernel, check and what it said
    resident_kib: tuple[tuple[int, int], ...]  # cells finished → KiB, by pass but the first
    slope: Slope | None  # None: too few passes after the first
    first: Usage  # after the first pass
    last: Usage  # after the last one
    left: tuple[str, ...]  # temporary files
    seconds: float

    @property
    def results(self) -> int:
        return sum(count for _, count in self.verdicts)

    @property
    def leaks(self) -> bool | None:
        """None: it cannot be told."""
        if self.slope is None or self.slope.low <= LEAK_KIB < self.slope.high:
            return None
        return self.slope.low > LEAK_KIB

    @property
    def verdict(self) -> Verdict:
        """FAIL for a lost result, an unexplained unknown or something kept.

        UNKNOWN where growth cannot be told, or a kernel could not be had: its cell boots nothing.
        """
        kept = (
            self.last.descriptors > self.first.descriptors
            or self.last.threads > self.first.threads
            or self.last.children > self.first.children
            or bool(self.left)
        )
        if self.results != self.asked or self.unexplained or kept or self.leaks:
            return Verdict.FAIL
        unreal = any(name == Verdict.UNAVAILABLE for name, _ in self.verdicts)
        return Verdict.UNKNOWN if self.leaks is None or unreal else Verdict.PASS


def measure(once: Once, *, cells: int, emit: Listener, scratch: Path, clock: Clock) -> Soak:
    """Make passes until there are `cells` results.

    scratch: where this process's temporary files go.
    """
    started = clock()
    finished = 0
    samples: list[tuple[int, int]] = []
    verdicts: Counter[str] = Counter()  # not the cells: their evidence would be taken for a leak
    unexplained: list[str] = []
    between: list[Usage] = []

    def listen(event: Event) -> None:
        nonlocal finished
        emit(event)
        if isinstance(event, Finished):
            finished += 1

    asked = 0
    while asked < cells:
        run = once(len(between) + 1, cells - asked, listen)
        asked += max(len(run.run.planned), len(run.cells), 1)
        verdicts.update(str(cell.verdict) for cell in run.cells)
        unexplained += (said for cell in run.cells for said in _unexplained(cell))
        del run
        gc.collect()  # drawn reports wait for it in cycles: kept, until then, by nobody
        if between:
            samples.append((finished, usage.resident_kib()))
        between.append(usage.now())
    return Soak(
        asked=asked, verdicts=tuple(verdicts.items()), unexplained=tuple(unexplained),
        resident_kib=tuple(samples), slope=slope(samples), first=between[0], last=between[-1],
        left=tuple(sorted(path.name for path in scratch.iterdir())), seconds=clock() - started,
    )  # fmt: skip


Clock = Callable[[], float]


def slope(samples: Sequence[tuple[int, int]]) -> Slope | None:
    """Of (x, y) samples, None for too few."""
    count = len(samples)
    if count < _LEAST_SAMPLES:
        return None
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
    rest = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in samples)
    free = count - 2
    half = _student(free) * math.sqrt(rest / free / spread)
    return Slope(per_cell=rise, low=rise - half, high=rise + half)


def render(found: Soak) -> str:
    """The figures, what they are held against, and what follows."""
    verdicts = ", ".join(f"{count} {name}" for name, count in found.verdicts)
    first, last = found.first, found.last
    rows: list[list[object]] = [
        ["results", f"{found.results} of {found.asked}: {verdicts}", "one for each cell"],
        ["unexplained unknown", len(found.unexplained), "none"],
        ["resident memory", _memory(found), f"grows by no more than {LEAK_KIB:g} KiB a cell"],
        ["descriptors", f"{first.descriptors} → {last.descriptors}", "no more"],
        ["threads", f"{first.threads} → {last.threads}", "no more"],
        ["children", f"{first.children} → {last.children}", "no more"],
        ["temporary files", len(found.left), "none"],
    ]
    lines = [
        f"Soak: {found.asked} cells in one process, {found.seconds:.0f} s "
        f"({found.seconds / max(found.asked, 1):.1f} s a cell); → after the first pass, at the end",
        "",
        tabulate(rows, headers=["", "found", "wanted"], disable_numparse=True),
        "",
        *(f"unexplained: {said}" for said in found.unexplained),
        *(f"left: {name}" for name in found.left),
        str(found.verdict),
    ]
    return "\n".join(lines)


def _memory(found: Soak) -> str:
    if not found.resident_kib or found.slope is None:
        return f"too few passes after the first to tell (fewer than {_LEAST_SAMPLES})"
    begin, end = found.resident_kib[0][1], found.resident_kib[-1][1]
    rise = found.slope
    return (
        f"{begin / 1024:.1f} → {end / 1024:.1f} MiB, {rise.per_cell:+.1f} KiB a cell "
        f"(95 %: {rise.low:+.1f} to {rise.high:+.1f})"
    )


def _unexplained(cell: Cell) -> list[str]:
    deciding = cell.deciding
    if cell.verdict is not Verdict.UNKNOWN or deciding is None or deciding.cause in _EXPLAINED:
        return []
    return [
        f"{cell.kernel.name}: {deciding.check} ({deciding.cause}): "
        f"{deciding.summary.partition(chr(10))[0]}"
    ]


def _student(free: int) -> float:
    """97.5 % quantile of Student's t, within 0.05 from four degrees of freedom on."""
    return 1.96 + 2.37 / free + 2.82 / free**2
