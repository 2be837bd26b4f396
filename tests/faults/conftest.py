# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: whole runs with real guests, after which nothing may be left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cache import Cache
from tests.faults.left_behind import nothing_left
from tests.vm.conftest import backend, compiled, matrix, observer

__all__ = ["backend", "compiled", "matrix", "observer"]  # fixtures, as the tests of vm have them

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this directory is a fault test."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test: no process, container, mount, lock or file of any."""
    with nothing_left(cache, tmp_path_factory.getbasetemp()):
        yield
