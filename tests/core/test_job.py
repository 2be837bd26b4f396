# SPDX-License-Identifier: Apache-2.0
"""From words to a request, and from verdicts to an exit status; nothing is fetched or booted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import checks, inventory, job, paths, pipeline, results, supply
from harness.cache import Cache
from harness.catalogue import Kernel
from harness.errors import UsageError
from harness.results import (
    Cause,
    Cell,
    CheckResult,
    KernelFacts,
    Run,
    RunFacts,
    SubjectFacts,
    Verdict,
)
from harness.sitting import Request
from tests.supply.images import btf, bzimage, vmlinux


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(root=tmp_path / "cache")


@pytest.fixture
def ask(cache: Cache) -> Callable[..., Request]:
    return lambda **words: job.request(cache=cache, **words)


def test_without_words_the_gate_s_kernels_and_every_quick_check_are_asked(
    ask: Callable[..., Request],
) -> None:
    request = ask()

    series = {kernel.series for kernel in request.kernels}
    assert {"5.4", "5.10", "5.15", "6.0", "6.1", "6.6", "6.12", "6.18"} < series
    # The observer's manifest has commands, so they are run without being asked for.
    quick = [check for check in checks.ALL if not check.thorough or check.name == "command"]
    assert list(request.checks) == quick
    assert {"load", "function", "splat"} <= {check.name for check in quick}
    assert (request.jobs, request.boot_timeout_s) == (0, None)
    assert request.report_dir.parent.name == "reports"


def test_words_choose_kernels_and_checks_in_their_own_order(ask: Callable[..., Request]) -> None:
    request = ask(kernels="7.3,5.10-oldest", check_names=" splat, load ,", out="x")

    assert {kernel.name for kernel in request.kernels} == {
        "5.10-oldest", "7.3-oldest", "7.3-newest",
    }  # fmt: skip
    assert [check.name for check in request.checks] == ["load", "splat"]
    assert request.report_dir == Path.cwd() / "x"
    assert ask(check_names="all,load").checks == checks.ALL


def test_a_shard_knows_the_whole_matrix(ask: Callable[..., Request]) -> None:
    """Whoever merges the shards must see which kernels never came back."""
    whole = ("5.10-oldest", "5.10-newest", "6.1-oldest")
    request = ask(kernels="5.10,6.1-oldest", shard="2/2")

    assert request.planned == whole
    assert [kernel.name for kernel in request.kernels] == ["5.10-newest"]
    assert ask(kernels="5.10,6.1-oldest").planned == whole


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"kernels": "4.4"}, "unknown kernel '4.4'"),
        ({"check_names": "load,lod"}, "unknown check 'lod'"),
        ({"backend": "qemu"}, "unknown backend 'qemu'"),
        ({"object_path": "a", "manifest_path": "b"}, "two subjects"),
        ({"object_path": "/no/such.o"}, "/no/such.o"),
        ({"kernel_dirs": [Path("/no/such")]}, "'/no/such' is no directory"),
    ],
    ids=["kernel", "check", "backend", "two subjects", "object", "directory"],
)
def test_a_wrong_request_is_refused_before_anything_is_done(
    ask: Callable[..., Request], cache: Cache, words: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        ask(**words)

    assert not cache.root.exists()


@pytest.fixture
def directory(tmp_path: Path) -> Callable[[str], Path]:
    """A --kernel-dir with a kernel of that series."""

    def make(name: str, series: str = "5.10") -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        release = f"{series}.7-mine"
        (path / "vmlinuz").write_bytes(bzimage(release, vmlinux(release, with_btf=btf())))
        return path

    return make


def test_a_directory_alone_is_all_that_is_booted(
    ask: Callable[..., Request], directory: Callable[..., Path]
) -> None:
    request = ask(kernel_dirs=[directory("mine")])

    assert request.kernels == ()
    assert [(one.name, one.series) for one in request.directories] == [("mine", "5.10")]


def test_a_directory_stands_in_for_its_series(
    ask: Callable[..., Request], directory: Callable[..., Path]
) -> None:
    request = ask(kernel_dirs=[directory("mine")], kernels="5.10,6.1-oldest")

    assert [kernel.name for kernel in request.kernels] == ["6.1-oldest"]


def test_two_directories_of_one_name_are_refused(
    ask: Callable[..., Request], directory: Callable[..., Path]
) -> None:
    """Their cells and consoles would overwrite each other."""
    with pytest.raises(UsageError, match="two --kernel-dir directories are called 'mine'"):
        ask(kernel_dirs=[directory("a/mine"), directory("b/mine")])


def test_a_directory_with_the_name_of_another_series_kernel_is_refused(
    ask: Callable[..., Request], directory: Callable[..., Path]
) -> None:
    """The answer of one would be taken for the other's."""
    with pytest.raises(UsageError, match=r"'6\.1-oldest' is a kernel of the catalogue and a"):
        ask(kernel_dirs=[directory("6.1-oldest")], kernels="6.1-oldest")


def test_guests_at_once_are_as_many_as_asked_or_as_cores(ask: Callable[..., Request]) -> None:
    """Memory decides when each guest is about to start (harness.admission)."""
    request = ask()

    assert pipeline.jobs_for(replace(request, jobs=5)) == 5
    assert 1 <= pipeline.jobs_for(request) <= len(os.sched_getaffinity(0))


def test_the_estimate_grows_with_rounds_of_guests(ask: Callable[..., Request]) -> None:
    """Three kernels two at a time take as long as four."""
    kernels = ask(kernels="all").kernels
    four, three = (replace(ask(), kernels=kernels[:count]) for count in (4, 3))

    assert pipeline.estimate_s(three, 2) == pipeline.estimate_s(four, 2)
    assert pipeline.estimate_s(four, 1) == 2 * pipeline.estimate_s(four, 2)
    assert pipeline.estimate_s(replace(four, checks=()), 2) < pipeline.estimate_s(four, 2)


def _cell(verdict: Verdict) -> Cell:
    facts = KernelFacts(name=str(verdict), series="5.10", arch="x86_64")
    check = CheckResult(check="boot", verdict=verdict, cause=Cause.NONE)
    return Cell(kernel=facts, boot=None, checks=(check,))


def _finished(compiled: Verdict, *cells: Verdict) -> Run:
    facts = RunFacts(
        started="2026-01-01T00:00:00+00:00", duration_s=1.0, command="", backend="local",
        accelerator="tcg", accelerator_reason="", host="", harness="", commit="", compiler="",
        lock_sha256="",
    )  # fmt: skip
    return Run(
        schema=results.SCHEMA, run=facts, subject=SubjectFacts(name="x", path="", sha256=""),
        checks=(CheckResult(check="compile", verdict=compiled),),
        cells=tuple(_cell(verdict) for verdict in cells),
    )  # fmt: skip


_PASS, _FAIL, _UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN
_AWAY, _CANNOT = Verdict.UNAVAILABLE, Verdict.UNSUPPORTED


@pytest.mark.parametrize(
    ("compiled", "cells", "status", "strict"),
    [
        (_PASS, [_PASS, _PASS], 0, 0),
        (_PASS, [_PASS, _AWAY], 0, 3),
        (_PASS, [_PASS, _CANNOT], 0, 0),
        (_PASS, [_AWAY, _AWAY], 3, 3),
        (_PASS, [_PASS, _UNKNOWN], 3, 3),
        (_PASS, [_UNKNOWN, _FAIL], 1, 1),
        (_PASS, [], 3, 3),
        (_FAIL, [], 1, 1),
    ],
    ids=["pass", "one unavailable", "one unsupported", "none to be had", "one unknown", "fail wins",
         "no kernel", "not compiled"],
)  # fmt: skip
def test_the_exit_status_says_whether_we_know(
    compiled: Verdict, cells: list[Verdict], status: int, strict: int
) -> None:
    """0 only for what was really asked and held."""
    run = _finished(compiled, *cells)

    assert (job.status(run, strict=False), job.status(run, strict=True)) == (status, strict)


def test_reports_are_written_and_the_latest_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = [
        path
        for name in ("first", "second")
        for path in job.write_reports(_finished(_PASS, _PASS), tmp_path / "reports" / name)
    ]

    assert Path("reports/second/results.json") in written
    assert all(path.is_file() for path in written)
    assert (tmp_path / "reports" / "latest").resolve().name == "second"


def test_a_report_elsewhere_links_nothing(tmp_path: Path) -> None:
    job.write_reports(_finished(_PASS, _PASS), tmp_path / "mine")

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_project_s_own_catalogue_goes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever installs the package keeps kernels/ beside their own sources."""
    ours = paths.catalogue_dir()
    monkeypatch.chdir(tmp_path)
    without = paths.catalogue_dir()
    (tmp_path / "kernels").mkdir()
    empty = paths.catalogue_dir()
    (tmp_path / "kernels" / "5.10.toml").touch()

    assert (without, empty) == (ours, ours)
    assert paths.catalogue_dir() == tmp_path / "kernels"
    assert paths.default_manifest().is_file()


@pytest.mark.parametrize("words", ["lts", "5.10,6.1"])
def test_one_kernel_means_one_series(words: str, cache: Cache) -> None:
    with pytest.raises(UsageError, match="names several kernels"):
        inventory.find_kernel(words, cache, lambda event: None)


def test_a_series_alone_is_its_newest(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, directory: Callable[..., Path]
) -> None:
    asked: list[str] = []
    files = supply.from_directory(directory("mine"), cache=cache)

    def obtain(kernel: Kernel, **_: object) -> supply.KernelFiles:
        asked.append(kernel.name)
        return files

    monkeypatch.setattr(supply, "obtain", obtain)
    for words in ("5.10", "5.10-oldest"):
        inventory.find_kernel(words, cache, lambda event: None)
    found = inventory.find_kernel(str(directory("other")), cache, lambda event: None)

    assert asked == ["5.10-newest", "5.10-oldest"]
    assert found.name == "other"
