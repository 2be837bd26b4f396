# SPDX-License-Identifier: Apache-2.0
"""Results and what is drawn from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import job, results
from harness.errors import HarnessError, UsageError
from harness.results import (
    BootFacts,
    Cause,
    Cell,
    CheckResult,
    Evidence,
    Figure,
    KernelFacts,
    Run,
    RunFacts,
    SubjectFacts,
    Verdict,
)  # fmt: skip

_BOOT = BootFacts(
    backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", qemu="QEMU 10",
    vcpus=2, memory_mib=768, boot_s=3.21,
)  # fmt: skip


def _check(
    name: str, verdict: Verdict, cause: Cause = Cause.NONE, summary: str = ""
) -> CheckResult:
    return CheckResult(check=name, verdict=verdict, cause=cause, summary=summary, remedy="do this")


def _cell(name: str, *checks: CheckResult, boot: BootFacts | None = _BOOT) -> Cell:
    kernel = KernelFacts(name=name, series="5.10", arch="x86_64", release="5.10.0-30")
    return Cell(kernel=kernel, boot=boot, checks=checks, console="kernels/x/console.log")


def _run(*cells: Cell, checks: tuple[CheckResult, ...] = ()) -> Run:
    facts = RunFacts(
        started="2026-11-22T12:00:00+00:00", duration_s=12.5, command="inv kernel-matrix",
        backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", host="Linux",
        harness="0.1.0", commit="abc", compiler="clang 14", lock_sha256="00",
    )  # fmt: skip
    subject = SubjectFacts(name="dns_monitor", path="dns_monitor.bpf.o", sha256="11")
    return Run(schema=1, run=facts, subject=subject, checks=checks, cells=cells)


_PASS = _check("load", Verdict.PASS)
_FAIL = _check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED, "R1 invalid mem access")
_UNKNOWN = _check("load", Verdict.UNKNOWN, Cause.GUEST_LOST, "QEMU killed")
_UNAVAILABLE = _check("boot", Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, "no mirror")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Reports are redrawn from JSON alone."""
    figure = Figure(name="insns", value=5585.0, unit="1", limit=20000.0)
    check = replace(_PASS, figures=(figure,), evidence=(Evidence(title="log", text="a\nb"),))
    run = _run(_cell("5.10-oldest", check), _cell("5.4-oldest", _UNAVAILABLE, boot=None))
    path = tmp_path / "results.json"

    results.write(run, path)

    assert results.read(path) == run


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
        ([_cell("a", _PASS)], True, 0),
        ([_cell("a", _PASS), _cell("b", _UNAVAILABLE)], False, 0),
        ([_cell("a", _PASS), _cell("b", _UNAVAILABLE)], True, 3),
        ([_cell("a", _PASS), _cell("b", _UNKNOWN)], False, 3),
        ([_cell("a", _FAIL), _cell("b", _UNKNOWN)], False, 1),
        ([_cell("b", _UNAVAILABLE)], False, 3),
        ([], False, 3),
    ],
)
def test_the_exit_status_says_what_is_known(cells: list[Cell], strict: bool, status: int) -> None:
    """0 only when something passed and nothing failed or stayed open."""
    assert job.status(_run(*cells), strict=strict) == status


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A full disk or a file in the way is one clear error, and no half-written JSON."""
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match="cannot write"):
        results.write_atomically(tmp_path / "file" / "x.json", b"{}")

    results.write_atomically(tmp_path / "x.json", b"{}")
    assert json.loads((tmp_path / "x.json").read_text()) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.json"]
