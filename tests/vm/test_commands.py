# SPDX-License-Identifier: Apache-2.0
"""The tasks that boot or fetch, as a person types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import paths, results
from harness.build import Built
from harness.cache import Cache
from harness.results import Verdict
from harness.supply import KernelFiles
from tests.typed import Type, typing
from tests.vm.matrix import leftovers

pytestmark = pytest.mark.vm

_NOWHERE_TO_BE_HAD = """\
series = "4.99"
tier = "edge"
archs = ["x86_64"]

[[source]]
kind = "snapshot"
timestamp = "20220201T000000Z"
suites = ["sid"]
"""


@pytest.fixture
def typed(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Type:  # fmt: skip
    """`kernel-matrix WORDS…` in an empty directory."""
    monkeypatch.setenv("KERNEL_MATRIX_CACHE", str(cache.root))
    monkeypatch.chdir(tmp_path)
    return typing(monkeypatch, capfd)


def test_a_command_s_output_and_status_come_through(
    typed: Type, oldest: KernelFiles, tmp_path: Path, backend: str, cache: Cache
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "words").write_text("carried along\n")
    script = "uname -r; cat words >&2; exit 7"

    status, out, err = typed(
        ["run", "--kernel", oldest.name, "--src", "mine", "--backend", backend, "--", "sh", "-c",
         script]
    )  # fmt: skip

    assert (status, out) == (7, f"{oldest.release}\n")
    assert "carried along\n" in err
    assert leftovers(cache) == []


def test_a_command_over_its_deadline_is_killed_and_said(typed: Type, oldest: KernelFiles) -> None:
    status, out, err = typed(
        [
            "run",
            "--kernel",
            oldest.name,
            "--timeout",
            "2",
            "--",
            "sh",
            "-c",
            "echo begun; sleep 600",
        ]
    )

    assert (status, out) == (124, "begun\n")
    assert "did not end within 2 s" in err


def test_a_cached_kernel_is_fetched_at_once_and_says_where_it_is(
    typed: Type, oldest: KernelFiles
) -> None:
    status, out, _ = typed(["kernels", "fetch", "--kernels", oldest.name])

    assert status == 0
    assert out.split() == [oldest.name, oldest.release, str(oldest.vmlinuz)]


def test_a_run_s_report_is_redrawn_from_its_results(
    typed: Type, oldest: KernelFiles, tmp_path: Path
) -> None:
    """results.json is all that a report needs; nothing boots for it."""
    words = ["kernel-matrix", "--kernels", oldest.name, "--checks", "splat", "--backend", "local",
             "--boot-timeout", "300"]  # fmt: skip
    status, out, err = typed(words)
    latest = tmp_path / "reports" / "latest"
    drawn = (latest / "report.md").read_bytes()
    (latest / "report.md").unlink()

    again, said, _ = typed(["report"])

    assert (status, again) == (0, 0)
    assert "Traceback" not in err
    assert oldest.name in out
    assert "reports/latest/report.md" in said
    assert (latest / "report.md").read_bytes() == drawn


def test_a_kernel_that_cannot_be_had_is_said_and_the_others_are_judged(
    typed: Type, oldest: KernelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 0: what could be asked holds; with --strict, or when nothing else ran, 3."""
    shutil.copytree(paths.catalogue_dir(), tmp_path / "kernels")
    (tmp_path / "kernels" / "4.99.toml").write_text(_NOWHERE_TO_BE_HAD)
    monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", "http://127.0.0.1:9")
    words = ["kernel-matrix", "--checks", "splat", "--backend", "local", "--boot-timeout", "300",
             "--out"]  # fmt: skip

    status, out, _ = typed([*words, "both", "--kernels", f"{oldest.name},4.99-newest"])
    strict, _, _ = typed([*words, "one", "--kernels", "4.99-newest", "--strict"])

    assert (status, strict) == (0, 3)
    assert "unavailable" in out
    cells = results.read(tmp_path / "both" / "results.json").cells
    found = {cell.kernel.name: cell for cell in cells}
    assert found[oldest.name].verdict is Verdict.PASS
    assert found["4.99-newest"].verdict is Verdict.UNAVAILABLE
    assert found["4.99-newest"].deciding is not None
    assert "127.0.0.1:9" in found["4.99-newest"].deciding.summary


def test_a_kernel_that_someone_built_is_booted(
    typed: Type, newest: KernelFiles, tmp_path: Path
) -> None:
    """A directory with nothing but the image: name and version are the image's own."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bzImage").symlink_to(newest.vmlinuz)
    words = ["kernel-matrix", "--kernel-dir", "mine", "--checks", "load,splat", "--backend",
             "local", "--boot-timeout", "300", "--out", "report"]  # fmt: skip

    status, _, err = typed(words)

    assert status == 0, err
    (cell,) = results.read(tmp_path / "report" / "results.json").cells
    assert (cell.kernel.name, cell.kernel.release) == ("mine", newest.release)
    assert cell.verdict is Verdict.PASS


def test_the_observer_resolves_on_a_kernel_of_the_catalogue(
    typed: Type, newest: KernelFiles, observer: Built
) -> None:
    status, out, err = typed(["resolve", observer.subject.object, "--kernels", newest.name])

    assert status == 0, err
    assert newest.name in out
    assert "fail" not in out


def test_the_subject_is_built_and_its_place_printed(typed: Type, observer: Built) -> None:
    status, out, _ = typed(["build"])

    assert (status, out) == (0, f"pass: {observer.subject.object}\n")
