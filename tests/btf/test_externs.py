# SPDX-License-Identifier: Apache-2.0
"""Maps and externs: what an object asks for, and what libbpf makes of a kernel's config."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import bpfobject
from harness.btf import BpfObject, Btf, Plan, Rules
from harness.btf.data import externs
from harness.btf.kernel import KernelView, parse_config, resolve_extern
from harness.btf.verdict import Judge
from tests.btf import oracle
from tests.btf.builder import BtfBuilder
from tests.btf.conftest import Compile

_CONFIGS = (
    "",
    "CONFIG_HZ=250\nCONFIG_BOOL=y\nCONFIG_TRI=m\nCONFIG_SMALL=255",
    "CONFIG_HZ=-1",
    "CONFIG_HZ=0x10",
    "CONFIG_HZ=4294967296",
    "CONFIG_HZ=2147483648",
    "CONFIG_HZ=y",
    'CONFIG_HZ="250"',
    "CONFIG_BOOL=n",
    "CONFIG_BOOL=m",
    "CONFIG_BOOL=1",
    "CONFIG_TRI=n",
    "CONFIG_TRI=2",
    "CONFIG_SMALL=256",
    "CONFIG_SMALL=-1",
    "CONFIG_SMALL=y",
    'CONFIG_NAME="abc"',
    'CONFIG_NAME="longer than eight"',
    "CONFIG_NAME=5",
    "CONFIG_NAME=y",
)


def test_maps_data_and_externs_are_read_from_btf(compile_bpf: Compile) -> None:
    """The sizes that a loader would create them with."""
    facts = bpfobject.inspect(compile_bpf("maps.bpf.c"))

    maps = {
        one.name: (one.type, one.key_size, one.value_size, one.max_entries) for one in facts.maps
    }
    assert maps == {
        "ring": (27, 0, 0, 4096),
        "hash": (1, 4, 24, 10),
        "inner_one": (2, 4, 4, 1),
        "outer_map": (12, 4, 4, 2),
    }
    assert {one.name for one in facts.data} == {".data", ".bss", ".rodata"}
    kinds = {one.name: (str(one.kind), one.weak) for one in facts.externs}
    assert kinds["LINUX_KERNEL_VERSION"] == ("kconfig", False)
    assert kinds["symbol"] == ("ksym", True)
    assert kinds["typed_symbol"] == ("typed-ksym", True)
    assert {one.name for one in facts.needs} >= {"ringbuf", "array_of_maps", "map_lookup_elem"}


@pytest.mark.parametrize("config", _CONFIGS)
def test_a_config_value_fits_or_fails_as_in_libbpf(
    config: str, compile_bpf: Compile, oracle_program: Path, kernels: list[Path], tmp_path: Path
) -> None:
    """A value of the wrong kind fails the whole object, and so does one out of range."""
    path = compile_bpf("maps.bpf.c")
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    environment = {
        "ORACLE_KCONFIG": str(empty),
        "ORACLE_KALLSYMS": str(empty),
        "ORACLE_RELEASE": "6.1.0",
    }
    (loaded,) = oracle.ask(
        oracle_program, kernels[0], [path], kconfig=config, environment=environment
    )
    obj = BpfObject.from_file(path)
    assert obj.btf is not None
    view = KernelView(
        name="k",
        btf=Btf.from_file(kernels[0]),
        config=parse_config(config),
        symbols=frozenset(),
        release="6.1.0",
    )

    found = [resolve_extern(one, obj.btf, view, Rules.of("1.1.2")) for one in externs(obj)]

    failed = [one for one in found if one.status == "error"]
    assert bool(failed) == (loaded.result != "RESULT 0"), (failed, loaded.log[-4:])


def test_a_map_type_that_the_kernel_lacks_is_for_the_loader(compile_bpf: Compile) -> None:
    """It may replace the map or leave it out: we cannot tell."""
    builder = BtfBuilder()
    builder.integer()
    builder.enum("bpf_map_type", [("BPF_MAP_TYPE_HASH", 1), ("BPF_MAP_TYPE_ARRAY", 2)])
    plan = Plan(BpfObject.from_file(compile_bpf("maps.bpf.c")))
    view = KernelView(
        name="k",
        btf=Btf.parse(builder.build()),
        config={},
        symbols=frozenset({"somewhere"}),
        release="5.4.0",
    )

    judged = Judge(plan).judge(view, plan.resolve(view.btf))

    assert set(judged.absent_maps) == {
        "ring",
        "outer_map",
    }
    assert [(one.verdict, one.cause) for one in judged.programs] == [("unknown", "map-unsupported")]
