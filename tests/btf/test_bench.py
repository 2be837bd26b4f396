# SPDX-License-Identifier: Apache-2.0
"""The bench measures what it says, on whatever it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench import resolve as bench
from harness.btf.table import KernelFile
from harness.errors import HarnessError
from tests.btf.conftest import Compile


def test_each_kernel_is_measured_in_each_state(compile_bpf: Compile, kernels: list[Path]) -> None:
    """The same pairs for us and for bpftool."""
    files = [KernelFile(name=path.stem, btf=path) for path in kernels]

    found = bench.measure(compile_bpf("kinds.bpf.c"), files)

    assert found.kernels == len(found.new_s) == len(found.indexed_s) == len(found.kept_s) == 3
    assert found.relocations > 70
    assert len(found.bpftool_s) in (0, 3)
    assert "result in the cache" in bench.render(found)


def test_without_kernels_there_is_nothing_to_measure(compile_bpf: Compile) -> None:
    """An empty directory is a mistake of the caller."""
    with pytest.raises(HarnessError, match="no BTF"):
        bench.measure(compile_bpf("kinds.bpf.c"), [])
