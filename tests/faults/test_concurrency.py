# SPDX-License-Identifier: Apache-2.0
"""Several harnesses on one machine: one cache, one slot, and nobody in another's way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import process, results, rundir, slot
from harness.cache import Cache
from harness.errors import HarnessError
from harness.results import Verdict
from tests.conftest import NEWEST
from tests.vm.matrix import qemus, until

_RUN_S = 240.0  # a boot takes five seconds on an idle machine
_SETTING = "KERNEL_MATRIX_SLOT"


@pytest.fixture
def cold(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """A cache of kernels and a base root, with nothing that is made of them, and its own slot."""
    with tempfile.TemporaryDirectory() as name:  # short: sockets are made in it
        own = Cache(root=Path(name))
        for kind in ("kernels", "debs", "base-root", "accel"):
            if (cache.root / kind).exists():
                (own.root / kind).symlink_to(cache.root / kind)
        monkeypatch.setenv(_SETTING, str(own.directory("locks")))
        yield own


@contextlib.contextmanager
def _run(cache: Cache, report: Path) -> Iterator[process.Child]:
    """`kernel-matrix` of one kernel, as a process."""
    report.mkdir(parents=True)
    words = [
        sys.executable, "-m", "harness", "kernel-matrix", "--kernels", NEWEST, "--checks", "load",
        "--backend", "local", "--boot-timeout", "300", "--out", str(report / "out"),
    ]  # fmt: skip
    with (
        (report / "said").open("wb") as said,
        process.held(
            words, stdout=said, stderr=said, env={"KERNEL_MATRIX_CACHE": str(cache.root)}
        ) as child,
    ):
        yield child


def _said(report: Path) -> str:
    return (report / "said").read_text(errors="replace")


@pytest.mark.vm
@pytest.mark.usefixtures("newest", "observer")
def test_three_runs_at_once_fill_one_cache_and_all_pass(cold: Cache, tmp_path: Path) -> None:
    """Each needs the same guest's archive and object first; one makes them, all use them."""
    reports = [tmp_path / str(number) for number in range(3)]
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_run(cold, report)) for report in reports]
        ended = [child.wait(_RUN_S) for child in children]

    assert ended == [0, 0, 0], [_said(report) for report in reports]
    for report in reports:
        (cell,) = results.read(report / "out" / "results.json").cells
        assert cell.verdict is Verdict.PASS
    made = [path for kind in ("guest", "build") for path in (cold.root / kind).iterdir()]
    assert len(made) >= 2
    for path in made:
        assert cold.find(path.parent.name, path.name) == path, path
    assert sum(_said(report).count("packing the guest's base archive") for report in reports) == 1
    assert list((cold.root / "run").iterdir()) == []


@pytest.mark.vm
@pytest.mark.usefixtures("newest", "observer")
def test_guests_wait_for_a_timed_one_and_it_for_them(cold: Cache, tmp_path: Path) -> None:
    """Of another process; and the slot of a run that is killed is free at once."""
    report = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        timed = stack.enter_context(contextlib.ExitStack())
        timed.enter_context(slot.hold(cold, alone=True))
        child = stack.enter_context(_run(cold, report))
        assert until(lambda: "wait" in _said(report) or child.poll() is not None, timeout_s=_RUN_S)
        time.sleep(3.0)
        assert qemus(cold, child.pid) == [], "a guest started beside a timed one"

        timed.close()

        assert until(lambda: qemus(cold, child.pid), timeout_s=_RUN_S), _said(report)
        with (
            pytest.raises(HarnessError, match="while it waited for the machine"),
            slot.hold(cold, alone=True, given_up=_after(1.0)),
        ):
            pytest.fail("a timed guest started beside another")
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        with slot.hold(cold, alone=True, given_up=_after(20.0)):
            assert until(lambda: qemus(cold, child.pid) == [])
    rundir.remove_left(cold)  # as the next start does


def test_who_waits_for_another_run_s_lock_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A download may take minutes; silence looks like a hang."""
    cache = Cache(root=tmp_path)
    got_in = threading.Event()

    def wait() -> None:
        with cache.locked("key"):
            got_in.set()

    with caplog.at_level(logging.WARNING):
        with cache.locked("key"):
            waiting = threading.Thread(target=wait)
            waiting.start()
            assert until(lambda: "waiting for another run" in caplog.text)
            assert not got_in.is_set()
        waiting.join(30)

    assert got_in.is_set()
    assert "key" in caplog.text
    assert caplog.text.count("waiting for another run") == 1


_HOLDER = """
import json, sys, time
from pathlib import Path
from harness import slot
from harness.cache import Cache
alone, hold_s, until = sys.argv[2] == "alone", float(sys.argv[3]), float(sys.argv[4])
turns = []
while time.monotonic() < until:
    asked = time.monotonic()
    with slot.hold(Cache(root=Path(sys.argv[1])), alone=alone):
        turns.append(time.monotonic() - asked)
        time.sleep(hold_s)
print(json.dumps(turns))
"""


@pytest.mark.parametrize(
    ("crowd", "single"), [("together", "alone"), ("alone", "together")], ids=["timed", "ordinary"]
)
def test_nobody_starves(
    crowd: str, single: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guests keep coming, so that the machine is never free; the other kind gets its turns."""
    monkeypatch.setenv(_SETTING, str(tmp_path))
    end = time.monotonic() + 25.0
    turns: list[list[float]] = []
    with contextlib.ExitStack() as stack:
        outs: list[Path] = []
        for number, kind in enumerate([crowd, crowd, crowd, single]):
            outs.append(tmp_path / f"out-{number}")
            hold_s = 0.4 + 0.1 * number
            stack.enter_context(
                process.held(
                    [sys.executable, "-c", _HOLDER, str(tmp_path), kind, str(hold_s), str(end)],
                    stdout=stack.enter_context(outs[-1].open("wb")),
                )
            )
        assert until(lambda: all(path.stat().st_size for path in outs), timeout_s=120.0)
        turns = [json.loads(path.read_text()) for path in outs]

    assert len(turns[-1]) >= 2, turns
    assert max(turns[-1]) < 15.0, turns
    assert all(turns), turns


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes another user")
def test_users_of_a_machine_share_its_slot(tmp_path: Path) -> None:
    """Each has a cache; what is timed does not know whose guest disturbs it."""
    directory = slot.place(Cache(root=tmp_path / "mine"))
    if directory.is_relative_to(tmp_path):
        pytest.skip("no directory here is for all users")
    assert directory == slot.place(Cache(root=tmp_path / "yours"))

    with slot.hold(Cache(root=tmp_path / "mine"), alone=False, given_up=_after(_RUN_S)):
        lock = directory / "kernel-matrix.slot"
        flock = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "flock"]
        shared = process.run([*flock, "--shared", "--nonblock", lock, "true"], timeout_s=30)
        alone = process.run([*flock, "--nonblock", lock, "true"], timeout_s=30, check=False)

    assert (shared.status, alone.status) == (0, 1)


@pytest.mark.parametrize("trap", ["link", "pipe", "directory"])
def test_what_another_user_put_in_the_lock_s_place_is_not_followed(
    trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory for everybody a name may be anything; nothing is written, nothing hangs."""
    monkeypatch.setenv(_SETTING, str(tmp_path))
    path, victim = tmp_path / "kernel-matrix.slot", tmp_path / "victim"
    victim.write_text("kept")
    if trap == "link":
        path.symlink_to(victim)
    elif trap == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()

    with (
        pytest.raises(HarnessError, match=r"kernel-matrix\.slot"),
        slot.hold(Cache(root=tmp_path), alone=False, given_up=_after(10.0)),
    ):
        pytest.fail("it was taken for a lock")

    assert victim.read_text() == "kept"


def test_a_lock_that_somebody_removed_is_made_again_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cleans /tmp; otherwise two would hold two files of one name."""
    monkeypatch.setenv(_SETTING, str(tmp_path))
    cache = Cache(root=tmp_path)
    entered = threading.Event()

    def timed() -> None:
        with slot.hold(cache, alone=True):
            entered.set()

    with slot.hold(cache, alone=False):
        waiting = threading.Thread(target=timed)
        waiting.start()
        time.sleep(0.5)
        (tmp_path / "kernel-matrix.slot").unlink()
    waiting.join(30)

    assert entered.is_set()
    assert (tmp_path / "kernel-matrix.slot").is_file()
