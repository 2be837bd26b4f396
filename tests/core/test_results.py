# SPDX-License-Identifier: Apache-2.0
"""Results and what is drawn from them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness import job, results
from harness.errors import HarnessError, UsageError
from harness.results import (
    Cell,
    Evidence,
    Figure,
    Verdict,
)  # fmt: skip
from tests.report.runs import FAIL, PASS, UNAVAILABLE, UNKNOWN, cell, run


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Reports are redrawn from JSON alone."""
    figure = Figure(name="insns", value=5585.0, unit="1", limit=20000.0)
    answer = replace(PASS, figures=(figure,), evidence=(Evidence(title="log", text="a\nb"),))
    whole = run(cell("5.10-oldest", answer), cell("5.4-oldest", UNAVAILABLE, boot=None))
    path = tmp_path / "results.json"

    results.write(whole, path)

    assert results.read(path) == whole


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "holds no results"),
        (b"not json", "holds no results"),
        (b'{"schema": 99}', "schema 99"),
        (b'{"schema": 1, "run": {}}', "holds no results"),
    ],
    ids=["empty", "garbage", "newer", "cut"],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """A newer schema, or another file, gives a clear error and no half-read report."""
    path = tmp_path / "results.json"
    path.write_bytes(content)

    with pytest.raises(UsageError, match=words):
        results.read(path)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], Verdict.UNKNOWN),
        ([Verdict.PASS, Verdict.SKIPPED], Verdict.PASS),
        ([Verdict.PASS, Verdict.UNSUPPORTED], Verdict.UNSUPPORTED),
        ([Verdict.PASS, Verdict.UNAVAILABLE], Verdict.UNAVAILABLE),
        ([Verdict.UNAVAILABLE, Verdict.UNKNOWN], Verdict.UNKNOWN),
        ([Verdict.UNKNOWN, Verdict.FAIL], Verdict.FAIL),
    ],
)
def test_the_worst_verdict_decides(verdicts: list[Verdict], expected: Verdict) -> None:
    """Nothing at all is unknown: an absent cell is never green."""
    assert results.worst(verdicts) is expected


@pytest.mark.parametrize(
    ("cells", "strict", "status"),
    [
        ([cell("a", PASS)], True, 0),
        ([cell("a", PASS), cell("b", UNAVAILABLE)], False, 0),
        ([cell("a", PASS), cell("b", UNAVAILABLE)], True, 3),
        ([cell("a", PASS), cell("b", UNKNOWN)], False, 3),
        ([cell("a", FAIL), cell("b", UNKNOWN)], False, 1),
        ([cell("b", UNAVAILABLE)], False, 3),
        ([], False, 3),
    ],
)
def test_the_exit_status_says_what_is_known(cells: list[Cell], strict: bool, status: int) -> None:
    """0 only when something passed and nothing failed or stayed open."""
    assert job.status(run(*cells), strict=strict) == status


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A full disk or a file in the way is one clear error, and no half-written JSON."""
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match="cannot write"):
        results.write_atomically(tmp_path / "file" / "x.json", b"{}")

    results.write_atomically(tmp_path / "x.json", b"{}")
    assert json.loads((tmp_path / "x.json").read_text()) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.json"]


def test_writing_does_not_touch_the_umask_of_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """umask(2) is the process's: what others make meanwhile would be for everybody to write."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", pytest.fail)
            results.write_atomically(tmp_path / "x.json", b"{}")
    finally:
        os.umask(before)

    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640
