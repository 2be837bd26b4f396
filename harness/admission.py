# SPDX-License-Identifier: Apache-2.0
"""Admission: a guest starts when there is memory and a core for it, and waits while there is not.

What is free is read anew for each guest: the machine's MemAvailable and what the limits of our own
control group leave. A guest takes its memory little by little, so what was promised to guests that
run already and is not yet resident is taken off. Each promise is a file in the cache, which whoever
holds it has locked with flock(2): those of all harnesses of this machine that share the cache count,
be they in other containers, and that of one that died counts no more.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import place
from harness.cache import Cache
from harness.errors import HarnessError

logger = logging.getLogger(__name__)

QEMU_MIB = 256  # what QEMU takes beside its guest's memory
_POLL_S = 0.25
_PATIENCE_S = 60.0  # for memory that nobody of ours holds: it may come back, or never
_LONGEST_S = 3600.0  # no cell takes longer, so whoever holds memory that long never ends
_CGROUPS = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """The memory that a live harness holds for a guest."""

    owner: str  # place.owner()
    guest_mib: int


class Admission:
    """One run's door to the machine."""

    def __init__(self, cache: Cache, *, guests: int, host: Path = Path("/")) -> None:
        """guests: how many this run may have at once. host: where /proc and /sys are (tests)."""
        self._cache = cache
        self._guests = guests
        self._host = host
        self._patience_s = _PATIENCE_S

    @contextlib.contextmanager
    def hold(
        self, memory_mib: int, *, cgroup: bool, given_up: Callable[[], bool],
        waiting: Callable[[str], None],
    ) -> Iterator[None]:  # fmt: skip
        """Hold the memory of a guest (`memory_mib`, as it sees it) and a core for the block.

        cgroup: the guest counts against our own control group's limit. waiting: told why it
        waits. Raises HarnessError when there never is enough, or when `given_up` says so.
        """
        need_mib = memory_mib + QEMU_MIB
        self._refuse_impossible(need_mib, cgroup=cgroup)
        given = self._wait(need_mib, cgroup=cgroup, given_up=given_up, waiting=waiting)
        with given:
            yield

    def _refuse_impossible(self, need_mib: int, *, cgroup: bool) -> None:
        total = total_mib(self._host, cgroup=cgroup)
        if total is not None and total < need_mib:
            raise HarnessError(
                f"a guest needs {need_mib} MiB of memory, this machine gives {total} MiB in all",
                hint="run it on a machine, or in a container, with more memory",
            )

    def _wait(
        self, need_mib: int, *, cgroup: bool, given_up: Callable[[], bool],
        waiting: Callable[[str], None],
    ) -> contextlib.ExitStack:  # fmt: skip
        """What was promised, to be given back."""
        started = time.monotonic()
        idle_since = started  # since when nobody of ours holds memory that could come free
        told = ""
        while True:
            with self._promises() as promises:
                lack = self._lack(promises, need_mib, cgroup=cgroup)
                if not lack:
                    self._patience_s = _PATIENCE_S
                    return _promised(self._directory(), need_mib)
                held = len(promises)
            now = time.monotonic()
            if held:
                idle_since = now
            if given_up():
                raise HarnessError("interrupted while it waited for memory")
            in_vain = not held and now - idle_since >= self._patience_s
            if in_vain or now - started >= _LONGEST_S:
                self._patience_s = 0.0  # every further guest would wait for the same
                raise HarnessError(
                    f"no room for a guest within {now - started:.0f} s: {lack}",
                    hint="end what takes the memory, or run it on a machine with more",
                )
            reason = lack.partition(",")[0].partition(" (")[0]  # without what changes
            if reason != told:
                told = reason
                waiting(lack)
            time.sleep(_POLL_S)

    def _lack(self, promises: Sequence[Promise], need_mib: int, *, cgroup: bool) -> str:
        """What a guest would have to wait for, "" when it may start."""
        own = any(promise.owner == place.owner() for promise in promises)
        running = len(promises)
        # A harness always gets one, so that none starves beside another.
        if own and running >= max(self._guests, cores(self._host)):
            return f"waits for a core ({running} guests running)"
        free = free_mib(self._host, cgroup=cgroup)
        if free is None:
            return ""
        promised: collections.Counter[str] = collections.Counter()
        for promise in promises:
            promised[promise.owner] += promise.guest_mib
        untouched = sum(
            max(0, mib - _resident_mib(self._host, owner)) for owner, mib in promised.items()
        )
        if free - untouched >= need_mib:
            return ""
        return (
            f"waits for {need_mib} MiB of memory, {max(0, free - untouched)} MiB are free "
            f"beside what was promised ({running} running)"
        )

    @contextlib.contextmanager
    def _promises(self) -> Iterator[list[Promise]]:
        """Every live harness's promises on this machine; nobody makes one during the block."""
        directory = self._directory()
        with _locked(directory.with_name("machine.memory")):
            found = (_kept(path) for path in sorted(directory.iterdir()))
            # Machines that share a cache do not share their memory.
            yield [one for one in found if one is not None and place.on_this_machine(one.owner)]

    def _directory(self) -> Path:
        return self._cache.directory("locks", "memory")


def _promised(directory: Path, mib: int) -> contextlib.ExitStack:
    """A promise of ours, for as long as the stack is open or we live."""
    with contextlib.ExitStack() as stack:
        descriptor, name = tempfile.mkstemp(dir=directory)
        stack.callback(os.close, descriptor)
        stack.callback(Path(name).unlink, missing_ok=True)  # before it is free
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, f"{place.owner()} {mib}\n".encode("ascii"))
        os.fchmod(descriptor, 0o644)
        return stack.pop_all()


def _kept(path: Path) -> Promise | None:
    """The promise in that file; none, and the file is removed, when nobody holds it."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner, _, mib = file.read(1 << 10).decode("ascii", errors="replace").partition(" ")
                return Promise(owner=owner, guest_mib=int(mib))
            path.unlink()
    except (OSError, ValueError) as error:  # given back meanwhile, or not ours to remove
        logger.debug("promise '%s': %s", path, error)
    return None


def cores(host: Path = Path("/")) -> int:
    """CPUs that we may use: those of our affinity, and no more than the control group's quota."""
    count = len(os.sched_getaffinity(0))
    for group in _own_groups(host):
        quota = _words(group / "cpu.max")
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
            count = min(count, -(-int(quota[0]) // int(quota[1])))
    return max(1, count)


def free_mib(host: Path = Path("/"), *, cgroup: bool) -> int | None:
    """Memory that is free now, None where this cannot be read."""
    found = _meminfo_mib(host, "MemAvailable")
    if not cgroup:
        return found
    free = [] if found is None else [found]
    for group in _own_groups(host):
        limit, used = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None and used is not None:
            # The page cache counts as used, and goes when something else needs the room.
            cached = dict(zip(*[iter(_words(group / "memory.stat"))] * 2, strict=False))
            free.append((limit - used + int(cached.get("inactive_file", 0))) >> 20)
    return min(free) if free else None


def total_mib(host: Path = Path("/"), *, cgroup: bool) -> int | None:
    """Memory that could ever be free, None where this cannot be read."""
    found = [_meminfo_mib(host, "MemTotal")]
    if cgroup:
        limits = (_number(group / "memory.max") for group in _own_groups(host))
        found += [None if limit is None else limit >> 20 for limit in limits]
    return min((mib for mib in found if mib is not None), default=None)


def _own_groups(host: Path) -> list[Path]:
    """Our control group (version 2) and those around it."""
    root = host / _CGROUPS.relative_to("/")
    try:
        lines = (host / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    inside = Path(os.path.normpath(own.lstrip("/") or "."))
    return [root / inside, *(root / parent for parent in inside.parents)]


def _meminfo_mib(host: Path, name: str) -> int | None:
    words = _words(host / _MEMINFO.relative_to("/"))
    try:
        return int(words[words.index(f"{name}:") + 1]) >> 10
    except ValueError:
        return None


def _resident_mib(host: Path, owner: str) -> int:
    """What the children of a harness, its guests, have of their memory already; 0 if not seen."""
    if not place.alive(owner):
        return 0  # in another container, where its pid is another process
    pages = 0
    waiting = [owner.partition(":")[0]]
    while waiting:
        for children in (host / "proc" / waiting.pop()).glob("task/*/children"):
            for pid in _words(children):
                waiting.append(pid)  # QEMU may be a child of what confines it
                counts = _words(host / "proc" / pid / "statm")
                pages += int(counts[1]) if len(counts) > 1 else 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise HarnessError(
            f"cannot open '{path}': {error.strerror}", hint="make the cache writable"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for milliseconds
        yield descriptor
    finally:
        os.close(descriptor)
