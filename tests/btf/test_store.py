# SPDX-License-Identifier: Apache-2.0
"""The index store: same answers as without, safe when damaged, shared or read-only."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.btf import Btf
from harness.btf.store import IndexStore
from tests.btf import cases


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.btf"
    path.write_bytes(cases.make(7).target)
    return path


def _names(btf: Btf) -> list[list[int]]:
    return [btf.ids_of_essential(name) for name in (b"s", b"t", b"e", b"td", b"int", b"none")]


def _indexes(root: Path) -> list[Path]:
    return [
        file
        for file in root.rglob("*")
        if file.is_file() and len(file.name) == 64 and file.parent.name == file.name[:2]
    ]


def test_a_stored_index_answers_as_a_fresh_one(tmp_path: Path, blob: Path) -> None:
    """The second opening parses nothing and must not differ."""
    store = IndexStore(tmp_path / "cache")

    first, second = store.open(blob), store.open(blob)

    assert store.knows(blob)
    assert first.offsets == second.offsets
    assert _names(first) == _names(second) == _names(Btf.from_file(blob))


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_index_is_made_again(tmp_path: Path, blob: Path, damage: bytes | None) -> None:
    """A crash or a bad disk costs time, never a wrong offset."""
    store = IndexStore(tmp_path / "cache")
    wanted = _names(store.open(blob))
    (index,) = _indexes(tmp_path / "cache")
    data = index.read_bytes()
    index.write_bytes(data[:-4] + b"\xff\xff\xff\xff" if damage is None else damage)

    assert _names(store.open(blob)) == wanted
    assert _names(store.open(blob)) == wanted
    assert index.read_bytes() == data


def test_a_changed_file_has_another_index(tmp_path: Path, blob: Path) -> None:
    """Content decides, not the name."""
    store = IndexStore(tmp_path / "cache")
    store.open(blob)
    blob.write_bytes(cases.make(8).target)
    os.utime(blob, ns=(1, 1))

    assert _names(store.open(blob)) == _names(Btf.from_file(blob))
    assert len(_indexes(tmp_path / "cache")) == 2


def test_many_may_fill_it_at_once(tmp_path: Path, blob: Path) -> None:
    """Shards of one run share the cache."""
    wanted = _names(Btf.from_file(blob))

    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda _: _names(IndexStore(tmp_path / "cache").open(blob)), range(16))
        )

    assert found == [wanted] * 16
    assert len(_indexes(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").rglob(".filling-*"))


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, blob: Path) -> None:
    """A full disk or a file in the way: slower, not wrong."""
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the directory should be")

    assert _names(IndexStore(blocked).open(blob)) == _names(Btf.from_file(blob))
