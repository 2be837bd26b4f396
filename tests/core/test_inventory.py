# SPDX-License-Identifier: Apache-2.0
"""Kernels that cannot be had: said per kernel with the reason, in seconds, and the rest goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import inventory, paths
from harness.cache import Cache
from harness.errors import UsageError

NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(root=tmp_path / "cache")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A project of its own, with our catalogue, and no server that answers."""
    catalogue = paths.catalogue_dir()
    shutil.copytree(catalogue, tmp_path / "kernels")
    monkeypatch.chdir(tmp_path)
    for name in ("DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR", "SNAPSHOT_MIRROR"):
        monkeypatch.setenv(f"KERNEL_MATRIX_{name}", f"{NOWHERE}/{name.lower()}")


def test_fetching_says_for_each_kernel_why_it_cannot_be_had(cache: Cache) -> None:
    lines, status = inventory.fetch("5.10", "x86_64", cache, lambda event: None)

    assert status == 3
    assert [line.split()[:2] for line in lines] == [
        ["5.10-oldest", "unavailable:"], ["5.10-newest", "unavailable:"],
    ]  # fmt: skip
    assert all("127.0.0.1" in line for line in lines)


def test_locking_keeps_the_lock_when_no_server_answers(cache: Cache, tmp_path: Path) -> None:
    """A refresh without network may not lose what was pinned."""
    path = tmp_path / "kernels" / "kernels.lock"
    before = inventory.load_lock()

    lines, status = inventory.lock("5.10", "x86_64", cache, lambda event: None)

    assert status == 0
    assert "0 changed: none" in lines[0]
    assert len([line for line in lines if line.startswith("unavailable: ")]) == 2
    assert inventory.lock_path() == path
    assert inventory.load_lock() == before


def test_a_list_says_what_a_download_would_cost(cache: Cache) -> None:
    text = inventory.kernels_text("5.10-oldest", "x86_64", cache)

    assert "MB away" in text
    assert "5.10-oldest" in text


def test_without_a_lock_the_list_still_stands(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "kernels" / "kernels.lock").unlink()

    assert inventory.load_lock() is None
    assert "5.10-newest" in inventory.kernels_text("5.10", "x86_64", cache)
    assert "arm64" in inventory.kernels_text("5.10", "arm64", cache)


def test_shards_are_a_list_that_a_ci_matrix_takes() -> None:
    assert inventory.shards("5.10,6.1", 2) == '["1/2", "2/2"]'
    assert inventory.shards("5.10-oldest", 2) == '["1/1"]'
    with pytest.raises(UsageError, match="none"):
        inventory.shards("5.10", 0)
