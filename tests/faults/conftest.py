# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: whole runs with real guests, after which nothing may be left."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import baseroot, build, process
from harness.build import Built
from harness.cache import Cache
from harness.supply import KernelFiles
from tests.faults.left_behind import nothing_left
from tests.faults.running import KERNEL
from tests.vm.conftest import backend, compiled, matrix, observer

__all__ = ["backend", "compiled", "matrix", "observer"]  # fixtures, as the tests of vm have them

_HERE = Path(__file__).parent
# What a run needs and what takes long to make, or to find out.
_LARGE = ("accel", "base-root", "btf-index", "build", "debs", "guest", "kernels", "raw-btf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this directory is a fault test."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="package", autouse=True)
def _nothing_is_left(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last of them in a process: no process, container, mount, lock or file of any."""
    with nothing_left(cache, tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture
def disk() -> Iterator[Callable[[str], Path]]:
    """Makes small disks, which are there until the end of the test."""
    with contextlib.ExitStack() as stack:

        def make(size: str) -> Path:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="d-")))
            options = f"size={size}"
            process.run(["mount", "-t", "tmpfs", "-o", options, "none", path], timeout_s=10)
            stack.callback(process.run, ["umount", path], timeout_s=60)
            return path

        yield make


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for caches: a guest's socket lies in one, and its path is limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="c-") as name:
        yield Path(name)


@pytest.fixture
def copy_of(
    cache: Cache, kernel: Callable[[str], KernelFiles], observer: Built
) -> Callable[..., Cache]:
    """A cache that has everything a run needs, but for what the test says."""
    kernel(KERNEL)
    root = baseroot.obtain(cache, print)
    build.objcheck(cache, print)
    for full in (False, True):
        baseroot.guest_archive(root, cache, print, full=full)

    def make(at: Path, *, lacks: tuple[str, ...] = ()) -> Cache:
        at.mkdir(parents=True, exist_ok=True)
        for kind in _LARGE:
            if kind not in lacks and (cache.root / kind).is_dir():
                (at / kind).symlink_to(cache.root / kind)
        return Cache(root=at)

    return make
