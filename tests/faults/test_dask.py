# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster of processes on this machine: workers die, the scheduler dies, nobody waits."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import harness
from harness import journal, paths, process, results, rundir
from harness.cache import Cache
from harness.results import Cause, Verdict
from tests.conftest import NEWEST, OLDEST
from tests.vm.matrix import leftovers, until

_START_S = 120.0  # a Python with Dask takes two seconds on an idle machine
_RUN_S = 240.0  # a boot takes five
_SOON_S = 60.0
# What a worker need not make anew: it is found by hash. Kernels are unpacked by each for itself.
_SHARED = ("base-root", "debs", "btf-index", "accel", "locks")
_KERNELS = f"{OLDEST},6.1-oldest,6.1-newest,{NEWEST}"
_SETTINGS = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}  # also to find a scheduler again


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker, with a cache as if on a machine of its own."""

    child: process.Child
    cache: Cache
    log: Path

    @property
    def left(self) -> list[str]:
        return leftovers(self.cache, self.child.pid)

    def answers(self) -> bool:
        """Whether a guest of its runs."""
        return any(trace.startswith("process") for trace in self.left)


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, cache: Cache, directory: Path, stack: contextlib.ExitStack) -> None:
        self._cache = cache
        self._directory = directory
        self._stack = stack
        self._count = 0
        told = directory / "scheduler.json"
        self.scheduler = self._dask(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", told,
        )  # fmt: skip
        # Made, and written a moment later.
        complete = until(
            lambda: told.exists() and told.read_text().endswith("}"), timeout_s=_START_S
        )
        assert complete, self.logs()
        self.address = str(json.loads(told.read_text())["address"]).removeprefix("tcp://")

    def worker(self, cache: Cache | None = None, **environment: str) -> Worker:
        """Another worker; `cache` of one that died, as if it were started again."""
        cache = cache or self._own_cache()
        child = self._dask(
            "worker", f"tcp://{self.address}", "--no-nanny", "--nthreads", "1", "--no-dashboard",
            KERNEL_MATRIX_CACHE=str(cache.root), **environment,
        )  # fmt: skip
        return Worker(child=child, cache=cache, log=self._directory / f"{self._count}.log")

    @contextlib.contextmanager
    def run(self, report: Path, *words: str) -> Iterator[tuple[process.Child, Path]]:
        """`kernel-matrix` on this cluster, and what it says."""
        log = report.with_suffix(".log")
        argv = [
            "env", "--default-signal=INT", sys.executable, "-m", "harness", "kernel-matrix",
            "--executor", f"dask://{self.address}", "--backend", "local", "--checks", "load",
            "--boot-timeout", "300", "--out", str(report), *words,
        ]  # fmt: skip
        with (
            log.open("wb") as said,
            process.held(
                argv, stdout=said, stderr=said,
                env={"KERNEL_MATRIX_CACHE": str(self._cache.root), **_SETTINGS},
            ) as child,
        ):  # fmt: skip
            yield child, log

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self._directory.glob("*.log")))

    def _own_cache(self) -> Cache:
        root = self._directory / f"cache-{self._count}"
        root.mkdir()
        for kind in _SHARED:
            (root / kind).symlink_to(self._cache.directory(kind))
        return Cache(root=root)

    def _dask(self, *words: object, **environment: str) -> process.Child:
        self._count += 1
        log = self._stack.enter_context((self._directory / f"{self._count}.log").open("wb"))
        # The script: `python -m` would put this directory, with our own harness, in front.
        script = Path(sys.executable).with_name("dask")
        environment |= {"DASK_TEMPORARY_DIRECTORY": str(self._directory / "space")}
        held = process.held(
            [sys.executable, script, *map(str, words)], stdout=log, stderr=log, env=environment
        )
        return self._stack.enter_context(held)


@pytest.fixture
def cluster(cache: Cache) -> Iterator[Cluster]:
    # Sockets of guests are below it: a path of pytest's would be too long for them.
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dask-")))
        yield Cluster(cache, directory, stack)


def _one_that_answers(workers: list[Worker], child: process.Child, log: Path) -> Worker:
    until(
        lambda: child.poll() is not None or any(worker.answers() for worker in workers),
        timeout_s=_RUN_S,
    )
    found = [worker for worker in workers if worker.answers()]
    assert found, log.read_text()
    return found[0]


def test_a_worker_that_is_killed_in_mid_cell_costs_no_verdict(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Three workers, one dies, and is started again as a machine's init would do.

    A cell is in the report as soon as it comes back, not at the end.
    """
    workers = [cluster.worker() for _ in range(3)]
    report = tmp_path / "report"
    with cluster.run(report, "--kernels", _KERNELS) as (child, log):
        victim = _one_that_answers(workers, child, log)
        victim.child.kill()
        victim.child.wait(10)
        assert until(lambda: not victim.answers(), timeout_s=_SOON_S)
        again = cluster.worker(victim.cache)
        cells = report / journal.CELLS
        until(lambda: child.poll() is not None or any(cells.glob("*.json")), timeout_s=_RUN_S)
        assert child.poll() is None, f"no cell was there before the end: {log.read_text()}"
        assert 1 <= len(list(cells.glob("*.json"))) < len(_KERNELS.split(","))
        assert not (report / "results.json").exists()
        assert child.wait(_RUN_S) == 0, log.read_text() + cluster.logs()

    found = results.read(report / "results.json")
    assert [(one.kernel.name, one.verdict) for one in found.cells] == [
        (name, Verdict.PASS) for name in _KERNELS.split(",")
    ]
    for cell in found.cells:  # the evidence came back with the verdict
        assert "subject phase begins" in (report / cell.console).read_text(errors="replace")
    survivors = [worker for worker in workers if worker is not victim]
    assert all((worker.cache.root / "kernels").is_dir() for worker in survivors)
    assert [trace for worker in (*survivors, again) for trace in worker.left] == []
    rundir.remove_left(victim.cache)  # what the first cell there does, if it had none any more
    assert victim.left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda one: one.name)
def test_cells_that_nobody_waits_for_any_more_end(
    cluster: Cluster, tmp_path: Path, cache: Cache, number: signal.Signals
) -> None:
    """Interrupted it says what was not reached; killed it says nothing, and its guests end too."""
    workers = [cluster.worker()]
    report = tmp_path / "report"
    with cluster.run(report, "--kernels", f"{OLDEST},{NEWEST}") as (child, log):
        _one_that_answers(workers, child, log)
        child.send_signal(number)
        status = child.wait(_SOON_S)
    assert until(lambda: not workers[0].left, timeout_s=_SOON_S), cluster.logs()
    rundir.remove_left(cache)

    if number is signal.SIGKILL:
        assert status == -signal.SIGKILL
        return
    assert status == 3, log.read_text()
    found = results.read(report / "results.json")
    assert [one.verdict for one in found.cells] == [Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert "interrupted" in found.cells[1].checks[0].summary


def test_without_its_scheduler_a_run_ends_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    workers = [cluster.worker()]
    report = tmp_path / "report"
    with cluster.run(report, "--kernels", f"{OLDEST},{NEWEST}") as (child, log):
        _one_that_answers(workers, child, log)
        cluster.scheduler.kill()
        assert child.wait(_RUN_S) == 3, log.read_text()

    found = results.read(report / "results.json")
    assert [one.checks[0].cause for one in found.cells] == [Cause.INFRA, Cause.INFRA]
    assert f"'{cluster.address}' went away" in found.cells[0].checks[0].summary
    assert "Traceback" not in log.read_text()
    assert until(lambda: not workers[0].left, timeout_s=_RUN_S), cluster.logs()


def test_a_worker_with_another_harness_is_refused_before_anything_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Two that differ may judge differently, and nobody would know which."""
    package = Path(harness.__file__).parent
    other = tmp_path / "other" / "harness"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    (other / "errors.py").write_bytes((other / "errors.py").read_bytes() + b"# another\n")
    if not (other / "data" / "kernels").exists():
        (other.parent / "kernels").symlink_to(paths.catalogue_dir())
    cluster.worker(PYTHONPATH=str(other.parent))
    report = tmp_path / "report"
    with cluster.run(report, "--kernels", OLDEST) as (child, log):
        assert child.wait(_START_S) == 2

    assert "has harness 0." in log.read_text()
    assert "install the same version on every machine" in log.read_text()
    assert not (report / "results.json").exists()


def test_a_scheduler_without_a_worker_is_an_error_and_no_wait(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.run(tmp_path / "report", "--kernels", OLDEST) as (child, log):
        assert child.wait(_START_S) == 3

    assert f"the Dask scheduler at '{cluster.address}' has no worker" in log.read_text()


def test_where_no_scheduler_listens_that_is_said_at_once(cluster: Cluster, tmp_path: Path) -> None:
    cluster.scheduler.kill()
    cluster.scheduler.wait(10)
    with cluster.run(tmp_path / "report", "--kernels", OLDEST) as (child, log):
        assert child.wait(_START_S) == 3

    assert f"no Dask scheduler answers at '{cluster.address}'" in log.read_text()
