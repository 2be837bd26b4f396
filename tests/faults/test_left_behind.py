# SPDX-License-Identifier: Apache-2.0
"""The check that nothing is left: it sees what it has to see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import process
from harness.cache import Cache
from tests.faults.left_behind import MARK, nothing_left


@contextlib.contextmanager
def _process(root: Path) -> Iterator[str]:
    with process.held(["sleep", "600"]) as child:
        yield f"process {child.pid}: "


@contextlib.contextmanager
def _orphan(root: Path) -> Iterator[str]:
    """A daemon has another parent and another session; the mark in its environment stays."""
    done = process.run(["setsid", "--fork", "sh", "-c", "echo $$; exec sleep 600 >&- 2>&-"],
                       timeout_s=10)  # fmt: skip
    pid = int(done.text)
    try:
        yield f"process {pid}: sleep 600"
    finally:
        os.kill(pid, 9)


@contextlib.contextmanager
def _thread(root: Path) -> Iterator[str]:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="container-end", daemon=True)
    thread.start()
    yield "thread container-end"
    ended.set()
    thread.join()


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[str]:
    with (root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield f"lock FLOCK ADVISORY WRITE {os.getpid()} "


@contextlib.contextmanager
def _mount(root: Path) -> Iterator[str]:
    disk = root / "reports" / "a disk"
    disk.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], timeout_s=10)
    try:
        yield f"mount {disk}"
    finally:
        process.run(["umount", disk], timeout_s=10)


@contextlib.contextmanager
def _temporary_file(root: Path) -> Iterator[str]:
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    yield f"file {name}"  # which goes with its directory


@contextlib.contextmanager
def _half_a_file(root: Path) -> Iterator[str]:
    half = root / "reports" / ".results.json.x7"
    half.write_text("{")
    yield f"file {half}"
    half.unlink()


@contextlib.contextmanager
def _run_directory(root: Path) -> Iterator[str]:
    """Of a harness that is dead."""
    (root / "cache" / "run" / "999999999-1-x").mkdir(parents=True)
    yield f"file {root / 'cache' / 'run' / '999999999-1-x'}"


@contextlib.contextmanager
def _half_an_entry(root: Path) -> Iterator[str]:
    (root / "cache" / "kernels" / ".key.partial").mkdir(parents=True)
    yield f"file {root / 'cache' / 'kernels' / '.key.partial'}"


_TRACES: tuple[Callable[[Path], contextlib.AbstractContextManager[str]], ...] = (
    _process, _orphan, _thread, _lock, _mount, _temporary_file, _half_a_file, _run_directory,
    _half_an_entry,
)  # fmt: skip


@pytest.mark.parametrize("trace", _TRACES, ids=lambda trace: trace.__name__.strip("_"))
def test_every_kind_of_trace_is_named(
    tmp_path: Path, trace: Callable[[Path], contextlib.AbstractContextManager[str]]
) -> None:
    (tmp_path / "reports").mkdir()
    cache = Cache(root=tmp_path / "cache")

    with (
        contextlib.ExitStack() as stack,
        pytest.raises(AssertionError, match="left behind") as caught,
        nothing_left(cache, tmp_path / "reports", patience_s=0),
    ):
        named = stack.enter_context(trace(tmp_path))

    lines = str(caught.value).splitlines()
    assert [line for line in lines[1:] if line.startswith(named)], lines


def test_who_leaves_nothing_passes_and_the_environment_is_as_before(tmp_path: Path) -> None:
    before = {name: os.environ.get(name) for name in (MARK, "TMPDIR")}

    with nothing_left(Cache(root=tmp_path / "cache"), tmp_path) as watched:
        with tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).parent == watched.scratch
        process.run(["true"], timeout_s=10)

    assert {name: os.environ.get(name) for name in (MARK, "TMPDIR")} == before
    assert not watched.scratch.exists()
