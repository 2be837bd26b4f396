# SPDX-License-Identifier: Apache-2.0
"""The verifier's cost in real guests: ours is as agreed, a dearer program is not and why is shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import baseline, build, paths, process
from harness.baseline import Baseline, Cost, KernelCosts
from harness.build import Built
from harness.cache import Cache
from harness.checks import hotlines, load, verifier
from harness.results import Cause, CheckResult, Run, Verdict
from harness.supply import KernelFiles
from tests.objcheck.test_hotlines import marked_line
from tests.vm.matrix import Matrix

pytestmark = pytest.mark.vm

_SOURCE = Path(__file__).parents[1] / "objcheck" / "src" / "hot.bpf.c"
_ASKED = (load.CHECK, verifier.CHECK, hotlines.CHECK)
_MANIFEST = """
[subject]
name = "hot"
object = "hot.bpf.o"
baseline = "b.json"

[limits]
insns_growth = 0.1

[programs.straight]
max_insns_processed = 2
"""


def _run(cache: Cache, kernels: tuple[KernelFiles, ...], subject: Built, report_dir: Path) -> Run:
    return Matrix(
        cache=cache, kernels=kernels, subject=subject, backend="local", checks=_ASKED,
        append=(), boot_timeout_s=240.0, report_dir=report_dir,
    ).run()  # fmt: skip


def _said(run: Run, kernel: str) -> dict[str, CheckResult]:
    cell = next(cell for cell in run.cells if cell.kernel.name == kernel)
    return {check.check: check for check in cell.checks}


def test_the_observer_costs_what_was_agreed(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, tmp_path: Path
) -> None:
    """The committed baseline is of these kernels; the hot lines are of the observer's own files."""
    subject = build.from_manifest(paths.default_manifest(), cache, lambda text: None)

    run = _run(cache, (oldest, newest), subject, tmp_path / "report")

    for files in (oldest, newest):
        said = _said(run, files.name)
        assert {name: said[name].verdict for name in ("load", "verifier", "hot-lines")} == {
            "load": Verdict.PASS, "verifier": Verdict.PASS, "hot-lines": Verdict.PASS,
        }  # fmt: skip
        assert "no baseline" not in said["verifier"].summary
        assert "compared with" not in said["verifier"].summary
        assert said["verifier"].figures[0].value > 3000
        assert "dns_" in said["hot-lines"].summary


@pytest.fixture
def dearer(tmp_path: Path, oldest: KernelFiles, newest: KernelFiles) -> Built:
    """A subject whose loop has more rounds than when somebody last agreed to its cost."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    includes = [f"-I{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
    process.run(
        ["clang", "-O2", "-g", "-target", "bpf", *includes, "-c", _SOURCE, "-o",
         tmp_path / "hot.bpf.o"],
        timeout_s=60,
    )  # fmt: skip
    costs = tuple(
        KernelCosts(
            kernel=files.name, series=files.series, arch=files.arch, release=files.release,
            compiler="", programs={"loops": Cost(processed=1000), "removed": Cost(processed=3)},
        )
        for files in (oldest, newest)
    )  # fmt: skip
    made = Baseline(schema=baseline.SCHEMA, subject="hot", kernels=costs)
    (tmp_path / "b.json").write_bytes(baseline.encoded(made))
    manifest = tmp_path / "hot.toml"
    manifest.write_text(_MANIFEST)
    return build.from_manifest(manifest, Cache(root=tmp_path / "cache"), lambda text: None)


def test_a_dearer_program_fails_and_its_line_is_on_top(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, dearer: Built, tmp_path: Path
) -> None:
    """It loads; it is within the kernel's limit; only the comparison tells."""
    run = _run(cache, (oldest, newest), dearer, tmp_path / "report")

    for files in (oldest, newest):
        said = _said(run, files.name)
        assert said["load"].verdict is Verdict.PASS
        found = said["verifier"]
        assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.LIMIT_EXCEEDED)
        grown, *events = found.summary.splitlines()
        assert grown.startswith("loops: ")
        assert grown.endswith("over the baseline's 1,000; 1,100 are allowed")
        assert events == ["straight is new", "removed is gone"]
        assert said["hot-lines"].verdict is Verdict.PASS
        table = (tmp_path / "report" / said["hot-lines"].evidence[0].path).read_text()
        first = next(line for line in table.splitlines() if "hot.bpf.c:" in line)
        assert f"hot.bpf.c:{marked_line()} " in first
        assert "mix" in first
