# SPDX-License-Identifier: Apache-2.0
"""A cache of directories, each filled once under a key of what it is made from.

Layout: `<root>/<kind>/<key>/` with a `.manifest` of every file's size and sha256. A filler works in
a directory aside that is renamed when it is complete, so that a reader never sees half an entry;
an entry whose files no longer match the manifest is filled again. Processes share the cache: one
fills, the others wait for its lock and look again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from harness import process
from harness.errors import HarnessError

logger = logging.getLogger(__name__)

_MANIFEST = ".manifest"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,120}")
_ROOM = "free some space there, or name another in KERNEL_MATRIX_CACHE"
_FULL_BYTES = 64 << 10  # a disk with less has no room for anything that we make
_LOCK_TIMEOUT_S = 1800.0  # another process may be downloading hundreds of MB
_LOCK_TURN_S = 1.0
_QUIET_S = 2.0  # of a wait for a lock: most are shorter, and not worth a word


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """The cache under `root`; nothing is created before the first entry is filled."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """KERNEL_MATRIX_CACHE, or kernel-matrix under the user's cache directory."""
        named = os.environ.get("KERNEL_MATRIX_CACHE")
        if named:
            return cls(root=Path(named).expanduser().absolute())
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(root=Path(base).expanduser().absolute() / "kernel-matrix")

    def entry(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """The directory of `key`, made by `fill(directory)` unless it is there and unharmed."""
        _check_name(kind)
        _check_name(key)
        final = self.root / kind / key
        if self._usable(final):
            return final
        with self.locked(f"{kind}-{key}"):
            if self._usable(final):
                return final
            with _our_failures(self.root):
                self._fill(final, fill)
        return final

    def find(self, kind: str, key: str) -> Path | None:
        """The directory of `key` if it is there and unharmed."""
        final = self.root / kind / key
        return final if self._usable(final) else None

    def discard(self, kind: str, key: str) -> None:
        """Give up the space of an entry that is not needed any more."""
        with self.locked(f"{kind}-{key}"):
            _remove(self.root / kind / key)

    def remove_partial(self) -> int:
        """Remove what killed fillers left half-made, theirs alone; how many entries and files."""
        removed = 0
        for path in [*self.root.glob("*/.*.partial"), *self.root.glob("*/.*.old")]:
            key = path.name[1:].rpartition(".")[0]
            with self._if_free(f"{path.parent.name}-{key}") as free:
                if free:
                    _remove(path)
                    removed += 1
        for root in self.root.glob("apt/*"):
            with self._if_free(f"apt-{root.name}") as free:
                fetching = [*root.glob("*/partial/*"), *root.glob("*/*/partial/*")] if free else []
                for path in fetching:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    @contextlib.contextmanager
    def _if_free(self, name: str) -> Iterator[bool]:
        """Hold that lock if nobody does; whether."""
        lock = filelock.FileLock(self.directory("locks") / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except (filelock.Timeout, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def directory(self, *names: str) -> Path:
        """A plain directory of the cache that its user keeps in order itself, under a lock."""
        path = self.root.joinpath(*names)
        with _our_failures(self.root):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of that name against every other process that uses this cache."""
        _check_name(name)
        path = self.directory("locks") / f"{name}.lock"
        lock = filelock.FileLock(path)
        with _our_failures(self.root):
            _acquire(lock, path)
        try:
            yield
        finally:
            lock.release()

    def _usable(self, final: Path) -> bool:
        if not final.is_dir():
            return False
        damage = _damage(final)
        if damage:
            logger.warning("the cached '%s' is damaged (%s); making it again", final, damage)
        return not damage

    def _fill(self, final: Path, fill: Callable[[Path], None]) -> None:
        # We hold the key's lock, so whatever lies aside belongs to a filler that was killed.
        aside = final.with_name(f".{final.name}.partial")
        old = final.with_name(f".{final.name}.old")
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)
        _remove(old)
        aside.mkdir()
        try:
            try:
                fill(aside)
            except HarnessError as error:
                if not _is_full(aside, error):
                    raise
                raise HarnessError(
                    f"no space left for the cache '{self.root}': {error.message}", hint=_ROOM
                ) from error
            _write_manifest(aside)
            if final.exists():
                final.rename(old)
            aside.rename(final)
        finally:
            _remove(aside)
            _remove(old)


def _acquire(lock: filelock.BaseFileLock, path: Path) -> None:
    """Wait for the lock, in turns short enough to hear that the harness is to end."""
    end = time.monotonic() + _LOCK_TIMEOUT_S
    told = False
    while True:
        process.raise_if_stopping()
        try:
            lock.acquire(timeout=_LOCK_TURN_S)
        except filelock.Timeout:
            if not told and time.monotonic() > end - _LOCK_TIMEOUT_S + _QUIET_S:
                logger.warning("waiting for another run, or kernel, that is making '%s'", path.stem)
                told = True
            if time.monotonic() < end:
                continue
            raise HarnessError(
                f"another process has held '{path}' for {_LOCK_TIMEOUT_S:g} s",
                hint="find out what hangs there and end it",
            ) from None
        return


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(directory: Path) -> None:
    files = {
        str(path.relative_to(directory)): [path.stat().st_size, sha256_of(path)]
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    (directory / _MANIFEST).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def _damage(directory: Path) -> str:
    """What is wrong with the entry, "" when every file is as it was made."""
    try:
        files = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        for name, (size, digest) in files.items():
            path = directory / name
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found} bytes, not {size}"
            if sha256_of(path) != digest:
                return f"{name} has another sha256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _is_full(directory: Path, error: HarnessError) -> bool:
    """Whether what failed there failed for want of space: programs say it in their own words."""
    if os.strerror(errno.ENOSPC) in error.message:
        return True
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize < _FULL_BYTES


def _check_name(name: str) -> None:
    if not _SAFE.fullmatch(name):
        raise HarnessError(f"'{name}' cannot name a cache entry")


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _our_failures(root: Path) -> Iterator[None]:
    """A full or read-only cache is something a person can mend, so say it in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(f"no space left for the cache '{root}'", hint=_ROOM) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            message, hint = f"cannot write the cache '{root}'", "make it writable"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG):
            message, hint = f"the cache '{root}' cannot be a directory: {error.strerror}", ""
        else:
            raise HarnessError(f"the cache '{root}' failed: {error}") from error
        raise HarnessError(
            message, hint=f"{hint}{', or ' if hint else ''}name another in KERNEL_MATRIX_CACHE"
        ) from error
