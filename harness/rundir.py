# SPDX-License-Identifier: Apache-2.0
"""What a harness leaves on this machine while it runs, and what a killed one left: found, removed.

A directory for each guest, one for everybody's temporary files, processes. Directories are held by
flock(2), which tells the living from the dead across PID namespaces that share a disk; processes name
their owner (`place.owner`). Only what belongs to a harness that is certainly dead is taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import place
from harness.cache import Cache
from harness.place import OWNER_VARIABLE

_SCRATCH = "kernel-matrix-"  # the beginning of a name in the machine's directory for such files
_INDEXES = "btf-index"
_WRITTEN_S = 300.0  # far more than the milliseconds that writing an index takes


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """How much a killed harness had left."""

    processes: int = 0
    directories: int = 0
    files: int = 0

    @property
    def text(self) -> str:
        """ "1 process, 2 directories"; "" for nothing."""
        parts = (
            (self.processes, "process", "processes"), (self.directories, "directory", "directories"),
            (self.files, "file", "files"),
        )  # fmt: skip
        return ", ".join(f"{n} {one if n == 1 else more}" for n, one, more in parts if n)


@contextlib.contextmanager
def run_directory(cache: Cache) -> Iterator[Path]:
    """A directory of our own for one guest's socket, initrd and console; gone afterwards."""
    with _own(cache.directory("run"), "") as path:
        yield path


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for all temporary files of ours and of what we start; gone afterwards.

    Whatever is started meanwhile carries our name.
    """
    before, variables = tempfile.tempdir, ("TMPDIR", OWNER_VARIABLE)
    environment = {name: os.environ.get(name) for name in variables}
    with _own(Path(tempfile.gettempdir()), _SCRATCH) as path:
        tempfile.tempdir = str(path)
        os.environ |= {"TMPDIR": str(path), OWNER_VARIABLE: place.owner()}
        try:
            yield path
        finally:
            tempfile.tempdir = before
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def remove_left(cache: Cache) -> Left:
    """Remove everything on this machine whose harness is dead."""
    processes = _kill_orphans()
    base = Path(tempfile.gettempdir())
    if base.name.startswith(f"{_SCRATCH}{os.getpid()}-"):  # ours, beside those of others
        base = base.parent
    directories = remove_orphans(cache) + _remove_dead(base, _SCRATCH)
    files = cache.remove_partial() + _remove_filling(cache.root / _INDEXES)
    return Left(processes=processes, directories=directories, files=files)


def remove_orphans(cache: Cache) -> int:
    """Remove run directories whose harness is dead; how many."""
    return _remove_dead(cache.directory("run"), "")


@contextlib.contextmanager
def _own(base: Path, prefix: str) -> Iterator[Path]:
    # Short, as sockets are made in it: "pid-start time" is for people, the lock says who lives.
    pid, started = place.owner().split(":")[:2]
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{prefix}{pid}-{started}-", dir=base))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():  # nobody took it for left in between
                break
            os.close(descriptor)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _remove_dead(base: Path, prefix: str) -> int:
    removed = 0
    for path in base.glob(f"{prefix}*"):
        pid, _, rest = path.name.removeprefix(prefix).partition("-")
        started = rest.partition("-")[0]
        if prefix and not (pid.isdigit() and started.isdigit()):
            continue  # in a directory for everybody, none of ours
        if place.alive(f"{pid}:{started}"):
            continue
        with _taken(path) as free:
            if free:
                shutil.rmtree(path, ignore_errors=True)
                removed += not path.exists()
    return removed


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Hold that directory if nobody does and it is of our user; whether."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _is_free(descriptor)
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_uid == os.geteuid()
    except OSError:
        return False


def _remove_filling(directory: Path) -> int:
    """Indexes that were being written, long ago: a writer in another namespace has no pid here."""
    removed = 0
    for path in directory.rglob(".filling-*"):
        pid = path.name.removeprefix(".filling-").partition("-")[0]
        with contextlib.suppress(FileNotFoundError):
            long_ago = time.time() - path.stat().st_mtime > _WRITTEN_S
            if pid.isdigit() and long_ago and not Path(f"/proc/{pid}").exists():
                path.unlink()
                removed += 1
    return removed


def _kill_orphans() -> int:
    """Kill what a dead harness had started: its own children's children outlive it."""
    killed = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                killed += _kill_orphan(int(entry.name))
    return killed


def _kill_orphan(pid: int) -> bool:
    # Held while we look, the number cannot become another process's before the signal.
    descriptor = os.pidfd_open(pid)
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        prefix = f"{OWNER_VARIABLE}=".encode()
        mark = next((v.removeprefix(prefix) for v in variables if v.startswith(prefix)), b"")
        if not place.dead(mark.decode(errors="replace")):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    finally:
        os.close(descriptor)
