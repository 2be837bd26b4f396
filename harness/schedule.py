# SPDX-License-Identifier: Apache-2.0
"""Cells on any `concurrent.futures.Executor`: asked in order, handed over as they end."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.cell import Prepared
from harness.errors import HarnessError
from harness.lost import trouble_of
from harness.results import Cause, Cell, Verdict

_T = TypeVar("_T")
_PATIENCE_S = 20.0  # for guests to end after an interrupt: an engine may hang


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew(Generic[_T]):
    """Who answers cells, and how they are asked."""

    executor: Executor
    ask: Callable[[Prepared], Future[_T]]  # hands a kernel to the executor
    bring: Callable[[Prepared, Future[_T]], Cell]  # what came back, in the scheduler's thread
    cancel: Callable[[], None]  # makes answers that are under way end soon


def threads(
    executor: Executor, answer: Callable[[Prepared], Cell], cancel: Callable[[], None]
) -> Crew[Cell]:
    """A crew of this process: `answer` runs in the executor's threads."""
    return Crew(
        executor=executor, ask=lambda item: executor.submit(answer, item),
        bring=lambda item, future: future.result(), cancel=cancel,
    )  # fmt: skip


def all_cells(
    items: Sequence[Prepared],
    crew: Crew[_T],
    *,
    known: Mapping[str, Cell],
    finished: Callable[[Cell], None],
) -> list[Cell]:
    """Every kernel's cell, in the order asked; an interrupt keeps what is finished.

    known: cells by kernel that need no asking any more. finished: called here, in this thread, for
    each cell that came to its end, not for known ones nor for those that an interrupt cut short.
    The executor is shut down.
    """
    found = dict(known)
    told: set[str] = set()
    futures: dict[Future[_T], Prepared] = {}
    ended: queue.SimpleQueue[Future[_T]] = queue.SimpleQueue()
    in_time: set[Future[_T]] = set()  # ended before an interrupt

    def take(future: Future[_T]) -> None:
        item = futures[future]
        if item.name not in found:
            found[item.name] = crew.bring(item, future)
        if item.name not in told:
            finished(found[item.name])
            told.add(item.name)

    patient = True
    try:
        for item in items:
            if item.name not in known:
                future = crew.ask(item)
                futures[future] = item
                future.add_done_callback(ended.put)
        for _ in range(len(futures)):
            take(ended.get())
    except KeyboardInterrupt:
        patient = False
        # First of all, that an end makes no room for the next.
        crew.executor.shutdown(wait=False, cancel_futures=True)
        in_time = {future for future in futures if future.done() and not future.cancelled()}
        crew.cancel()
        wait(futures, timeout=_PATIENCE_S)
    finally:
        crew.executor.shutdown(wait=patient, cancel_futures=True)
    for future, item in futures.items():
        if future in in_time:
            take(future)
        elif future.done() and not future.cancelled() and item.name not in found:
            # What a guest had answered before the interrupt ended it counts.
            found[item.name] = crew.bring(item, future)
    return [found.get(item.name) or _interrupted(item) for item in items]


def _interrupted(item: Prepared) -> Cell:
    error = HarnessError("interrupted before it was reached", hint="run it again")
    trouble = item.trouble or trouble_of(Verdict.UNKNOWN, Cause.INFRA, error)
    return Cell(kernel=item.facts, boot=None, checks=(trouble,))
