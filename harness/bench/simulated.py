# SPDX-License-Identifier: Apache-2.0
"""The harness without guests: a large matrix whose cells are those of a real run, told again.

Every cell is decoded anew from the recorded one, so that it takes the memory of its own that a real
one takes; only its kernel's name differs. It goes the way of any other: scheduled on threads,
journalled, told, gathered into results, drawn.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from tabulate import tabulate

from harness import journal, reporting, results, schedule
from harness.bench.usage import resident_kib
from harness.cell import Prepared
from harness.errors import UsageError
from harness.results import Cell, Run

_T = TypeVar("_T")
GOAL_WORKERS = 100  # one harness must be able to keep as many busy
_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A part of the work, over a number of cells."""

    name: str
    cells: int
    seconds: float
    size_bytes: int = 0  # of what it wrote

    @property
    def ms_per_cell(self) -> float:
        return self.seconds / self.cells * 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What a matrix took."""

    kernels: int
    objects: int
    recorded: int  # different cells that were told again
    cell_s: float  # what a recorded cell took on its real guest, on average
    cell_kib: float  # resident memory that a cell took
    steps: tuple[Step, ...]
    large: tuple[Step, ...]  # all cells in one run

    @property
    def ms_per_cell(self) -> float:
        """Of the harness, for everything that a run does with a cell."""
        return sum(step.ms_per_cell for step in self.steps)

    @property
    def workers(self) -> float:
        """How many guests at once one harness could keep busy."""
        return self.cell_s / (self.ms_per_cell / 1e3)

    @property
    def good(self) -> bool:
        return self.workers >= GOAL_WORKERS


def measure(
    recorded: Run, *, kernels: int, objects: int, scratch: Path, say: Callable[[str], None]
) -> Simulation:
    """Send `kernels` × `objects` cells through the harness: a run for each object, then all in one.

    recorded: a real run; its cells that booted are told again. scratch: an empty directory.
    """
    real = [cell for cell in recorded.cells if cell.boot is not None]
    if not real:
        raise UsageError(
            "none of the recorded cells has booted a guest",
            hint="name a results.json of a run that did: --results reports/latest/results.json",
        )
    templates = [msgspec.json.encode(cell) for cell in real]
    steps: dict[str, list[Step]] = {}
    for number in range(1, objects + 1):
        say(f"object {number} of {objects}: {kernels} kernels")
        items = _items(real, kernels)
        directory = scratch / f"object-{number}"
        for step in _run(recorded, items, templates, directory, draw=number == 1):
            steps.setdefault(step.name, []).append(step)
        shutil.rmtree(directory)
    say(f"one run of {kernels * objects} cells")
    before_kib = resident_kib()
    items = _items(real, kernels * objects)
    cells, scheduling = _timed(
        "schedule", len(items), lambda: _scheduled(items, templates, lambda done: None)
    )
    cell_kib = (resident_kib() - before_kib) / len(items)
    run = _gathered(recorded, cells)
    large = (scheduling, *_written(run, scratch), _table(run))
    return Simulation(
        kernels=kernels, objects=objects, recorded=len(real),
        cell_s=sum(cell.duration_s for cell in real) / len(real), cell_kib=cell_kib,
        steps=tuple(map(_summed, steps.values())), large=large,
    )  # fmt: skip


def render(found: Simulation) -> str:
    """The tables, and what they mean."""
    count = found.kernels * found.objects
    lines = [
        f"Simulated matrix: {found.kernels} kernels × {found.objects} objects = {count} cells, "
        f"{found.recorded} real ones told again ({found.cell_s:.1f} s each on their guests)",
        "",
        _steps(f"{found.objects} runs", found.steps),
        "",
        _steps("all in one run", found.large),
        "",
        f"memory: {found.cell_kib:.0f} KiB a cell",
        f"time:   {found.ms_per_cell:.2f} ms a cell, so one harness keeps "
        f"{found.workers:.0f} guests busy (goal: {GOAL_WORKERS}): "
        f"{'pass' if found.good else 'fail'}",
    ]
    return "\n".join(lines)


def _steps(title: str, steps: Sequence[Step]) -> str:
    rows = [
        [step.name, step.cells, f"{step.seconds:.2f}", f"{step.ms_per_cell:.2f}",
         f"{step.size_bytes / 1e6:.1f}" if step.size_bytes else ""]
        for step in steps
    ]  # fmt: skip
    return tabulate(
        rows, headers=[title, "cells", "s", "ms a cell", "MB written"], disable_numparse=True,
        colalign=("left", "right", "right", "right", "right"),
    )  # fmt: skip


def _items(real: Sequence[Cell], count: int) -> list[Prepared]:
    return [
        Prepared(facts=replace(cell.kernel, name=f"{cell.kernel.name}.{number}"), files=None)
        for number, cell in zip(range(count), itertools.cycle(real), strict=False)
    ]


def _run(
    recorded: Run, items: Sequence[Prepared], templates: Sequence[bytes], directory: Path,
    *, draw: bool,
) -> Iterator[Step]:  # fmt: skip
    count = len(items)
    with journal.opened(directory, journal.Words()) as kept:
        cells, step = _timed(
            "schedule, with journal", count, lambda: _scheduled(items, templates, kept.keep)
        )
    yield step
    run = _gathered(recorded, cells)
    yield from _written(run, directory)
    yield _table(run)
    if draw:
        drawn, step = _timed("all reports", count, lambda: reporting.draw(run, directory))
        yield replace(step, size_bytes=sum(map(len, drawn.values())))


def _scheduled(
    items: Sequence[Prepared], templates: Sequence[bytes], finished: Callable[[Cell], None]
) -> list[Cell]:
    source = itertools.cycle(templates)
    by_name = {item.name: next(source) for item in items}

    def answer(item: Prepared) -> Cell:
        return replace(msgspec.json.decode(by_name[item.name], type=Cell), kernel=item.facts)

    crew = schedule.threads(ThreadPoolExecutor(_THREADS), answer, lambda: None)
    return schedule.all_cells(items, crew, known={}, finished=finished)


def _gathered(recorded: Run, cells: Sequence[Cell]) -> Run:
    return replace(recorded, cells=tuple(cells), relocations=())


def _written(run: Run, directory: Path) -> tuple[Step, Step]:
    path = directory / "results.json"
    _, write = _timed("results.json written", len(run.cells), lambda: results.write(run, path))
    _, read = _timed("results.json read", len(run.cells), lambda: results.read(path))
    return replace(write, size_bytes=path.stat().st_size), read


def _table(run: Run) -> Step:
    def draw() -> None:
        reporting.table(run, 120)
        reporting.problems_text(run)

    return _timed("table and problems", len(run.cells), draw)[1]


def _timed(name: str, cells: int, work: Callable[[], _T]) -> tuple[_T, Step]:
    started = time.monotonic()
    made = work()
    return made, Step(name=name, cells=cells, seconds=time.monotonic() - started)


def _summed(steps: Sequence[Step]) -> Step:
    return Step(
        name=steps[0].name, cells=sum(step.cells for step in steps),
        seconds=sum(step.seconds for step in steps),
        size_bytes=sum(step.size_bytes for step in steps),
    )  # fmt: skip
