# SPDX-License-Identifier: Apache-2.0
"""Cells on an executor: each is handed over as it ends, and an interrupt keeps what is finished."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from harness import schedule
from harness.cell import Prepared
from harness.results import Cause, Cell, CheckResult, KernelFacts, Verdict

_NAMES = ("5.4", "5.10", "6.1", "6.12")


def _item(name: str) -> Prepared:
    return Prepared(facts=KernelFacts(name=name, series=name, arch="x86_64"), files=None)


def _passed(item: Prepared) -> Cell:
    return Cell(
        kernel=item.facts, boot=None, checks=(CheckResult(check="boot", verdict=Verdict.PASS),)
    )


def _names(cells: list[Cell]) -> list[str]:
    return [cell.kernel.name for cell in cells]


def test_cells_are_told_as_they_end_and_returned_in_the_order_asked() -> None:
    second_told = threading.Event()
    told: list[str] = []

    def answer(item: Prepared) -> Cell:
        if item.name == _NAMES[0]:
            second_told.wait(20)
        return _passed(item)

    def finished(cell: Cell) -> None:
        told.append(cell.kernel.name)
        if cell.kernel.name == _NAMES[1]:
            second_told.set()

    cells = schedule.all_cells(
        [_item(name) for name in _NAMES[:2]], schedule.threads(ThreadPoolExecutor(2), answer, lambda: None),
        known={}, finished=finished,
    )  # fmt: skip

    assert told == [_NAMES[1], _NAMES[0]]
    assert _names(cells) == list(_NAMES[:2])


def test_a_known_cell_is_not_asked_again() -> None:
    known = _passed(_item(_NAMES[1]))
    asked: list[str] = []
    told: list[str] = []

    def answer(item: Prepared) -> Cell:
        asked.append(item.name)
        return _passed(item)

    cells = schedule.all_cells(
        [_item(name) for name in _NAMES], schedule.threads(ThreadPoolExecutor(1), answer, lambda: None),
        known={known.kernel.name: known},
        finished=lambda cell: told.append(cell.kernel.name),
    )  # fmt: skip

    assert asked == told == [name for name in _NAMES if name != _NAMES[1]]
    assert cells[1] is known
    assert _names(cells) == list(_NAMES)


def test_an_interrupt_keeps_what_is_finished_and_says_what_was_not_reached() -> None:
    """One cell is finished, one cut short, two are never started: only the first is `finished`."""
    cancelled, second_runs = threading.Event(), threading.Event()
    told: list[str] = []

    def answer(item: Prepared) -> Cell:
        if item.name != _NAMES[0]:
            second_runs.set()
            cancelled.wait(20)
        return _passed(item)

    def finished(cell: Cell) -> None:
        told.append(cell.kernel.name)
        second_runs.wait(20)
        if len(told) == 1:
            raise KeyboardInterrupt

    cells = schedule.all_cells(
        [_item(name) for name in _NAMES], schedule.threads(ThreadPoolExecutor(1), answer, cancelled.set),
        known={}, finished=finished,
    )  # fmt: skip

    # An interrupt in the midst of telling: it is told again, so that nothing finished is lost.
    assert told == [_NAMES[0]] * 2
    assert [cell.verdict for cell in cells] == [Verdict.PASS, Verdict.PASS, *[Verdict.UNKNOWN] * 2]
    assert [cell.checks[0].cause for cell in cells[2:]] == [Cause.INFRA] * 2
