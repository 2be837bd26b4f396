# SPDX-License-Identifier: Apache-2.0
"""The benches of whole runs: what they count, and what they call a leak."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from harness import benches, pipeline, process
from harness.bench import scale, simulated, soak, usage
from harness.bench.soak import Soak
from harness.cache import Cache
from harness.errors import UsageError
from harness.journal import Journal
from harness.progress import Event, Finished, Listener
from harness.results import BootFacts, Cause, Cell, CheckResult, KernelFacts, Run, Verdict
from harness.sitting import Request
from tests.report import runs

_PASS = CheckResult(check="boot", verdict=Verdict.PASS)


@pytest.fixture(autouse=True)
def _without_helpers() -> None:
    """multiprocessing, if another test of this process used it, keeps a child for what is left."""
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _cell(name: str, check: CheckResult = _PASS) -> Cell:
    boot = BootFacts(
        backend="local", accelerator="tcg", accelerator_reason="a test", qemu="10", vcpus=2,
        memory_mib=768, boot_s=7.0,
    )  # fmt: skip
    facts = KernelFacts(name=name, series="6.1", arch="x86_64", release="6.1.0")
    return Cell(kernel=facts, boot=boot, checks=(check,), duration_s=9.0)


def _run(*cells: Cell) -> Run:
    run = runs.run()
    return replace(
        run, cells=cells,
        run=replace(run.run, planned=tuple(cell.kernel.name for cell in cells)),
    )  # fmt: skip


def test_a_simulated_matrix_goes_the_whole_way(tmp_path: Path) -> None:
    found = simulated.measure(
        _run(_cell("6.1-oldest"), _cell("5.10-oldest")), kernels=7, objects=2, scratch=tmp_path,
        say=lambda text: None,
    )  # fmt: skip

    assert {step.name: step.cells for step in found.steps} == {
        "schedule, with journal": 14, "results.json written": 14, "results.json read": 14,
        "table and problems": 14, "all reports": 7,
    }  # fmt: skip
    assert {step.cells for step in found.large} == {14}
    assert found.workers == pytest.approx(9.0 / found.ms_per_cell * 1e3)
    assert "7 kernels × 2 objects = 14 cells" in simulated.render(found)


def test_a_simulated_matrix_wants_cells_that_were_real(tmp_path: Path) -> None:
    run = _run(replace(_cell("6.1-oldest"), boot=None))

    with pytest.raises(UsageError, match="none of the recorded cells has booted"):
        simulated.measure(run, kernels=1, objects=1, scratch=tmp_path, say=lambda text: None)


def test_the_pace_of_runs_is_given_for_each_number_of_guests() -> None:
    asked: list[int] = []

    def once(guests: int) -> Run:
        asked.append(guests)
        lost = CheckResult(check="boot", verdict=Verdict.UNKNOWN, cause=Cause.INFRA)
        return _run(_cell("6.1-oldest"), _cell("5.10-oldest", lost if guests == 4 else _PASS))

    paces = scale.measure(once, (1, 4), lambda text: None)

    assert asked == [4, 1, 4]  # the first warms up
    assert [(pace.guests, pace.cells, pace.lost) for pace in paces] == [(1, 2, 0), (4, 2, 1)]
    assert not scale.good(paces)
    assert "cells a minute" in scale.render(paces, 2)


def _soaked(once: soak.Once, tmp_path: Path, cells: int = 60) -> Soak:
    return soak.measure(once, cells=cells, emit=lambda event: None, scratch=tmp_path, clock=_clock)


def _clock() -> float:
    return 0.0


def _once(number: int, most: int, listen: Listener) -> Run:
    cells = [_cell(f"k{i}") for i in range(min(most, 5))]
    for cell in cells:
        listen(_finished(cell))
    return _run(*cells)


def _finished(cell: Cell) -> Event:
    return Finished(kernel=cell.kernel.name, verdict=cell.verdict, summary="")


def test_a_soak_counts_every_result_and_finds_nothing_kept(tmp_path: Path) -> None:
    found = _soaked(_once, tmp_path)

    assert (found.asked, found.results, found.verdicts) == (60, 60, (("pass", 60),))
    assert found.slope is not None
    assert found.verdict is Verdict.PASS, soak.render(found)
    assert "60 of 60: 60 pass" in soak.render(found)


def test_a_soak_sees_memory_that_grows_with_each_cell(tmp_path: Path) -> None:
    kept: list[bytes] = []

    def once(number: int, most: int, listen: Listener) -> Run:
        def leaking(event: Event) -> None:
            kept.append(os.urandom(512 << 10))
            listen(event)

        return _once(number, most, leaking)

    found = _soaked(once, tmp_path)

    assert found.slope is not None
    assert found.slope.per_cell == pytest.approx(512, rel=0.1)
    assert found.leaks
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(20, 64, Verdict.PASS), (20, 65, Verdict.UNKNOWN), (65, 131, Verdict.FAIL)],
)
def test_growth_that_may_be_above_the_limit_or_below_is_no_pass(
    low: float, high: float, verdict: Verdict, tmp_path: Path
) -> None:
    grown = soak.Slope(per_cell=(low + high) / 2, low=low, high=high)

    assert replace(_soaked(_once, tmp_path), slope=grown).verdict is verdict


def test_what_comes_and_goes_within_a_pass_is_no_growth(tmp_path: Path) -> None:
    """What a pass holds of its kernels and answers is gone at its end."""

    def once(number: int, most: int, listen: Listener) -> Run:
        held = [os.urandom(8 << 20)]

        def holding(event: Event) -> None:
            held.append(os.urandom(2 << 20))
            listen(event)

        return _once(number, most, holding)

    found = _soaked(once, tmp_path)

    assert found.verdict is Verdict.PASS, soak.render(found)


def test_a_soak_sees_descriptors_temporary_files_and_lost_results(tmp_path: Path) -> None:
    opened: list[int] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def once(number: int, most: int, listen: Listener) -> Run:
        opened.append(os.open("/dev/null", os.O_RDONLY))
        (scratch / "left").touch()
        run = _once(number, most, listen)
        return replace(run, cells=run.cells[1:])

    try:
        found = _soaked(once, scratch)
    finally:
        for descriptor in opened:
            os.close(descriptor)

    assert found.last.descriptors == found.first.descriptors + 11
    assert found.left == ("left",)
    assert (found.asked, found.results) == (60, 48)
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("cause", "told"), [(Cause.INFRA, 1), (Cause.GUEST_LOST, 1), (Cause.NONE, 1), (Cause.PANIC, 0)]
)
def test_an_unknown_is_explained_only_by_the_kernel(
    tmp_path: Path, cause: Cause, told: int
) -> None:
    def once(number: int, most: int, listen: Listener) -> Run:
        check = CheckResult(check="boot", verdict=Verdict.UNKNOWN, cause=cause, summary="so")
        return _run(_cell("6.1-oldest", check))

    assert len(_soaked(once, tmp_path, cells=1).unexplained) == told


def test_a_soak_that_is_told_to_end_makes_no_further_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is interrupted returns what it has."""
    told = threading.Event()
    monkeypatch.setattr(process, "_stopping", told)
    passes: list[Request] = []

    def interrupted(request: Request, cache: Cache, emit: Listener, kept: Journal) -> Run:
        passes.append(request)
        told.set()
        return _run(_cell("6.1-oldest"))

    monkeypatch.setattr(pipeline, "run", interrupted)
    words = benches.Words(kernels="6.1-oldest", out=str(tmp_path / "soak"))
    with pytest.raises(KeyboardInterrupt):
        benches.measure_soak(words, 3, Cache(root=tmp_path / "cache"), lambda event: None)

    assert len(passes) == 1
    assert (passes[0].report_dir / "results.json").exists()


def test_a_slope_is_that_of_its_line_and_its_interval_holds_the_noise() -> None:
    exact = soak.slope([(x, 1000 + 3 * x) for x in range(20)])
    noisy = soak.slope([(x, 1000 + 3 * x + (-1) ** x * 40) for x in range(20)])

    assert exact is not None
    assert (exact.low, exact.per_cell, exact.high) == (3, 3, 3)
    assert noisy is not None
    assert noisy.low < 3 < noisy.high
    assert noisy.high - noisy.low > 5
    assert soak.slope([(1, 1)] * 5) is None


def test_usage_counts_what_this_process_holds() -> None:
    before = usage.now()
    with Path("/dev/null").open("rb"):
        assert usage.now().descriptors == before.descriptors + 1
    assert usage.now().resident_kib > 10_000
