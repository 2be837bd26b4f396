# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: whole runs with real guests, after which nothing may be left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.conftest import backend, compiled, matrix, observer

__all__ = ["backend", "compiled", "matrix", "observer"]  # fixtures, as the tests of vm have them

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this directory is a fault test."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.faults)
