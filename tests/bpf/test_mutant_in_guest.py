# SPDX-License-Identifier: Apache-2.0
"""Fabricated data cannot pass: the kernel matrix fails an observer that invents its names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bpf import build

MATRIX_TIMEOUT_S = 900.0


@pytest.mark.vm
def test_the_matrix_fails_an_observer_that_invents_names(tmp_path: Path) -> None:
    """The whole way: built from its own manifest, loaded, attached, and then told apart."""
    if not build.has_clang:
        pytest.skip("clang and llvm-objdump are not installed")
    mutant = Path(__file__).parent / "mutants" / "constant_name.h"
    build.make(tmp_path, "mutant", f"PARSER={mutant}")
    # fmt: off
    done = subprocess.run(
        [str(Path(sys.executable).with_name("inv")),
         "kernel-matrix",
         "--backend=local",
         "--kernels=6.1-oldest",
         "--checks=load,sends",
         f"--manifest={tmp_path}/mutant/dns_monitor.toml",
         f"--out={tmp_path}/report"],
        capture_output=True, text=True, timeout=MATRIX_TIMEOUT_S, check=False,
        cwd=build.BPF.parent,
    )
    # fmt: on

    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    verdicts = {
        check["check"]: check["verdict"] for cell in results["cells"] for check in cell["checks"]
    }
    assert verdicts["load"] == "pass"
    assert verdicts["sends"] == "fail"
