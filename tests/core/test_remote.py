# SPDX-License-Identifier: Apache-2.0
"""What comes back from another machine is looked at before it is believed or written anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from harness import executors, remote
from harness.cache import Cache
from harness.errors import HarnessError, UsageError
from harness.remote import Brought
from harness.results import Cell, CheckResult, KernelFacts, Verdict

_FACTS = KernelFacts(name="6.1-oldest", series="6.1", arch="x86_64")
_CELL = Cell(
    kernel=_FACTS, boot=None, checks=(CheckResult(check="boot", verdict=Verdict.PASS),)
)  # fmt: skip


def _brought(evidence: Mapping[str, bytes], cell: Cell = _CELL) -> Brought:
    return Brought(host="elsewhere", cell=msgspec.json.encode(cell), evidence=evidence)


def test_a_cell_comes_back_with_its_evidence(tmp_path: Path) -> None:
    name = "kernels/6.1-oldest/alone/console.log"

    assert remote.kept(_brought({name: b"Linux\n"}), _FACTS, tmp_path) == _CELL
    assert (tmp_path / name).read_bytes() == b"Linux\n"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../x", "kernels/6.1-oldest/../../x", "kernels/5.10-oldest/console.log",
        "kernels/6.1-oldest", "results.json", "kernels/6.1-oldest//x", "./kernels/6.1-oldest/x",
        "kernels/6.1-oldest/x\0y", "",
    ],
)  # fmt: skip
def test_a_file_goes_nowhere_but_below_its_own_kernel(tmp_path: Path, name: str) -> None:
    report = tmp_path / "report"
    good = "kernels/6.1-oldest/console.log"

    with pytest.raises(HarnessError, match="elsewhere sent a file with an impossible name"):
        remote.kept(_brought({good: b"", name: b""}), _FACTS, report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "evidence",
    [
        {"kernels/6.1-oldest/big": bytes((8 << 20) + 1)},
        {f"kernels/6.1-oldest/{i}": b"" for i in range(501)},
        {f"kernels/6.1-oldest/{i}": bytes(8 << 20) for i in range(9)},
    ],
    ids=["one too large", "too many", "too large together"],
)
def test_evidence_is_bounded(tmp_path: Path, evidence: dict[str, bytes]) -> None:
    with pytest.raises(HarnessError, match=r"as evidence of '6\.1-oldest'"):
        remote.kept(_brought(evidence), _FACTS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_about_another_kernel_is_none(tmp_path: Path) -> None:
    other = KernelFacts(name="5.10-oldest", series="5.10", arch="x86_64")

    with pytest.raises(HarnessError, match=r"sent a cell of '6\.1-oldest' for '5\.10-oldest'"):
        remote.kept(_brought({}), other, tmp_path)
    broken = Brought(host="elsewhere", cell=b"{}", evidence={})
    with pytest.raises(HarnessError, match="elsewhere sent no cell"):
        remote.kept(broken, _FACTS, tmp_path)


def test_of_a_console_that_is_too_long_the_end_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that a link points to."""
    monkeypatch.setattr(remote, "_LARGEST", 4)
    monkeypatch.setattr(remote, "_LARGEST_ALL", 6)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/a").write_bytes(b"12345")
    (tmp_path / "kernels/b").write_bytes(b"678")
    (tmp_path / "kernels/link").symlink_to("/etc/passwd")

    assert remote._evidence(tmp_path) == {"kernels/a": b"2345", "kernels/b": b"78"}


def test_what_is_sent_is_unpacked_as_it_was_and_once(tmp_path: Path) -> None:
    """Programs must stay programs; when they were made, and by whom, makes no other archive."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "program").write_bytes(b"#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    archive = remote._Archive()
    name = archive.add(tree, "subject")
    archive.put("note", b"words")
    packed = archive.finish()
    os.utime(tree / "program", (1, 1))

    directory = remote._unpacked(packed, "sent-subjects", Cache(root=tmp_path / "cache"))

    assert archive.finish() == packed
    assert (directory / name / "program").stat().st_mode & 0o777 == 0o755
    assert (directory / "note").read_bytes() == b"words"
    with pytest.raises(HarnessError, match="one of the sent-subjects cannot be unpacked"):
        remote._unpacked(b"nonsense", "sent-subjects", Cache(root=tmp_path / "cache"))


def test_the_harness_knows_itself_by_its_sources() -> None:
    """The version alone does not change from commit to commit."""
    assert remote.identity().startswith("0.")
    assert remote.identity().endswith(")")


@pytest.mark.parametrize("words", ["", "local", "dask://10.0.0.1:8786", "dask://[::1]:8786/"])
def test_words_name_an_executor(words: str) -> None:
    executors.refuse_unknown(words)


@pytest.mark.parametrize(
    "words",
    [
        "dask",
        "dask://",
        "dask://host",
        "dask://host:x",
        "dask://host:0",
        "dask://host:65536",
        "tcp://host:8786",
        "dask://a b:1",
    ],
)
def test_other_words_name_none(words: str) -> None:
    with pytest.raises(UsageError, match="is no executor") as caught:
        executors.refuse_unknown(words)
    assert "dask://HOST:PORT" in caught.value.hint


_WITHOUT_DASK = """
import sys
sys.modules["dask"] = sys.modules["distributed"] = None
from harness import cli
sys.argv = ["inv", "kernel-matrix", "--kernels", "6.1-oldest", "--executor", "dask://localhost:1"]
cli.main()
"""


def test_without_dask_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_DASK], capture_output=True, text=True, check=False,
        timeout=100, cwd=tmp_path,  # it begins a report in reports/
        env={**os.environ, "KERNEL_MATRIX_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip

    assert done.returncode == 2
    assert "pip install 'kernel-matrix[dask]'" in done.stderr
    assert "Traceback" not in done.stderr
