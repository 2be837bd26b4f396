# SPDX-License-Identifier: Apache-2.0
"""A guest starts when there is memory and a core for it; it waits, or is refused, when not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import admission, place
from harness.admission import QEMU_MIB, Admission
from harness.cache import Cache
from harness.errors import HarnessError

_GUEST_MIB = 768
_NEED_MIB = _GUEST_MIB + QEMU_MIB


class _Host:
    """The files of a machine that say what it has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.says(total_mib=64 << 10, free_mib=64 << 10)

    def says(self, *, total_mib: int, free_mib: int) -> None:
        self._write(
            "proc/meminfo", f"MemTotal: {total_mib << 10} kB\nMemAvailable: {free_mib << 10} kB\n"
        )

    def limits(self, *, limit_mib: int, used_mib: int, cached_mib: int) -> None:
        """A control group around our own has the limit, ours has none."""
        self._write("proc/self/cgroup", "0::/job/ours\n")
        self._write("sys/fs/cgroup/job/memory.max", f"{limit_mib << 20}\n")
        self._write("sys/fs/cgroup/job/memory.current", f"{used_mib << 20}\n")
        self._write("sys/fs/cgroup/job/memory.stat", f"anon 1\ninactive_file {cached_mib << 20}\n")
        self._write("sys/fs/cgroup/job/ours/memory.max", "max\n")
        self._write("sys/fs/cgroup/job/cpu.max", "150000 100000\n")

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


@pytest.fixture
def host(tmp_path: Path) -> _Host:
    return _Host(tmp_path / "host")


@pytest.fixture
def door(tmp_path: Path, host: _Host, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Admission]:
    """Doors of runs that share a cache, with little patience."""
    monkeypatch.setattr(admission, "_POLL_S", 0.01)
    monkeypatch.setattr(admission, "_PATIENCE_S", 0.2)
    cache = Cache(root=tmp_path / "cache")
    return lambda guests=64: Admission(cache, guests=guests, host=host.root)


def _enter(door: Admission, heard: list[str] | None = None, *, cgroup: bool = True) -> None:
    told = heard if heard is not None else []
    with door.hold(_GUEST_MIB, cgroup=cgroup, given_up=lambda: False, waiting=told.append):
        pass


def test_a_guest_waits_until_another_gives_its_memory_back(
    door: Callable[..., Admission], host: _Host
) -> None:
    """Both would fit by MemAvailable, which does not know yet what the first was promised."""
    host.says(total_mib=64 << 10, free_mib=_NEED_MIB * 2 - 1)
    ours = door()
    heard: list[str] = []
    said = threading.Event()
    entered = threading.Event()

    def second() -> None:
        def waiting(text: str) -> None:
            heard.append(text)
            said.set()

        with ours.hold(_GUEST_MIB, cgroup=True, given_up=lambda: False, waiting=waiting):
            entered.set()

    thread = threading.Thread(target=second)
    with ours.hold(_GUEST_MIB, cgroup=True, given_up=lambda: False, waiting=heard.append):
        thread.start()
        assert said.wait(20)
        assert not entered.is_set()
    thread.join(20)

    assert entered.is_set()
    assert heard == [
        f"waits for {_NEED_MIB} MiB of memory, {_NEED_MIB - 1} MiB are free beside what was "
        "promised (1 running)"
    ]


def test_a_machine_that_never_has_the_memory_is_an_error_at_once(
    door: Callable[..., Admission], host: _Host
) -> None:
    host.says(total_mib=_NEED_MIB - 1, free_mib=_NEED_MIB - 1)

    with pytest.raises(HarnessError, match=rf"needs {_NEED_MIB} MiB .* gives {_NEED_MIB - 1} MiB"):
        _enter(door())


def test_memory_that_does_not_come_free_is_an_error_and_not_a_hang(
    door: Callable[..., Admission], host: _Host
) -> None:
    """Who has waited in vain once says so for every further guest without waiting again."""
    host.says(total_mib=64 << 10, free_mib=100)
    ours = door()
    heard: list[str] = []

    with pytest.raises(HarnessError, match=r"no room for a guest within .* 100 MiB are free"):
        _enter(ours, heard)
    assert heard
    with pytest.raises(HarnessError, match="no room for a guest within 0 s"):
        _enter(ours)

    host.says(total_mib=64 << 10, free_mib=_NEED_MIB)
    _enter(ours)


def test_what_another_guest_holds_is_waited_for_also_after_a_wait_in_vain(
    door: Callable[..., Admission], host: _Host
) -> None:
    """It comes back, whatever did not come back before."""
    host.says(total_mib=64 << 10, free_mib=100)
    ours = door()
    with pytest.raises(HarnessError, match="no room for a guest"):
        _enter(ours)
    host.says(total_mib=64 << 10, free_mib=_NEED_MIB)
    calls = iter([False, False, True])

    with (
        door().hold(_GUEST_MIB, cgroup=True, given_up=lambda: False, waiting=lambda text: None),
        pytest.raises(HarnessError, match="interrupted while it waited"),
        ours.hold(_GUEST_MIB, cgroup=True, given_up=lambda: next(calls), waiting=lambda text: None),
    ):
        pass


def test_the_limit_of_a_control_group_around_us_counts_for_guests_in_it(
    door: Callable[..., Admission], host: _Host
) -> None:
    """Of the memory it counts as used, the page cache goes when somebody needs it."""
    host.limits(limit_mib=2 * _NEED_MIB, used_mib=2 * _NEED_MIB - 100, cached_mib=50)

    assert admission.free_mib(host.root, cgroup=True) == 150
    assert admission.total_mib(host.root, cgroup=True) == 2 * _NEED_MIB
    assert admission.cores(host.root) == min(2, len(os.sched_getaffinity(0)))
    with pytest.raises(HarnessError, match="no room for a guest"):
        _enter(door())
    _enter(door(), cgroup=False)  # a container's guest is in a group of its own


def test_more_guests_than_cores_wait(door: Callable[..., Admission]) -> None:
    ours = door(guests=1)
    heard: list[str] = []
    calls = iter([False, True])
    cores = admission.cores()

    with pytest.raises(HarnessError, match="interrupted while it waited"):
        _nested(ours, max(cores, 1), heard, lambda: next(calls))

    assert heard == [f"waits for a core ({max(cores, 1)} guests running)"]


def _nested(door: Admission, depth: int, heard: list[str], given_up: Callable[[], bool]) -> None:
    with door.hold(_GUEST_MIB, cgroup=True, given_up=given_up, waiting=heard.append):
        if depth:
            _nested(door, depth - 1, heard, given_up)


_OTHER = """
import sys, time
from pathlib import Path
from harness.admission import Admission
from harness.cache import Cache
door = Admission(Cache(root=Path(sys.argv[1])), guests=64, host=Path(sys.argv[2]))
with door.hold(768, cgroup=True, given_up=lambda: False, waiting=print):
    print("in", flush=True)
    time.sleep(60)
"""


def test_what_another_process_was_promised_counts_until_it_is_killed(
    door: Callable[..., Admission], host: _Host, tmp_path: Path
) -> None:
    """Two runs on one machine; and nothing is left of one that died with SIGKILL."""
    host.says(total_mib=64 << 10, free_mib=2 * _NEED_MIB - 1)
    ours = door()
    heard: list[str] = []
    argv = [sys.executable, "-c", _OTHER, str(tmp_path / "cache"), str(host.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        calls = iter([False, False, True])
        with (
            pytest.raises(HarnessError, match="interrupted while it waited"),
            ours.hold(_GUEST_MIB, cgroup=True, given_up=lambda: next(calls), waiting=heard.append),
        ):
            pass
        other.kill()
        other.wait(20)
    _enter(ours)

    assert len(heard) == 1
    assert list((tmp_path / "cache/locks/memory").iterdir()) == []


def test_a_promise_in_another_pid_namespace_counts_until_its_holder_is_killed(
    door: Callable[..., Admission], host: _Host, tmp_path: Path
) -> None:
    """Two CI containers with one cache: neither sees the other's processes."""
    host.says(total_mib=64 << 10, free_mib=2 * _NEED_MIB - 1)
    ours = door()
    heard: list[str] = []
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child",
               "--mount-proc"]  # fmt: skip
    if subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    argv = [*unshare, sys.executable, "-c", _OTHER, str(tmp_path / "cache"), str(host.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        (promise,) = (tmp_path / "cache/locks/memory").iterdir()
        owner = promise.read_text(encoding="ascii").split()[0]
        assert not place.alive(owner)
        assert not place.dead(owner)
        calls = iter([False, False, True])
        with (
            pytest.raises(HarnessError, match="interrupted while it waited"),
            ours.hold(_GUEST_MIB, cgroup=True, given_up=lambda: next(calls), waiting=heard.append),
        ):
            pass
        assert promise.exists()
        other.kill()
        other.wait(20)
    _enter(ours)

    assert len(heard) == 1
    assert list((tmp_path / "cache/locks/memory").iterdir()) == []


def test_a_guest_that_has_its_memory_is_not_counted_twice(
    door: Callable[..., Admission], host: _Host
) -> None:
    """What is resident is gone from MemAvailable already."""
    host.says(total_mib=64 << 10, free_mib=_NEED_MIB)
    ours = door()
    pages = (_NEED_MIB << 20) // os.sysconf("SC_PAGE_SIZE")
    pid = place.owner().partition(":")[0]
    host._write(f"proc/{pid}/task/{pid}/children", "76\n")
    host._write("proc/76/statm", "9 0 0 0 0 0 0\n")  # what confines the guest
    host._write("proc/76/task/76/children", "77\n")
    host._write("proc/77/statm", f"{pages} {pages} 0 0 0 0 0\n")
    with ours.hold(_GUEST_MIB, cgroup=True, given_up=lambda: False, waiting=lambda text: None):
        _enter(ours)
