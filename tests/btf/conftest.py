# SPDX-License-Identifier: Apache-2.0
"""Objects compiled from the sources here, and the oracle: an unmodified libbpf."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.btf.elf import read_btf_bytes
from tests.btf import oracle

SOURCES = Path(__file__).with_name("sources")
KERNEL_VERSIONS = (1, 2, 3)

Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compile_bpf(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile one of the sources for BPF: `compile_bpf("kinds.bpf.c", "-mcpu=v3")`."""
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    directory = tmp_path_factory.mktemp("objects")
    made: dict[tuple[str, ...], Path] = {}

    def compile_one(source: str, *options: str) -> Path:
        key = (source, *options)
        if key not in made:
            made[key] = directory / f"{len(made)}-{Path(source).stem}.o"
            target = [] if any("-target" in option for option in options) else ["-target", "bpf"]
            argv = [clang, "-g", "-O2", *target, *options, "-c", str(SOURCES / source)]
            subprocess.run([*argv, "-o", str(made[key])], check=True, timeout=120)
        return made[key]

    return compile_one


@pytest.fixture(scope="session")
def kernels(compile_bpf: Compile, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Raw BTF of the versions of `kernel.c`."""
    directory = tmp_path_factory.mktemp("kernels")
    found = []
    for version in KERNEL_VERSIONS:
        path = directory / f"v{version}.btf"
        path.write_bytes(read_btf_bytes(compile_bpf("kernel.c", f"-DVERSION={version}")))
        found.append(path)
    return found


@pytest.fixture(scope="session")
def oracle_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled oracle; the test is skipped where libbpf's headers are not installed."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    try:
        return oracle.build(tmp_path_factory.mktemp("oracle"))
    except subprocess.CalledProcessError:
        pytest.skip("libbpf (with headers) is not installed")


@pytest.fixture(scope="session")
def libbpf_version(oracle_program: Path) -> str:
    """Of the libbpf behind the oracle: its rules decide what to expect."""
    argv = ["pkg-config", "--modversion", "libbpf"]
    try:
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("pkg-config cannot tell libbpf's version")
    return done.stdout.strip()
