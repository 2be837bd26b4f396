# SPDX-License-Identifier: Apache-2.0
"""A file that is none, on the command line: one line, status 2 or 3, at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import baseline, bpfobject, catalogue, gate, history, merge, results, subject, supply
from harness.btf import Btf
from harness.btf.store import IndexStore
from harness.cache import Cache
from harness.errors import HarnessError
from harness.gate import read_coverage
from harness.vmlinuz import read_btf, read_image
from tests.gate import runs
from tests.hostile.bounded import answer
from tests.supply import images

TERABYTE = 1 << 40


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # an address has 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _directory(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(TERABYTE)


def _empty(path: Path) -> None:
    path.touch()


def _noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def _nested(path: Path) -> None:
    """What JSON and TOML parsers answer with a stack overflow."""
    path.write_bytes(b"[" * 300_000)


def _named(path: Path) -> None:
    path.write_bytes(b"a = " + b"[" * 100_000)


def _number(path: Path) -> None:
    path.write_bytes(b"a = " + b"9" * 10_000)


def _absent(path: Path) -> None:
    """There is no file."""


KINDS: dict[str, Callable[[Path], None]] = {
    "named-pipe": _pipe, "device": _device, "terminal": _terminal, "socket": _socket,
    "directory": _directory, "link-to-itself": _loop, "terabyte": _terabyte, "empty": _empty,
    "noise": _noise, "nested-json": _nested, "nested-toml": _named, "number": _number,
    "absent": _absent,
}  # fmt: skip
READERS: dict[str, Callable[[Path], object]] = {
    "object": bpfobject.inspect,
    "btf": Btf.from_file,
    "btf-index": lambda path: IndexStore(path.parent / "cache").open(path),
    "kernel-image": read_image,
    "kernel-btf": read_btf,
    "manifest": subject.read_manifest,
    "results": results.read,
    "baseline": baseline.read,
    "policy": gate.read_policy,
    "coverage": read_coverage,
    "catalogue-file": catalogue.read_table,
    "lock": supply.read_lock,
}
FINE = {("coverage", "absent"), ("lock", "absent"), ("coverage", "link-to-itself"),
        ("lock", "link-to-itself"), ("catalogue-file", "empty")}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_file_is_refused_in_a_line(tmp_path: Path, reader: str, kind: str) -> None:
    """Nobody waits for the other end of a pipe, nor reads a device to its end."""
    path = tmp_path / "it"
    KINDS[kind](path)

    said = answer(lambda: READERS[reader](path), memory_mib=256, seconds=20)

    if (reader, kind) in FINE:
        assert said == "fine"
    else:
        assert str(path) in said
        assert "\n" not in said


@pytest.mark.parametrize("kind", ["named-pipe", "device", "directory", "terabyte"])
def test_a_history_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """Reports read it, runs add to it."""
    path = tmp_path / history.FILE
    path.parent.mkdir()
    KINDS[kind](path)

    assert str(path) in answer(lambda: history.read(tmp_path), memory_mib=256)


def test_a_kernel_directory_of_pipes_holds_no_kernel(tmp_path: Path) -> None:
    """--kernel-dir takes any directory."""
    for name in ("vmlinuz", "vmlinux.btf", "config", "System.map"):
        os.mkfifo(tmp_path / name)

    said = answer(lambda: supply.from_directory(tmp_path, cache=Cache(root=tmp_path / "cache")))

    assert said == f"no kernel image in '{tmp_path}'"


def test_a_kernel_of_a_terabyte_is_not_copied(tmp_path: Path) -> None:
    """The cache would be filled with it."""
    _terabyte(tmp_path / "vmlinuz")

    said = answer(lambda: supply.from_directory(tmp_path, cache=Cache(root=tmp_path / "cache")))

    assert "the most that is read" in said


@pytest.mark.parametrize(
    "name", ["config", ".config", "System.map", "config-6.1", "System.map-6.1"]
)
def test_a_terabyte_beside_a_kernel_is_refused_before_anything_is_hashed(
    tmp_path: Path, name: str
) -> None:
    """Every cell's inputs are hashed, and the config goes into the guest's archive."""
    image = images.bzimage("6.1.0-x", images.vmlinux("6.1.0-x", with_btf=images.btf(), pad=3000))
    (tmp_path / ("vmlinuz-6.1" if name.endswith("-6.1") else "vmlinuz")).write_bytes(image)
    _terabyte(tmp_path / name)
    cache = Cache(root=tmp_path / "cache")

    said = answer(lambda: supply.from_directory(tmp_path, cache=cache), memory_mib=256)

    assert f"cannot read '{tmp_path / name}': it has {TERABYTE:,} bytes" in said
    assert "\n" not in said
    assert not (cache.root / "images").exists()


def _shard(directory: Path, name: str) -> Path:
    directory.mkdir()
    results.write(runs.run(runs.cell(name), planned=("a", "b")), directory / "results.json")
    (directory / "kernels").mkdir()
    return directory


def test_what_a_shard_links_to_is_neither_copied_nor_written(tmp_path: Path) -> None:
    """The first shard has a link where the second has a directory of that name."""
    secret, victim = tmp_path / "secret", tmp_path / "victim"
    secret.write_text("secret")
    victim.mkdir()
    one, two = _shard(tmp_path / "one", "a"), _shard(tmp_path / "two", "b")
    (one / "kernels" / "x").symlink_to(victim)
    (one / "kernels" / "secret").symlink_to(secret)
    os.mkfifo(one / "kernels" / "pipe")
    (one / "kernels" / "zero").symlink_to("/dev/zero")
    (two / "kernels" / "x").mkdir()
    (two / "kernels" / "x" / "log").write_text("evil")

    said = answer(lambda: merge.merge([one, two], tmp_path / "out"), memory_mib=256)

    assert said == "fine"
    assert not list(victim.iterdir())
    copied = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*"))
    assert copied == ["kernels", "kernels/x", "kernels/x/log"]


def test_a_shard_whose_evidence_is_a_link_brings_none(tmp_path: Path) -> None:
    """kernels -> /etc would put that into a report."""
    one = _shard(tmp_path / "one", "a")
    (one / "kernels").rmdir()
    (one / "kernels").symlink_to("/etc")

    merge.merge([one], tmp_path / "out")

    assert not (tmp_path / "out" / "kernels").exists()


@pytest.mark.parametrize("started", ["", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59"])
def test_results_of_no_moment_keep_the_gate_closed(started: str) -> None:
    """Somebody may have edited them; that is no traceback, and no open gate."""
    run = runs.run(runs.cell("a"))
    run = replace(run, run=replace(run.run, started=started))
    policy = gate.Policy(kernels=("a",), lines=(gate.Line(title="boots", checks=("boot",)),))

    decision = gate.decide(run, policy, now=runs.STARTED.replace(year=2030))

    assert decision.status != 0


def test_each_refusal_is_a_harness_error(tmp_path: Path) -> None:
    """What `answer` takes for one, is one."""

    with pytest.raises(HarnessError, match="No such file"):
        results.read(tmp_path / "absent")
