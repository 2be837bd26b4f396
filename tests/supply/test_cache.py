# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.cache import Cache
from harness.errors import HarnessError


def filler(content: bytes = b"content") -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        (directory / "file").write_bytes(content)

    return fill


def unexpected(directory: Path) -> None:
    raise AssertionError(f"filled again: {directory}")


def test_an_entry_is_filled_once(tmp_path: Path) -> None:
    """The second run downloads nothing."""
    cache = Cache(root=tmp_path)
    first = cache.entry("kind", "key", filler())

    assert cache.entry("kind", "key", unexpected) == first
    assert cache.find("kind", "key") == first
    assert cache.find("kind", "other") is None


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: path.write_bytes(b"cont"), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b"CONTENT"), id="same-size"),
        pytest.param(lambda path: path.unlink(), id="missing"),
        pytest.param(lambda path: (path.parent / ".manifest").unlink(), id="no-manifest"),
        pytest.param(lambda path: (path.parent / ".manifest").write_text("[]"), id="odd-manifest"),
        pytest.param(lambda path: (path.parent / ".manifest").write_text("{"), id="half-manifest"),
    ],
)
def test_a_damaged_entry_is_filled_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Disks fill up and people edit things; neither may end in a wrong verdict."""
    cache = Cache(root=tmp_path)
    harm(cache.entry("kind", "key", filler()) / "file")

    again = cache.entry("kind", "key", filler())

    assert (again / "file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "kind").iterdir()] == ["key"]


def test_a_failed_filling_leaves_nothing(tmp_path: Path) -> None:
    """A half entry must never be taken for a whole one."""

    def fill(directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise HarnessError("the network went away")

    with pytest.raises(HarnessError, match="network"):
        Cache(root=tmp_path).entry("kind", "key", fill)

    assert list((tmp_path / "kind").iterdir()) == []


def test_what_a_killed_filler_left_is_swept(tmp_path: Path) -> None:
    """SIGKILL runs no handlers."""
    left = tmp_path / "kind" / ".key.partial"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")

    entry = Cache(root=tmp_path).entry("kind", "key", filler())

    assert sorted(path.name for path in entry.iterdir()) == [".manifest", "file"]
    assert not left.exists()


def _compete(root: Path, log: Path) -> None:
    def fill(directory: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        (directory / "file").write_bytes(b"x")
        time.sleep(0.3)  # long enough for the others to be waiting at the lock

    Cache(root=root).entry("kind", "key", fill)


def test_processes_at_once_fill_an_entry_once(tmp_path: Path) -> None:
    """Two runs started together share the download."""
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    children = [context.Process(target=_compete, args=(tmp_path / "c", log)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)

    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_threads_at_once_fill_an_entry_once(tmp_path: Path) -> None:
    """The pipeline obtains kernels side by side, some of the same packages."""
    fillings: list[int] = []

    def fill(directory: Path) -> None:
        fillings.append(1)
        time.sleep(0.1)
        (directory / "file").write_bytes(b"x")

    cache = Cache(root=tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.entry("kind", "key", fill), range(4)))

    assert len(set(found)) == len(fillings) == 1


def test_a_discarded_entry_is_gone(tmp_path: Path) -> None:
    """Debug packages take hundreds of MB."""
    cache = Cache(root=tmp_path)
    cache.entry("kind", "key", filler())

    cache.discard("kind", "key")

    assert cache.find("kind", "key") is None
    assert list((tmp_path / "kind").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "cannot write the cache"),
        (errno.EIO, "failed"),
    ],
)
def test_a_full_or_read_only_disk_is_said_plainly(tmp_path: Path, number: int, says: str) -> None:
    """The person can mend this one, so tell them where and how."""

    def fill(directory: Path) -> None:
        raise OSError(number, os.strerror(number), str(directory))

    with pytest.raises(HarnessError, match=says) as caught:
        Cache(root=tmp_path).entry("kind", "key", fill)

    assert str(tmp_path) in caught.value.message


def test_a_file_in_the_cache_s_place_is_said_plainly(tmp_path: Path) -> None:
    """KERNEL_MATRIX_CACHE may name anything."""
    (tmp_path / "file").touch()

    with pytest.raises(HarnessError, match="cannot be a directory"):
        Cache(root=tmp_path / "file").entry("kind", "key", filler())


def test_a_read_only_cache_still_serves_what_it_has(tmp_path: Path) -> None:
    """A CI job may mount it read-only: then nothing may be written, locks included."""
    cache = Cache(root=tmp_path / "cache")
    entry = cache.entry("kind", "key", filler())
    locks = tmp_path / "cache" / "locks"
    before = sorted(locks.iterdir())
    for path in before:
        path.unlink()

    assert cache.entry("kind", "key", unexpected) == entry
    assert list(locks.iterdir()) == []


@pytest.mark.parametrize("key", ["", "..", "a/b", ".hidden", "x" * 200])
def test_a_key_cannot_leave_the_cache(tmp_path: Path, key: str) -> None:
    """Keys are made from others' words at times."""
    with pytest.raises(HarnessError, match="cannot name"):
        Cache(root=tmp_path).entry("kind", key, filler())


def test_the_environment_places_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours first, then the desktop's convention."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KERNEL_MATRIX_CACHE", raising=False)

    assert Cache.default().root == tmp_path / "kernel-matrix"

    monkeypatch.setenv("KERNEL_MATRIX_CACHE", str(tmp_path / "mine"))

    assert Cache.default().root == tmp_path / "mine"
