# SPDX-License-Identifier: Apache-2.0
"""Told to end, nothing is waited for; what the dead left is found, and nobody else's is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import place, process, rundir
from harness.cache import Cache
from harness.process import InterruptedHarnessError

_SOON_S = 15.0  # far less than what the tests' commands would take


@pytest.fixture(autouse=True)
def _not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test tells anew; a harness is told once and ends."""
    monkeypatch.setattr(process, "_stopping", threading.Event())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(root=tmp_path / "cache")


def _elsewhere(deed: Callable[[], object]) -> Future[object]:
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(deed)
    pool.shutdown(wait=False)
    return future


def _until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + _SOON_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("script", ["sleep 600", "trap '' TERM; while :; do sleep 1; done"])
def test_a_command_that_another_thread_waits_for_ends(tmp_path: Path, script: str) -> None:
    """Even one that does not hear."""
    note = tmp_path / "started"
    waiting = _elsewhere(
        lambda: process.run(["sh", "-c", f"echo $$ > {note}; {script}"], timeout_s=600)
    )
    _until(lambda: note.exists() and note.read_text())

    process.stop()

    with pytest.raises(InterruptedHarnessError):
        waiting.result(_SOON_S)
    assert not Path(f"/proc/{note.read_text().strip()}").exists()


def test_afterwards_threads_start_nothing_and_the_main_one_does(cache: Cache) -> None:
    """It still has a report to write, which names compiler and commit."""
    process.stop()

    with pytest.raises(InterruptedHarnessError):
        _elsewhere(lambda: process.run(["true"], timeout_s=20)).result(_SOON_S)
    assert process.run(["echo", "yes"], timeout_s=20).text == "yes\n"


def test_what_is_held_is_for_its_holder_to_end() -> None:
    with process.held(["sleep", "600"]) as guest:
        process.stop()
        time.sleep(0.3)
        assert guest.poll() is None
        process.kill_all()
        assert guest.wait(_SOON_S) == -9


def test_a_lock_is_not_waited_for_any_longer(cache: Cache) -> None:
    """Another process may hold it while it downloads for half an hour."""
    taken = threading.Event()

    def wait() -> None:
        taken.set()
        with cache.locked("x"):
            pass

    with cache.locked("x"):
        waiting = _elsewhere(wait)
        assert taken.wait(_SOON_S)
        process.stop()
        with pytest.raises(InterruptedHarnessError):
            waiting.result(_SOON_S)


_HARNESS = """
import sys, time
from harness import process, rundir
with rundir.scratch() as path, process.held(["sh", "-c", "sleep 600 & echo $! > note; wait"]):
    print(path, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_harness_left_is_found_and_nothing_else(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scratch directory and its children's children; a living one's and a stranger's stay."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    strangers = [temporary / "kernel-matrix-notes", temporary / "kernel-matrix-1-x-y"]
    for one in strangers:
        one.mkdir()
    argv = [sys.executable, "-c", _HARNESS]
    environment = {"TMPDIR": str(temporary), "PYTHONPATH": str(Path.cwd())}
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    with process.held(argv, stdout=writing, env=environment, group=False) as killed:
        os.close(writing)
        with os.fdopen(reading) as stream:
            theirs = Path(stream.readline().strip())
        note = tmp_path / "note"
        _until(lambda: note.exists() and note.read_text().strip())
        sleeping = int(note.read_text())
        with rundir.scratch() as ours:
            assert rundir.remove_left(cache) == rundir.Left()  # they live, both of them
            killed.kill()
            # Dead, and not yet waited for: in a container without an init for ever.
            _until(lambda: not place.alive(f"{killed.pid}:{_start_of(killed.pid)}"))
            left = rundir.remove_left(cache)

            assert ours.is_dir()
    assert (left.directories, left.processes >= 2) == (1, True)  # the shell and its child
    assert not theirs.exists()
    assert all(one.is_dir() for one in strangers)
    _until(lambda: _state(sleeping) in ("", "Z"))
    assert set(temporary.iterdir()) == set(strangers)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _start_of(pid: int) -> str:
    return _stat(pid)[19]


def _state(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def test_everybody_s_temporary_files_go_to_one_directory_while_we_run() -> None:
    before = (
        tempfile.gettempdir(),
        os.environ.get("TMPDIR"),
        os.environ.get(place.OWNER_VARIABLE),
    )
    with rundir.scratch() as path:
        assert tempfile.gettempdir() == str(path)
        made = process.run(["mktemp"], timeout_s=20).text.strip()
        assert Path(made).parent == path

    assert not path.exists()
    assert before == (
        tempfile.gettempdir(), os.environ.get("TMPDIR"), os.environ.get(place.OWNER_VARIABLE),
    )  # fmt: skip


def test_half_made_entries_of_the_dead_are_removed_and_those_in_the_making_stay(
    cache: Cache,
) -> None:
    cache.entry("debs", "whole", lambda directory: (directory / "x").touch())
    for name in (".dead.partial", ".dead.old", ".living.partial"):
        (cache.root / "debs" / name).mkdir()
    for key in ("dead", "living"):
        fetching = cache.directory("apt", key, "lists", "partial")
        (fetching / "InRelease").touch()
        (fetching.parent / "index").touch()
    with cache.locked("debs-living"), cache.locked("apt-living"):
        removed = cache.remove_partial()

    assert removed == 3
    assert sorted(path.name for path in (cache.root / "debs").iterdir()) == [
        ".living.partial", "whole",
    ]  # fmt: skip
    files = sorted(
        str(p.relative_to(cache.root)) for p in cache.root.glob("apt/*/lists/**/*") if p.is_file()
    )
    assert files == ["apt/dead/lists/index", "apt/living/lists/index",
                     "apt/living/lists/partial/InRelease"]  # fmt: skip


def test_an_index_in_the_making_goes_with_its_maker(cache: Cache) -> None:
    base = cache.directory("btf-index", "v1")
    mine, dead, stranger = (
        base / f".filling-{pid}abc" for pid in (f"{os.getpid()}-", "4194304-", "")
    )
    for one in (mine, dead, stranger):
        one.touch()
        os.utime(one, (0, 0))
    elsewhere = base / ".filling-4194304-new"  # of a process that we do not see, perhaps
    elsewhere.touch()

    assert rundir.remove_left(cache).files == 1
    assert (mine.exists(), dead.exists(), stranger.exists()) == (True, False, True)
    assert elsewhere.exists()


# As when it comes just before the main thread begins to wait, which only happens at times: the
# kernel hands it to the other thread, and nothing interrupts the wait.
_TOLD_ASIDE = """\
import signal, sys, threading
from harness import entry

@entry.guarded
def task():
    {before}
    beside = threading.Thread(target=threading.Event().wait, daemon=True)
    beside.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
    print("waits", flush=True)
    threading.Event().wait()

try:
    task()
except entry.Exit as end:
    sys.exit(end.code)
"""


@pytest.mark.parametrize(("nudged", "status"), [(True, 130), (False, None)])
def test_a_signal_that_interrupts_no_wait_is_heard_all_the_same(
    tmp_path: Path, nudged: bool, status: int | None
) -> None:
    before = "pass" if nudged else "signal.set_wakeup_fd(-1)"  # Python alone
    said = tmp_path / "said"
    argv = [sys.executable, "-c", _TOLD_ASIDE.format(before=before)]
    with said.open("wb") as stdout, process.held(argv, stdout=stdout) as child:
        _until(said.read_text)
        time.sleep(0.2)  # until it waits
        child.send_signal(signal.SIGTERM)
        try:
            found = child.wait(_SOON_S if nudged else 1)
        except subprocess.TimeoutExpired:
            found = None
        if not nudged:
            child.kill()
    assert found == status
