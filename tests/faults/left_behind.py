# SPDX-License-Identifier: Apache-2.0
"""What tests that break things may leave behind: nothing.

Whatever starts while `nothing_left` holds inherits a mark in its environment and a directory for
temporary files, so that ours are told from those of anybody else on the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import kernel_container, place
from harness.cache import Cache
from harness.kernel_container import OWNER_LABEL

MARK = "KERNEL_MATRIX_TEST_SESSION"
_PATIENCE_S = 20.0  # for what ends by itself: a container's shim, an agent of GnuPG
_PARTIAL = (".*.partial", ".*.old")  # of a cache entry
_ASIDE = ".*.json.*"  # of a file that is written atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """Where traces of the tests would be."""

    cache: Cache
    reports: Path  # below it, tests make everything that they name themselves
    scratch: Path  # the directory for temporary files

    def traces(self) -> set[str]:
        """Everything of ours that runs, is mounted, held or lies about, in words."""
        pids = _processes()
        return {
            *(f"process {pid}: {_command(pid)}" for pid in pids),
            *_threads(),
            *(f"lock {line}" for line in _locks({*pids, os.getpid()})),
            *(f"mount {path}" for path in _mounts((self.cache.root, self.reports, self.scratch))),
            *(f"loop device of {path}" for path in _loop_devices()),
            *(f"container {name}" for name in _containers({*pids, os.getpid()})),
            *(f"file {path}" for path in self._files(pids)),
        }

    def _files(self, pids: set[int]) -> Iterator[Path]:
        yield from self.scratch.iterdir()
        yield from self.reports.rglob(_ASIDE)
        for pattern in _PARTIAL:
            for path in self.cache.root.glob(f"*/{pattern}"):
                if not self._being_filled(path):
                    yield path
        with contextlib.suppress(FileNotFoundError):
            for path in (self.cache.root / "run").iterdir():
                pid, _, rest = path.name.partition("-")
                owner = f"{pid}:{rest.partition('-')[0]}"
                if not place.alive(owner) or int(pid) in (*pids, os.getpid()):
                    yield path

    def _being_filled(self, aside: Path) -> bool:
        """Whether somebody holds the lock of that entry: whoever was killed does not."""
        key = aside.name.removeprefix(".").rpartition(".")[0]
        try:
            lock = (self.cache.root / "locks" / f"{aside.parent.name}-{key}.lock").open("rb")
        except FileNotFoundError:
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


@contextlib.contextmanager
def nothing_left(
    cache: Cache, reports: Path, *, patience_s: float = _PATIENCE_S
) -> Iterator[Watched]:
    """Hold for a session of tests. AssertionError when something new is there after `patience_s`."""
    before_env = {name: os.environ.get(name) for name in (MARK, "TMPDIR")}
    scratch = Path(tempfile.mkdtemp(prefix="km-"))  # short: sockets are made in it
    os.environ |= {MARK: place.owner(), "TMPDIR": str(scratch)}
    tempfile.tempdir = None  # read the environment again
    watched = Watched(cache=cache, reports=reports, scratch=scratch)
    before = watched.traces()
    try:
        yield watched
        end = time.monotonic() + patience_s
        while (left := watched.traces() - before) and time.monotonic() < end:
            time.sleep(0.2)
    finally:
        for name, value in before_env.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None
        shutil.rmtree(scratch, ignore_errors=True)
    assert not left, "the tests left behind:\n" + "\n".join(sorted(left))


def _processes() -> set[int]:
    """Those with the mark, and all that descend from them or from this one."""
    mark = f"{MARK}={os.environ.get(MARK, '')}".encode()
    parents: dict[int, int] = {}
    marked: set[int] = {os.getpid()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            stat = (entry / "stat").read_text(encoding="ascii", errors="replace")
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                marked.add(int(entry.name))
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in marked}
        grown = not children <= marked
        marked |= children
    return marked - {os.getpid()}


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return words.decode(errors="replace")[:200] or "a zombie"
    except OSError:
        return "just ended"


def _threads() -> Iterator[str]:
    """Those that the harness started: pytest's own and its plugins' are theirs."""
    for thread in threading.enumerate():
        if thread.name.partition("_")[0] in (
            "audit",
            "cell",
            "container-end",
            "image-tar",
            "kernel",
        ):
            yield f"thread {thread.name}"


def _locks(pids: Iterable[int]) -> Iterator[str]:
    """proc(5): "1: FLOCK ADVISORY WRITE <pid> <device>:<inode> 0 EOF"."""
    wanted = {str(pid) for pid in pids}
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        _, _, fields = line.partition(": ")
        words = fields.removeprefix("-> ").split()
        if words[3] in wanted:
            yield " ".join(words[:5])


def _mounts(places: Iterable[Path]) -> Iterator[str]:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        path = Path(line.split()[1].encode().decode("unicode_escape"))  # \040 is a space
        if any(path.is_relative_to(one) for one in places):
            yield str(path)


def _loop_devices() -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            yield backing.read_text(encoding="utf-8").strip()


def _containers(pids: set[int]) -> Iterator[str]:
    """On the machine's own engine: those of our harnesses, and of harnesses that are dead."""
    client = kernel_container.engine()
    if client is None:
        return
    with contextlib.closing(client):
        for container in client.containers.list(all=True, filters={"label": OWNER_LABEL}):
            owner = container.labels.get(OWNER_LABEL, "")
            ours = place.alive(owner) and int(owner.partition(":")[0]) in pids
            if ours or place.dead(owner):
                yield str(container.name)
