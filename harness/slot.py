# SPDX-License-Identifier: Apache-2.0
"""The machine's slot: guests that are timed have the machine to themselves.

Ordinary guests hold it together, a timed one alone, across all harnesses of all users of the
machine. The locks are flock(2)'s, so those of a process that dies are free at once. Whoever waits
for the machine alone holds the door meanwhile: nobody new comes in, and it does not starve.

They lie where all users meet: in /run/lock or /tmp. Another user's file is opened for reading, which
is all that flock needs: nothing there is ever written, truncated or followed to somewhere else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.cache import Cache
from harness.errors import HarnessError

SETTING = "KERNEL_MATRIX_SLOT"  # a directory: for containers of one machine, that share a volume
_MEETING_PLACES = (Path("/run/lock"), Path("/tmp"))
_DOOR, _SLOT = "kernel-matrix.door", "kernel-matrix.slot"
_POLL_S = 0.1


@contextlib.contextmanager
def hold(
    cache: Cache, *, alone: bool, given_up: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the slot for the block. HarnessError when `given_up` says so while it waits."""
    with hold_in(place(cache), alone=alone, given_up=given_up):
        yield


@contextlib.contextmanager
def hold_in(
    directory: Path, *, alone: bool, given_up: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold a slot of its own, whose locks lie in that directory."""
    with contextlib.ExitStack() as held:
        while True:
            with contextlib.ExitStack() as inside:
                with _opened(directory / _DOOR) as door:
                    slot = inside.enter_context(_opened(directory / _SLOT))
                    _acquire(door, fcntl.LOCK_EX, given_up)
                    _acquire(slot, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, given_up)
                    current = _is(door, directory / _DOOR) and _is(slot, directory / _SLOT)
                if current:
                    held.push(inside.pop_all())
                    break
        yield


def place(cache: Cache) -> Path:
    """The directory of the locks: where every user of the machine may put one, or the cache's."""
    named = os.environ.get(SETTING)
    if named:
        return Path(named)
    return next((path for path in _MEETING_PLACES if _meets(path)), None) or cache.directory(
        "locks"
    )


def _meets(directory: Path) -> bool:
    """Whether anybody may make a file there, that none but its owner and root can remove."""
    try:
        state = directory.stat()
    except OSError:
        return False
    wanted = stat.S_ISVTX | stat.S_IWOTH | stat.S_IXOTH
    return (
        state.st_uid == 0
        and stat.S_IMODE(state.st_mode) & wanted == wanted
        and os.access(directory, os.W_OK | os.X_OK)
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Each holder opens it anew: two threads with one descriptor would share a lock."""
    try:
        descriptor = _open(path)
    except OSError as error:
        raise HarnessError(
            f"cannot open the lock '{path}': {error.strerror}",
            hint=f"remove it, or name a directory that can be written in {SETTING}",
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HarnessError(f"the lock '{path}' is no file", hint="remove it")
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    # O_NONBLOCK: a pipe that somebody put there would hang us.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        # Not O_CREAT alone: fs.protected_regular refuses that for another user's file.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(descriptor, 0o644)  # whatever our umask is, others have to open it
            return descriptor


def _is(descriptor: int, path: Path) -> bool:
    """Whether it is still that file: who cleans /tmp may have removed it, and somebody made another."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _acquire(descriptor: int, kind: int, given_up: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if given_up():
                raise HarnessError("interrupted while it waited for the machine") from None
            time.sleep(_POLL_S)
        else:
            return
