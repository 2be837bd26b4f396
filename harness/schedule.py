# SPDX-License-Identifier: Apache-2.0
"""Cells on an executor: started in the order asked, handed over as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from harness.cell import Prepared
from harness.errors import HarnessError
from harness.results import Cause, Cell, Verdict
from harness.sitting import trouble_of


def all_cells(
    items: Sequence[Prepared],
    executor: Executor,
    answer: Callable[[Prepared], Cell],
    *,
    known: Mapping[str, Cell],
    finished: Callable[[Cell], None],
    cancel: Callable[[], None],
) -> list[Cell]:
    """Every kernel's cell, in the order asked; an interrupt keeps what is finished.

    known: cells by kernel that need no asking any more. finished: called here, in this thread, for
    each cell that came to its end, not for known ones nor for those that an interrupt cut short.
    cancel: makes answers that are under way end soon. The executor is shut down.
    """
    found = dict(known)
    told: set[str] = set()
    futures: dict[Future[Cell], str] = {}
    ended: set[Future[Cell]] = set()

    def take(future: Future[Cell]) -> None:
        name = futures[future]
        found[name] = future.result()
        if name not in told:
            finished(found[name])
            told.add(name)

    try:
        for item in items:
            if item.name not in known:
                futures[executor.submit(answer, item)] = item.name
        for future in _as_they_end(futures):
            take(future)
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)  # before an end makes room for the next
        ended = {future for future in futures if future.done() and not future.cancelled()}
        cancel()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    for future in futures:
        if future in ended:
            take(future)
        elif not future.cancelled():
            # What a guest had answered before the interrupt ended it counts.
            found[futures[future]] = future.result()
    return [found.get(item.name) or _interrupted(item) for item in items]


def _as_they_end(futures: Mapping[Future[Cell], str]) -> Iterator[Future[Cell]]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        yield from done


def _interrupted(item: Prepared) -> Cell:
    error = HarnessError("interrupted before it was reached", hint="run it again")
    trouble = item.trouble or trouble_of(Verdict.UNKNOWN, Cause.INFRA, error)
    return Cell(kernel=item.facts, boot=None, checks=(trouble,))
