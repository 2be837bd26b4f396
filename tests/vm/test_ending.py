# SPDX-License-Identifier: Apache-2.0
"""Runs that a person ends, that are killed, and that share a cache: as the command line has them."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import build, job, paths, pipeline, process, results
from harness.build import CompileError
from harness.cache import Cache
from harness.results import Verdict
from harness.sitting import Request
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST
from tests.vm.matrix import containers, leftovers, qemus, run_directories, until

pytestmark = pytest.mark.vm

_RUN_S = 240.0  # a run of two boots takes ten seconds on an idle machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """`kernel-matrix` as somebody else's process."""

    child: process.Child
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        return self.child.pid

    def comes_to(self, holds: Callable[[], object]) -> bool:
        """Whether that happens before the run ends."""
        until(lambda: holds() or self.child.poll() is not None, timeout_s=_RUN_S)
        return self.child.poll() is None


@contextlib.contextmanager
def _started(words: Sequence[object], directory: Path, cache: Cache) -> Iterator[Running]:
    directory.mkdir()
    out, err = directory / "out", directory / "err"
    # A test run in the background of a shell would hand down that SIGINT is ignored.
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "harness", "kernel-matrix", *words]
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        process.held(
            [str(word) for word in argv], stdout=stdout, stderr=stderr,
            env={"KERNEL_MATRIX_CACHE": str(cache.root)},
        ) as child,
    ):  # fmt: skip
        yield Running(child=child, out=out, err=err)


@pytest.mark.usefixtures("oldest", "newest", "observer")
def test_an_interrupt_keeps_what_is_finished_and_says_what_is_not(
    cache: Cache, tmp_path: Path
) -> None:
    words = ["--kernels", f"{OLDEST},{NEWEST}", "--jobs", "1", "--checks", "splat", "--backend",
             "local", "--boot-timeout", "300", "--out", tmp_path / "report"]  # fmt: skip
    with _started(words, tmp_path / "run", cache) as run:
        boots = f"{NEWEST:<16} boot"
        assert run.comes_to(lambda: boots in run.err.read_text()), run.err.read_text()
        run.child.send_signal(signal.SIGINT)
        status = run.child.wait(60)

    found = results.read(tmp_path / "report" / "results.json")
    assert status == 3
    assert [cell.verdict for cell in found.cells] == [Verdict.PASS, Verdict.UNKNOWN]
    assert found.cells[1].deciding is not None
    assert "interrupted" in found.cells[1].deciding.summary
    assert "interrupted" in run.out.read_text()
    assert "Traceback" not in run.err.read_text()
    assert leftovers(cache, run.pid) == []


def _needs(backend: str) -> Callable[[Cache, int], list[object]]:
    """What shows that a guest of that harness runs."""
    if backend == "local":
        return lambda cache, pid: [*qemus(cache, pid)]
    return lambda cache, pid: [*containers(pid)]


@pytest.mark.usefixtures("newest", "observer")
def test_a_harness_killed_outright_leaves_nothing_that_the_next_start_does_not_remove(
    cache: Cache, tmp_path: Path, backend: str
) -> None:
    """QEMU on this machine dies with it; a container and the directory wait for the next start."""
    guests = _needs(backend)
    words = ["--kernels", NEWEST, "--checks", "splat", "--backend", backend, "--boot-timeout", "600",
             "--append", "rdinit=/bin/cat", "--out", tmp_path / "report"]  # fmt: skip
    with _started(words, tmp_path / "run", cache) as run:
        assert run.comes_to(lambda: guests(cache, run.pid)), run.err.read_text()
        run.child.kill()
        run.child.wait(10)
    ended = until(lambda: not qemus(cache, run.pid))
    left = run_directories(cache, run.pid)

    _start_again(cache, tmp_path)

    assert ended or backend == "docker"
    assert len(left) == 1
    assert leftovers(cache, run.pid) == []
    assert not (tmp_path / "report" / "results.json").exists()


def _start_again(cache: Cache, tmp_path: Path) -> None:
    """Any run starts by removing what the dead left; this one goes no further."""

    def subject(*_: object) -> build.Built:
        raise CompileError("the test ends here")

    request = Request(
        subject=subject, kernels=(), directories=(), lock=paths.catalogue_dir() / "kernels.lock",
        backend="local", jobs=1, checks=(), report_dir=tmp_path / "again",
    )  # fmt: skip
    pipeline.run(request, cache, lambda event: None)


@pytest.mark.usefixtures("oldest", "newest", "observer")
def test_two_runs_at_once_share_a_cache(
    cache: Cache, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One builds, the other waits for it; each has guests of its own."""
    shared = Cache(root=tmp_path_factory.mktemp("c"))  # short: a socket's path goes in 108 bytes
    for kind in ("accel", "base-root", "debs", "kernels"):
        if (cache.root / kind).is_dir():
            (shared.root / kind).symlink_to(cache.root / kind)
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(
                _started(
                    ["--kernels", name, "--checks", "load,splat", "--backend", "local", "--jobs",
                     "1", "--boot-timeout", "300", "--out", tmp_path / f"report-{name}"],
                    tmp_path / name, shared,
                )
            )
            for name in (OLDEST, NEWEST)
        ]  # fmt: skip
        statuses = [run.child.wait(_RUN_S) for run in runs]

    assert statuses == [0, 0], [run.err.read_text() for run in runs]
    said = "".join(run.err.read_text() for run in runs)
    for deed in ("building bpf", "building guestbin", "packing the guest's base archive"):
        assert said.count(deed) == 1, said
    for name in (OLDEST, NEWEST):
        found = results.read(tmp_path / f"report-{name}" / "results.json")
        assert [cell.kernel.name for cell in found.cells] == [name]
    assert list((shared.root / "run").iterdir()) == []
    assert [leftovers(shared, run.pid) for run in runs] == [[], []]


@pytest.mark.usefixtures("cache")
def test_a_refused_object_makes_the_exit_status_1_and_the_report_says_why(
    compiled: Callable[[str], Path], cache: Cache, oldest: KernelFiles, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    words = ["--object", compiled("refused"), "--kernels", oldest.name, "--checks", "load",
             "--boot-timeout", "300", "--backend", "local", "--out", report]  # fmt: skip

    with _started(words, tmp_path / "run", cache) as run:
        status = run.child.wait(_RUN_S)

    assert status == 1, run.err.read_text()
    for text in (run.out.read_text(), (report / "report.md").read_text()):
        assert "verifier-rejected" in text
        assert "unchecked" in text
    assert (report / "kernels" / oldest.name / "verifier-unchecked.log").is_file()
    assert job.status(results.read(report / "results.json"), strict=False) == 1
