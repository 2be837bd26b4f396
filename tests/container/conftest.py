# SPDX-License-Identifier: Apache-2.0
"""Real kernels, a real engine: what the tests of this directory share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import baseroot, images, rundir
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.session import Files
from harness.supply import KernelFiles
from tests.conftest import NEWEST
from tests.vm.matrix import need_engine


@pytest.fixture(scope="session")
def root(cache: Cache) -> BaseRoot:
    return baseroot.obtain(cache, print)


@pytest.fixture(scope="session")
def boot_files(root: BaseRoot, cache: Cache, kernel: Callable[[str], KernelFiles]) -> Files:
    """What boots the newest kernel on this machine."""
    return Files(
        vmlinuz=kernel(NEWEST).vmlinuz, base=baseroot.guest_archive(root, cache, lambda text: None)
    )


@pytest.fixture(scope="session")
def image(
    root: BaseRoot, cache: Cache, kernel: Callable[[str], KernelFiles]
) -> Callable[[str], str]:
    """A kernel's image, built if need be."""
    need_engine()
    return lambda name: images.ensure_image(kernel(name), root, cache, lambda text: None)


@pytest.fixture
def run_dir(cache: Cache) -> Iterator[Path]:
    with rundir.run_directory(cache) as path:
        yield path
