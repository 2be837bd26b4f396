# SPDX-License-Identifier: Apache-2.0
"""What the tests of several directories share: the machine's cache and its kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import catalogue, paths, supply
from harness.cache import Cache
from harness.errors import UnavailableError
from harness.supply import KernelFiles

OLDEST, NEWEST = "5.10-oldest", "7.3-newest"


@pytest.fixture(scope="session")
def cache() -> Cache:
    """The machine's own: kernels and the base root are too large to fetch for a test."""
    return Cache.default()


@pytest.fixture(scope="session")
def kernel(cache: Cache) -> Callable[[str], KernelFiles]:
    """A kernel of the catalogue, as locked."""
    directory = paths.catalogue_dir()
    known = {kernel.name: kernel for kernel in catalogue.load(directory).kernels}
    lock = supply.read_lock(directory / "kernels.lock")

    def obtain(name: str) -> KernelFiles:
        try:
            return supply.obtain(known[name], cache=cache, lock=lock)
        except UnavailableError as error:
            pytest.skip(f"{name} cannot be had here: {error.message}")

    return obtain


@pytest.fixture(scope="session")
def oldest(kernel: Callable[[str], KernelFiles]) -> KernelFiles:
    return kernel(OLDEST)


@pytest.fixture(scope="session")
def newest(kernel: Callable[[str], KernelFiles]) -> KernelFiles:
    return kernel(NEWEST)
