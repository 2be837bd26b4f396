# SPDX-License-Identifier: Apache-2.0
"""The history keeps every run once, whatever happens to the disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness import history
from harness.errors import HarnessError
from harness.results import Program, Run, Verdict
from tests.gate.runs import cell, check, count, run, unavailable


def _run(started: str) -> Run:
    programs = (
        Program(name="dns_udp4", verdict=Verdict.PASS, insns_processed=5447),
        Program(name="dns_udp6", verdict=Verdict.FAIL),
    )
    rate = check("rate-limit", figures=(count("events in any second", 1098.0),))
    one = run(
        cell("5.10-oldest", check("load", programs=programs), rate), unavailable("5.4-oldest")
    )
    return replace(one, run=replace(one.run, started=started))


def test_a_run_is_kept_once_and_read_back(tmp_path: Path) -> None:
    late, early = _run("2026-11-22T12:00:00+00:00"), _run("2026-11-21T12:00:00+00:00")
    for one in (late, early, late):
        history.append(one, tmp_path)

    first, second = history.read(tmp_path)

    assert (first.started, second.started) == (early.run.started, late.run.started)
    (kernel,) = second.kernels
    assert kernel.insns == {"dns_udp4": 5447}
    assert kernel.figures == {"rate-limit: events in any second": 1098.0}
    assert second.verdict == late.verdict


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = history.append(_run("2026-11-20T12:00:00+00:00"), tmp_path)
    path.write_bytes(path.read_bytes() + b'{"schema": 1, "star')
    history.append(_run("2026-11-21T12:00:00+00:00"), tmp_path)
    path.write_bytes(path.read_bytes() + b'{"schema": 2}\n')

    assert [one.started[:10] for one in history.read(tmp_path)] == ["2026-11-20", "2026-11-21"]


def test_runs_that_end_together_are_all_kept(tmp_path: Path) -> None:
    runs = [_run(f"2026-11-22T12:00:{second:02}+00:00") for second in range(20)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda one: history.append(one, tmp_path), runs))

    assert len(history.read(tmp_path)) == 20


def test_no_history_is_empty_and_no_place_for_one_is_said(tmp_path: Path) -> None:
    assert history.read(tmp_path) == []
    (tmp_path / "history").write_text("a file")
    with pytest.raises(HarnessError, match="cannot write"):
        history.append(_run("2026-11-22T12:00:00+00:00"), tmp_path)
