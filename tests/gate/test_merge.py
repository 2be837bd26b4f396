# SPDX-License-Identifier: Apache-2.0
"""Shards of one matrix become one run; a shard that is missing is not green."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import job, merge, results
from harness.errors import UsageError
from harness.results import Cause, Relocation, RelocationOutcome, Run, Verdict
from tests.gate.runs import cell, check, evidence, run

_PLANNED = ("5.4-oldest", "5.10-oldest", "6.1-oldest")


def _shard(*names: str) -> Run:
    cells = (cell(name, replace(check("load"), evidence=(evidence(name),))) for name in names)
    return run(*cells, checks=(check("compile"),), planned=_PLANNED)


def _on_disk(directory: Path, shard: Run) -> Path:
    results.write(shard, directory / "results.json")
    for one in shard.cells:
        file = directory / "kernels" / one.kernel.name / "load.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(one.kernel.name)
    return directory


def test_shards_become_one_run_with_everyone_s_evidence(tmp_path: Path) -> None:
    first = _on_disk(tmp_path / "1", _shard("5.4-oldest", "6.1-oldest"))
    second = _on_disk(tmp_path / "2", _shard("5.10-oldest"))

    whole, written = job.merge([second, first / "results.json"], tmp_path / "all")

    assert [c.kernel.name for c in whole.cells] == list(_PLANNED)
    assert whole.verdict is Verdict.PASS
    assert "merged from 2 shards" in whole.run.notes
    assert results.read(tmp_path / "all" / "results.json") == whole
    assert all(path.exists() for path in written)
    for one in whole.cells:
        path = tmp_path / "all" / one.checks[1].evidence[0].path
        assert path.read_text() == one.kernel.name


def test_a_directory_of_shards_is_all_of_them(tmp_path: Path) -> None:
    for number, name in enumerate(_PLANNED):
        _on_disk(tmp_path / "shards" / str(number), _shard(name))

    whole = merge.merge([tmp_path / "shards"], tmp_path / "all")

    assert [c.kernel.name for c in whole.cells] == list(_PLANNED)


def test_a_kernel_whose_shard_never_came_is_unknown(tmp_path: Path) -> None:
    whole = merge.merged([_shard("5.4-oldest"), _shard("6.1-oldest")])

    lost = whole.cells[1]
    assert (lost.kernel.name, lost.kernel.series) == ("5.10-oldest", "5.10")
    assert (lost.verdict, lost.checks[0].cause) == (Verdict.UNKNOWN, Cause.INFRA)
    assert whole.verdict is Verdict.UNKNOWN
    assert job.status(whole, strict=False) == 3


def test_the_worse_answer_about_the_object_counts() -> None:
    bad = check("compile", Verdict.FAIL, Cause.COMPILE)
    whole = merge.merged([_shard("5.4-oldest"), replace(_shard("5.10-oldest"), checks=(bad,))])
    assert whole.checks == (bad,)


def test_a_relocation_is_listed_once_with_every_kernel() -> None:
    def relocation(kernel: str, value: int) -> Relocation:
        outcome = RelocationOutcome(kernels=(kernel,), status="resolved", value=value)
        return Relocation(
            program="p", insn=3, kind="field_byte_off", path="struct sock.sk", file="a.c", line=7,
            outcomes=(outcome,),
        )  # fmt: skip

    shards = [
        replace(_shard(name), relocations=(relocation(name, value),))
        for name, value in (("5.4-oldest", 8), ("5.10-oldest", 8), ("6.1-oldest", 16))
    ]
    (one,) = merge.merged(shards).relocations
    assert [(o.kernels, o.value) for o in one.outcomes] == [
        (("5.4-oldest", "5.10-oldest"), 8), (("6.1-oldest",), 16),
    ]  # fmt: skip


def test_what_are_no_shards_of_one_run_is_refused(tmp_path: Path) -> None:
    other = _shard("6.1-oldest")
    other = replace(other, subject=replace(other.subject, sha256="cd" * 32))
    with pytest.raises(UsageError, match="different objects: 'dns_monitor' abababababababab"):
        merge.merged([_shard("5.4-oldest"), other])
    with pytest.raises(UsageError, match=r"two shards have the kernel '5\.4-oldest'"):
        merge.merged([_shard("5.4-oldest"), _shard("5.4-oldest")])
    with pytest.raises(UsageError, match="no results to merge"):
        merge.merge([], tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        merge.merge([tmp_path / "nothing"], tmp_path)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", {"a", "b", "c", "d", "e"}),
        ("1/2", {"a", "c", "e"}),
        ("2/2", {"b", "d"}),
        ("5/5", {"e"}),
    ],
)
def test_every_kernel_is_in_one_shard(words: str, names: set[str]) -> None:
    assert job.in_shard(words, "abcde") == names


@pytest.mark.parametrize("words", ["0/2", "3/2", "1", "/", "a/b", "-1/2", "6/6", "1/2/3"])
def test_a_shard_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="shard"):
        job.in_shard(words, "abcde")
