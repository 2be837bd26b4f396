# SPDX-License-Identifier: Apache-2.0
"""The same relocations through us and through an unmodified libbpf."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.btf import BpfObject, Btf, Plan, Rules
from harness.btf.crosscheck import compare_instructions, compare_log, reached_relocations
from tests.btf import cases, oracle
from tests.btf.conftest import Compile

_SOURCES = ("kinds.bpf.c", "guards.bpf.c", "access.bpf.c")
# Further raw BTF files, of real kernels for instance, and objects to resolve on them.
_EXTRA_BTF = os.environ.get("KERNEL_MATRIX_EXTRA_BTF", "")
_EXTRA_OBJECTS = os.environ.get("KERNEL_MATRIX_EXTRA_OBJECTS", "")
_SEEDS = int(os.environ.get("KERNEL_MATRIX_SEEDS", "25"))


def _compare(program: Path, target: Path, objects: list[Path], version: str) -> int:
    """Compare everything; the number of relocations."""
    btf = Btf.from_file(target)
    compared = 0
    for path, loaded in zip(
        objects, oracle.ask(program, target, objects, everything=True), strict=True
    ):
        if loaded.result.startswith("OPEN"):
            continue
        obj = BpfObject.from_file(path)
        plan = Plan(obj, rules=Rules.of(version), autoload_all=True)
        outcome = plan.resolve(btf)
        if plan.sites and not reached_relocations(loaded.text):
            # libbpf gave up before: an extern of this object does not resolve there.
            assert loaded.result != "RESULT 0"
            continue
        assert compare_log(plan, outcome, loaded.text) == (), f"{path.name} on {target.name}"
        compared += len(plan.sites)
    return compared


@pytest.mark.parametrize("source", _SOURCES)
@pytest.mark.parametrize("cpu", ["v1", "v3"])
def test_compiled_objects_resolve_as_in_libbpf(
    source: str,
    cpu: str,
    compile_bpf: Compile,
    kernels: list[Path],
    oracle_program: Path,
    libbpf_version: str,
) -> None:
    """All kinds as a compiler writes them, on kernels whose layouts differ."""
    path = compile_bpf(source, f"-mcpu={cpu}")

    compared = [_compare(oracle_program, one, [path], libbpf_version) for one in kernels]

    assert all(compared)


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_random_cases_resolve_as_in_libbpf(
    seed: int, tmp_path: Path, oracle_program: Path, libbpf_version: str
) -> None:
    """Ambiguity, pruning order, odd bitfields, nesting: what no compiler would write."""
    case = cases.make(seed, objects=20)
    target = tmp_path / "target.btf"
    target.write_bytes(case.target)
    paths = []
    for number, data in enumerate(case.objects):
        paths.append(tmp_path / f"{number}.o")
        paths[-1].write_bytes(data)
    btf = Btf.parse(case.target)

    for path, loaded in zip(paths, oracle.ask(oracle_program, target, paths), strict=True):
        plan = Plan(BpfObject.from_file(path), rules=Rules.of(libbpf_version))
        outcome = plan.resolve(btf)
        assert compare_log(plan, outcome, loaded.text) == ()
        if outcome.first_error is None:
            program = plan.obj.programs[0]
            final = loaded.programs[program.name]
            assert len(final) == len(program.insns)
            assert compare_instructions(program, outcome.code_of(program), final) == ()
        else:
            assert loaded.result != "RESULT 0"


@pytest.mark.skipif(not _EXTRA_BTF, reason="KERNEL_MATRIX_EXTRA_BTF names no directory")
def test_given_kernels_resolve_as_in_libbpf(
    compile_bpf: Compile, oracle_program: Path, libbpf_version: str
) -> None:
    """Real kernels: thousands of types, duplicates, names of all ages."""
    objects = [compile_bpf(source) for source in _SOURCES]
    if _EXTRA_OBJECTS:
        objects += sorted(Path(_EXTRA_OBJECTS).glob("*.o"))
    targets = sorted(Path(_EXTRA_BTF).glob("*.btf"))

    compared = sum(_compare(oracle_program, one, objects, libbpf_version) for one in targets)

    assert compared
