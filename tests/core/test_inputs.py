# SPDX-License-Identifier: Apache-2.0
"""What a cell depends on tells it; what it does not depend on does not."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness import inputs
from harness.results import KernelFacts
from harness.subject import Manifest, Quarantine, Subject, bare
from harness.supply import KernelFiles


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    for name in ("x.bpf.o", "loader", "corpus", "libx.so", "baseline.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one").write_text("1")
    made = bare(tmp_path / "x.bpf.o")
    return msgspec.structs.replace(
        made, loader=tmp_path / "loader", files=(tmp_path / "corpus", tmp_path / "data"),
        baseline=tmp_path / "baseline.json",
    )  # fmt: skip


def _digest(subject: Subject) -> str:
    where = subject.object.parent if subject.object else Path()
    return inputs.of_subject(subject, {"/lib/libx.so": where / "libx.so"})


@pytest.mark.parametrize(
    "name", ["x.bpf.o", "loader", "corpus", "data/one", "baseline.json", "libx.so"]
)
def test_every_file_of_the_subject_counts(subject: Subject, tmp_path: Path, name: str) -> None:
    before = _digest(subject)
    (tmp_path / name).write_text("other")

    assert _digest(subject) != before


def _with(subject: Subject, change: Callable[[Manifest], Manifest]) -> Subject:
    return msgspec.structs.replace(subject, manifest=change(subject.manifest))


def test_its_manifest_counts_and_its_quarantine_does_not(subject: Subject) -> None:
    """Nothing is asked again for a reason that was worded better."""
    entry = Quarantine(
        check="load", kernels=("*",), owner="a", reason="b", expires=datetime.date(2026, 12, 31)
    )
    quarantined = _with(subject, lambda m: msgspec.structs.replace(m, quarantine=(entry,)))
    changed = _with(subject, lambda m: msgspec.structs.replace(m, rodata={"verbose": True}))

    assert _digest(quarantined) == _digest(subject) != _digest(changed)


def test_where_the_files_lie_is_no_matter(subject: Subject, tmp_path: Path) -> None:
    """A shard on another machine has them elsewhere."""
    before = _digest(subject)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in list(tmp_path.iterdir()):
        if path != moved:
            path.rename(moved / path.name)
    given = msgspec.structs.replace(
        subject, object=moved / "x.bpf.o", loader=moved / "loader",
        files=(moved / "corpus", moved / "data"), baseline=moved / "baseline.json",
    )  # fmt: skip

    assert _digest(given) == before


def test_a_kernel_is_its_image_and_its_types(tmp_path: Path) -> None:
    btf = tmp_path / "vmlinux.btf"
    btf.write_bytes(b"a")
    files = KernelFiles(
        name="6.1-oldest", series="6.1", release="6.1.0", arch="x86_64", vmlinuz=tmp_path, btf=btf,
        btf_detached=False, config=None, system_map=None, source="here", sha256="aa",
    )  # fmt: skip
    facts = KernelFacts(name="6.1-oldest", series="6.1", arch="x86_64", sha256="aa")
    before = inputs.of_cell({"guest": "g"}, facts, files)
    btf.write_bytes(b"b")
    after = inputs.of_cell({"guest": "g"}, facts, files)

    assert before["guest"] == after["guest"]
    assert before["kernel"] != after["kernel"]
    assert inputs.of_cell({"guest": "g"}, facts, None) == {}
