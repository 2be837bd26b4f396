# SPDX-License-Identifier: Apache-2.0
"""Runs that are ended at any moment: what was finished stays, nothing is left, --resume goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import journal, paths, process, results, rundir
from harness.cache import Cache
from harness.results import Run, Verdict
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST
from tests.vm.matrix import containers, engine, leftovers, need_engine, until

_RUN_S = 240.0  # a boot takes five seconds on an idle machine, ten times that beside a timed run
_SOON_S = 20.0  # "a few seconds", on a machine with more to do than cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """`kernel-matrix` as somebody else's process."""

    child: process.Child
    out: Path
    err: Path

    @property
    def said(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def comes_to(self, holds: Callable[[], object]) -> None:
        """Wait until that happens; it must before the run ends."""
        until(lambda: holds() or self.child.poll() is not None, timeout_s=_RUN_S)
        assert self.child.poll() is None, self.said

    def told(self, number: signal.Signals) -> tuple[int, float]:
        """Its status after that signal, and how long it took to end, in seconds."""
        began = time.monotonic()
        self.child.send_signal(number)
        return self.child.wait(60), time.monotonic() - began


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The harness as it is now: its sources are an input, and may be edited while tests run."""
    root = tmp_path_factory.mktemp("checkout")
    here = Path(rundir.__file__).parent
    for path in (here, paths.catalogue_dir(), paths.default_manifest().parent):
        leave_out = shutil.ignore_patterns("__pycache__", "*.bpf.o")
        shutil.copytree(path, root / path.name, ignore=leave_out)
    return root


@pytest.fixture
def start(
    tmp_path: Path, checkout: Path
) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    count = iter(range(100))

    @contextlib.contextmanager
    def begin(*words: object, cache: Cache, **environment: str) -> Iterator[Running]:
        directory = tmp_path / f"run-{next(count)}"
        directory.mkdir()
        out, err = directory / "out", directory / "err"
        # A test run in the background of a shell would hand down that SIGINT is ignored.
        argv = ["env", "--chdir", checkout, "--default-signal=INT,HUP", sys.executable, "-m", "harness",
                "kernel-matrix", *words]  # fmt: skip
        with (
            out.open("wb") as stdout,
            err.open("wb") as stderr,
            process.held(
                [str(word) for word in argv], stdout=stdout, stderr=stderr,
                env={"KERNEL_MATRIX_CACHE": str(cache.root), **environment},
            ) as child,
        ):  # fmt: skip
            yield Running(child=child, out=out, err=err)

    return begin


Start = Callable[..., contextlib.AbstractContextManager[Running]]


def _boots(run: Running, kernel: str) -> bool:
    return f"{kernel:<16} boot" in run.err.read_text()


def _verdicts(report: Path) -> list[Verdict]:
    found: Run = results.read(report / "results.json")
    return [cell.verdict for cell in found.cells]


def _ours(pid: int) -> list[str]:
    """Files for everybody's use that the harness with that pid made."""
    return [path.name for path in Path(tempfile.gettempdir()).glob(f"kernel-matrix-{pid}-*")]


@pytest.mark.usefixtures("oldest", "newest", "observer")
def test_a_run_that_is_ended_again_and_again_asks_each_cell_once(
    start: Start, cache: Cache, tmp_path: Path
) -> None:
    """Killed in its first cell, terminated in its second, interrupted there; then it ends."""
    report = tmp_path / "report"
    words = ["--kernels", f"{OLDEST},{NEWEST}", "--jobs", "1", "--checks", "load", "--backend",
             "local", "--boot-timeout", "240", "--out", report]  # fmt: skip
    with start(*words, cache=cache) as killed:
        killed.comes_to(lambda: _boots(killed, OLDEST))
        killed.child.kill()
        killed.child.wait(10)
    half = report / "cells" / f".{OLDEST}.json.abcd1234.km-partial"  # as a kill in mid-write
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b'{"schema":')
    assert not (report / "results.json").exists()
    assert _ours(killed.child.pid)

    with start("--resume", report, cache=cache) as ended:
        ended.comes_to(lambda: _boots(ended, NEWEST))
        status, took_s = ended.told(signal.SIGTERM)
    assert (status, took_s < _SOON_S) == (3, True), ended.said
    assert _boots(ended, OLDEST)
    assert "removed what a killed run left" in ended.said
    assert leftovers(cache, killed.child.pid) == []
    assert not half.exists()
    assert _ours(killed.child.pid) == []
    assert _verdicts(report) == [Verdict.PASS, Verdict.UNKNOWN]
    assert f"--resume {report}" in ended.said
    assert leftovers(cache, ended.child.pid) == []

    with start("--resume", report, cache=cache) as interrupted:
        interrupted.comes_to(lambda: _boots(interrupted, NEWEST))
        status, took_s = interrupted.told(signal.SIGINT)
    assert (status, took_s < _SOON_S) == (3, True), interrupted.said
    assert not _boots(interrupted, OLDEST)

    with start("--resume", report, cache=cache) as last:
        assert last.child.wait(_RUN_S) == 0, last.said
    assert not _boots(last, OLDEST)
    assert f"resumed: 1 of 2 cells are finished: {OLDEST}" in last.said
    assert _verdicts(report) == [Verdict.PASS, Verdict.PASS]
    found = results.read(report / "results.json")
    assert found.run.command.endswith(str(report))  # that it began with
    assert [note for note in found.run.notes if "--resume" in note]

    with start("--resume", report, cache=cache) as nothing:
        assert nothing.child.wait(_RUN_S) == 0, nothing.said
    assert not _boots(nothing, OLDEST)
    assert not _boots(nothing, NEWEST)
    assert results.read(report / "results.json").cells == found.cells
    assert "Traceback" not in "".join(
        run.said for run in (killed, ended, interrupted, last, nothing)
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.usefixtures("oldest", "newest", "observer")
def test_a_guest_s_container_ends_with_its_run_and_what_was_finished_stays(
    start: Start, cache: Cache, tmp_path: Path, number: signal.Signals
) -> None:
    need_engine()
    report = tmp_path / "report"
    words = ["--kernels", f"{OLDEST},{NEWEST}", "--jobs", "1", "--checks", "load", "--backend",
             "docker", "--boot-timeout", "240", "--out", report]  # fmt: skip
    with start(*words, cache=cache) as run:
        run.comes_to(lambda: _boots(run, NEWEST) and containers(run.child.pid))
        status, took_s = run.told(number)

    assert (status, took_s < _SOON_S) == (3, True), run.said
    assert leftovers(cache, run.child.pid) == []
    assert _ours(run.child.pid) == []
    assert _verdicts(report) == [Verdict.PASS, Verdict.UNKNOWN]
    assert (report / "cells" / f"{OLDEST}.json").exists()
    assert f"--resume {report}" in run.said
    assert "Traceback" not in run.said


@pytest.mark.usefixtures("newest", "observer")
def test_the_second_interrupt_ends_at_once(start: Start, cache: Cache, tmp_path: Path) -> None:
    """No report is written then, and the guest does not outlive it."""
    report = tmp_path / "report"
    words = ["--kernels", NEWEST, "--checks", "load", "--backend", "local", "--boot-timeout", "240",
             "--append", "rdinit=/bin/cat", "--out", report]  # fmt: skip
    with start(*words, cache=cache) as run:
        run.comes_to(lambda: leftovers(cache, run.child.pid) and _boots(run, NEWEST))
        run.child.send_signal(signal.SIGINT)
        time.sleep(0.02)
        status, took_s = run.told(signal.SIGINT)

    assert (status, took_s < _SOON_S) == (130, True), run.said
    assert not (report / "results.json").exists()
    assert until(lambda: not [one for one in leftovers(cache, run.child.pid) if "process" in one])
    assert journal.recorded(report).kernels == NEWEST
    rundir.remove_left(cache)  # as the next start does; another test's start may have done so
    assert leftovers(cache, run.child.pid) == []
    assert _ours(run.child.pid) == []


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a mirror that takes connections and never answers."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/debian"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    for one in taken:
        one.close()


def _without(cache: Cache, root: Path, *kinds: str) -> Cache:
    """The machine's cache without those kinds of entries."""
    for path in cache.root.iterdir():
        if path.name not in (*kinds, "run", "locks", "apt"):
            (root / path.name).symlink_to(path)
    return Cache(root=root)


def _running(words: Sequence[str], pid: int) -> list[int]:
    """Processes that a harness with that pid started, of that command."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                command = (entry / "cmdline").read_bytes().split(b"\0")
                mine = f"KERNEL_MATRIX_OWNER={pid}:".encode() in (entry / "environ").read_bytes()
                if mine and all(any(w.encode() in c for c in command) for w in words):
                    found.append(int(entry.name))
    return found


_MIRROR, _SECURITY = "KERNEL_MATRIX_DEBIAN_MIRROR", "KERNEL_MATRIX_DEBIAN_SECURITY_MIRROR"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.usefixtures("oldest", "observer")
def test_a_download_is_not_waited_for(
    start: Start, cache: Cache, tmp_path: Path, silent: str, number: signal.Signals
) -> None:
    with tempfile.TemporaryDirectory() as short:
        own = _without(cache, Path(short), "debs", "kernels")
        words = ["--kernels", OLDEST, "--checks", "load", "--backend", "local", "--out",
                 tmp_path / "report"]  # fmt: skip
        with start(*words, cache=own, **{_MIRROR: silent, _SECURITY: silent}) as run:
            run.comes_to(lambda: _running(["download-file"], run.child.pid))
            status, took_s = run.told(number)

        assert (status, took_s < _SOON_S) == (130, True), run.said
        assert f"--resume {tmp_path / 'report'}" in run.said
        assert "Traceback" not in run.said
        assert _running([], run.child.pid) == []
        assert _ours(run.child.pid) == []
        assert [path for path in own.root.rglob(".*.partial") if not path.is_symlink()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.usefixtures("oldest", "observer")
def test_a_base_root_in_the_making_leaves_nothing(
    start: Start, cache: Cache, tmp_path: Path, silent: str, number: signal.Signals
) -> None:
    """Killed, the harness leaves mmdebstrap and its apt running: the next start ends them."""
    with tempfile.TemporaryDirectory() as short:
        own = _without(cache, Path(short), "base-root", "guest")
        words = ["--kernels", OLDEST, "--checks", "load", "--backend", "local", "--out",
                 tmp_path / "report"]  # fmt: skip
        variables = {_MIRROR: silent, _SECURITY: silent}
        with start(*words, cache=own, **variables) as run:
            run.comes_to(lambda: _running(["/http"], run.child.pid))  # apt waits for the mirror
            status, took_s = run.told(number)
        made = list((own.root / "base-root").glob(".*.partial"))
        if number is signal.SIGINT:
            assert (status, took_s < _SOON_S) == (130, True), run.said
        else:
            assert made
            assert _running(["mmdebstrap"], run.child.pid)
            with start(*words[:-1], tmp_path / "next", cache=own, **variables) as following:
                following.comes_to(lambda: "removed what a killed run left" in following.said)
                following.told(signal.SIGINT)

        assert until(lambda: not _running([], run.child.pid))
        assert list((own.root / "base-root").iterdir()) == []
        assert _ours(run.child.pid) == []
        mounts = Path("/proc/mounts").read_text()
        assert str(own.root) not in mounts


@pytest.mark.usefixtures("oldest", "observer")
def test_a_run_that_is_killed_at_any_moment_is_gone_on_with(
    start: Start, cache: Cache, tmp_path: Path
) -> None:
    """As soon as it is written down, at the boot, in a check, with its cell, in its reports."""
    report = tmp_path / "report"
    cell = report / "cells" / f"{OLDEST}.json"
    words: list[object] = ["--kernels", OLDEST, "--checks", "load,splat", "--backend", "local",
                           "--boot-timeout", "240", "--out", report]  # fmt: skip
    moments: tuple[Callable[[Running], object], ...] = (
        lambda run: (report / journal.FILE).exists(),
        lambda run: _boots(run, OLDEST),
        lambda run: f"{OLDEST:<16} load" in run.err.read_text(),
        lambda run: cell.exists(),
        lambda run: written() != before,
    )  # fmt: skip

    def written() -> set[tuple[str, int]]:
        """Reports, and when each was: a run that was killed as they were written has some."""
        files = [path for path in report.glob("[!.]*") if path.is_file()]
        return {(path.name, path.stat().st_mtime_ns) for path in files if path.name != journal.FILE}

    runs: list[Running] = []
    for comes in moments:
        before = written()
        with start(*words, cache=cache) as run:
            finished = cell.exists()
            end = time.monotonic() + _RUN_S
            while not comes(run) and run.child.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
            run.child.kill()
            ended = (-signal.SIGKILL, 0) if finished else (-signal.SIGKILL,)  # reports are quick
            assert run.child.wait(10) in ended, run.said
        assert not (finished and _boots(run, OLDEST)), run.said
        runs.append(run)
        words = ["--resume", report]
    assert cell.exists()

    with start(*words, cache=cache) as last:
        assert last.child.wait(_RUN_S) == 0, last.said
    assert f"resumed: 1 of 1 cells are finished: {OLDEST}" in runs[-1].said
    assert not _boots(last, OLDEST)
    assert _verdicts(report) == [Verdict.PASS]
    assert list(report.rglob(".*")) == []  # nothing half-written
    for run in (*runs, last):
        assert leftovers(cache, run.child.pid) == []
        assert _ours(run.child.pid) == []
        assert "Traceback" not in run.said


@pytest.mark.usefixtures("observer")
def test_an_image_in_the_making_is_not_waited_for(
    start: Start, cache: Cache, tmp_path: Path, oldest: KernelFiles
) -> None:
    """The engine gives up a build that nobody waits for, be it for a kill; the next start makes it."""
    need_engine()
    own = tmp_path / f"interrupted-{os.getpid()}"  # its image's name, which no other test has
    own.mkdir()
    for path in (oldest.vmlinuz, oldest.btf):
        if path is not None:
            shutil.copy(path, own)
    words = ["--kernel-dir", own, "--checks", "load", "--backend", "docker", "--out",
             tmp_path / "report"]  # fmt: skip
    with start(*words, cache=cache) as killed:
        killed.comes_to(lambda: "building the kernel container" in killed.said)
        assert killed.told(signal.SIGKILL)[0] == -signal.SIGKILL
    with start("--resume", tmp_path / "report", cache=cache) as run:
        run.comes_to(lambda: "building the kernel container" in run.said)
        status, took_s = run.told(signal.SIGINT)

    assert (status, took_s < _SOON_S) == (3, True), run.said
    assert _verdicts(tmp_path / "report") == [Verdict.UNKNOWN]
    with engine() as client:
        assert client is not None
        assert f"kernel-test:{own.name}" not in [
            tag for image in client.images.list() for tag in image.tags
        ]
    for one in (killed, run):
        assert leftovers(cache, one.child.pid) == []
        assert _ours(one.child.pid) == []


def test_two_runs_do_not_write_to_one_report(tmp_path: Path) -> None:
    with (
        journal.opened(tmp_path / "report", journal.Words()),
        pytest.raises(Exception, match="another run is writing its report"),
        journal.opened(tmp_path / "report", journal.Words(), resume=True),
    ):
        pass
