# SPDX-License-Identifier: Apache-2.0
"""Objects × kernels: the table, its groups, its renderings, its cache."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import bpfobject, process, resolve
from harness.btf import Status
from harness.btf.table import decode_column, encode_column, groups
from harness.errors import HarnessError
from tests.btf.conftest import Compile


@pytest.fixture
def directory(kernels: list[Path], tmp_path: Path) -> Path:
    """The kernels' BTFs in a directory, one of them damaged."""
    place = tmp_path / "kernels"
    place.mkdir()
    for path in kernels:
        (place / path.name).write_bytes(path.read_bytes())
    (place / "v9.btf").write_bytes(b"\x9f\xeb\1\0damaged")
    return place


def test_outcomes_are_grouped_by_kernels(
    compile_bpf: Compile, directory: Path, tmp_path: Path
) -> None:
    """200 kernels have a handful of layouts."""
    found = resolve.resolve_many(
        [compile_bpf("kinds.bpf.c")],
        resolve.kernel_files([directory]),
        cache_dir=tmp_path / "cache",
    )

    (one,) = found.objects
    assert found.kernels == ("v1", "v2", "v3", "v9")
    row = next(n for n, row in enumerate(one.rows) if row.path == "struct outer.name[5]")
    offsets = {group.cell.value: group.kernels for group in groups(one, row)}
    assert offsets == {17: ("v1", "v2"), 13: ("v3",)}
    assert "too short" in one.columns[3].failure
    assert found.exit_status == 1


def test_the_cache_gives_the_same_report(
    compile_bpf: Compile, directory: Path, tmp_path: Path
) -> None:
    """Finished columns are kept by the digests of all they depend on."""
    objects = [compile_bpf("kinds.bpf.c"), compile_bpf("guards.bpf.c")]
    files = resolve.kernel_files([directory])

    first = resolve.resolve_many(objects, files, cache_dir=tmp_path / "cache")
    second = resolve.resolve_many(objects, files, cache_dir=tmp_path / "cache")
    other = resolve.resolve_many(objects, files, cache_dir=tmp_path / "other")

    assert first == second == other
    column = first.objects[0].columns[0]
    assert decode_column(encode_column(column), column.kernel) == column


def test_an_executor_gives_the_same_report(
    compile_bpf: Compile, directory: Path, tmp_path: Path
) -> None:
    """Where the work runs is a parameter."""
    objects = [compile_bpf("kinds.bpf.c")]
    files = resolve.kernel_files([directory])

    with ThreadPoolExecutor(3) as pool:
        spread = resolve.resolve_many(objects, files, cache_dir=tmp_path / "a", executor=pool)

    assert spread == resolve.resolve_many(objects, files, cache_dir=tmp_path / "b")


def test_text_and_json_say_what_differs(
    compile_bpf: Compile, directory: Path, tmp_path: Path
) -> None:
    """People read the one, machines the other."""
    report = resolve.resolve_many(
        [compile_bpf("kinds.bpf.c")],
        resolve.kernel_files([directory]),
        cache_dir=tmp_path / "cache",
    )

    text = resolve.render_text(report)
    document = json.loads(resolve.to_json(report))

    assert "struct nowhere.field" in text
    assert "poison: no type of this name" in text
    assert "remedy:" in text
    (one,) = document["objects"]
    assert len(one["relocations"]) == len(report.objects[0].rows)
    statuses = {o["status"] for r in one["relocations"] for o in r["outcomes"]}
    assert statuses >= {Status.RESOLVED, Status.ABSENT, Status.POISON}
    assert [v["kernel"] for v in one["verdicts"]] == ["v1", "v2", "v3", "v9"]


def test_an_unreadable_object_is_a_row_and_a_missing_place_an_error(
    directory: Path, tmp_path: Path
) -> None:
    """One bad file of hundreds does not end the run; a wrong argument does."""
    bad = tmp_path / "bad.o"
    bad.write_bytes(b"\x7fELF no")

    report = resolve.resolve_many(
        [bad], resolve.kernel_files([directory]), cache_dir=tmp_path / "cache"
    )

    assert "not a readable ELF" in report.objects[0].failure
    assert report.exit_status == 1
    with pytest.raises(HarnessError, match="does not exist"):
        resolve.kernel_files([tmp_path / "nowhere"])


def test_inspect_shows_what_an_object_holds(compile_bpf: Compile) -> None:
    """Programs, data, externs, relocations with their source, and what it needs."""
    facts = bpfobject.inspect(compile_bpf("guards.bpf.c"))

    text = bpfobject.render_text(facts)
    document = json.loads(bpfobject.to_json(facts))

    assert {one.name for one in facts.programs} >= {"pass_kfunc", "fail_no_guard"}
    assert {one.name: str(one.kind) for one in facts.externs} == {
        "CONFIG_GUARD": "kconfig",
        "absent_kfunc": "kfunc",
    }
    assert {one.name for one in facts.subprograms} == {"reads", "reads_if"}
    variables = {v.name: v.size for section in facts.data for v in section.variables}
    assert variables["setting_on"] == 4
    helpers = {one.name: one.since for one in facts.needs if one.kind == "helper"}
    assert helpers["probe_read_kernel"] == "5.5"
    assert "struct nowhere.other" in text
    assert "guards.bpf.c:" in text
    assert document["version"] == 1
    assert len(document["relocations"]) == len(facts.relocations)


def test_many_kernels_seen_for_the_first_time_end_quietly(
    compile_bpf: Compile, kernels: list[Path], tmp_path: Path
) -> None:
    """Workers' own files must not be missed when the run's temporary directory is gone."""
    place = tmp_path / "many"
    place.mkdir()
    for number in range(60):
        (place / f"v{number}.btf").write_bytes(kernels[0].read_bytes())
    script = (
        "import sys; from pathlib import Path; from harness import resolve, rundir\n"
        "obj, btf, cache = map(Path, sys.argv[1:])\n"
        "with rundir.scratch():\n"
        "    found = resolve.resolve_many([obj], resolve.kernel_files([btf]), cache_dir=cache)\n"
        "print(len(found.kernels))\n"
    )

    done = process.run(
        [sys.executable, "-c", script, compile_bpf("kinds.bpf.c"), place, tmp_path / "cache"],
        timeout_s=120, check=False,
    )  # fmt: skip

    assert (done.text, done.stderr) == ("60\n", b"")
