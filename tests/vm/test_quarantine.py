# SPDX-License-Identifier: Apache-2.0
"""A known failure on a real kernel: it shows, and decides nothing until its day."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import process, results
from harness.cache import Cache
from harness.results import Held, Verdict
from harness.supply import KernelFiles

pytestmark = pytest.mark.vm

_MANIFEST = """\
[subject]
name = "refused"
object = "refused.bpf.o"
[[quarantine]]
check = "load"
kernels = ["{kernel}"]
owner = "ada@example.org"
reason = "issue 41"
expires = {expires}
"""


def test_a_day_that_has_passed_changes_the_status_and_nothing_is_asked_again(
    compiled: Callable[[str], Path], cache: Cache, oldest: KernelFiles, tmp_path: Path
) -> None:
    """Who words a quarantine better need not boot anything for it."""
    report, manifest = tmp_path / "report", tmp_path / "refused.toml"
    shutil.copy(compiled("refused"), tmp_path / "refused.bpf.o")

    def run(expires: str, *words: object) -> process.Completed:
        manifest.write_text(_MANIFEST.format(kernel=oldest.name, expires=expires))
        argv = [sys.executable, "-m", "harness", "kernel-matrix", *words]
        return process.run(
            [str(word) for word in argv], timeout_s=400, check=False,
            env={"KERNEL_MATRIX_CACHE": str(cache.root)},
        )  # fmt: skip

    known = run("9999-12-31", "--manifest", manifest, "--kernels", oldest.name, "--checks", "load",
                "--backend", "local", "--boot-timeout", "300", "--out", report)  # fmt: skip
    expired = run("2026-01-01", "--resume", report)

    assert known.status == 0, known.text
    assert "quarantined until 9999-12-31 by ada@example.org: issue 41" in known.text
    assert expired.status == 1, expired.text
    assert "expired on 2026-01-01" in expired.text
    assert f"{oldest.name:<16} boot" not in expired.stderr.decode()
    found = results.read(report / "results.json")
    assert (found.verdict, found.quarantine[0].held) == (Verdict.FAIL, Held.EXPIRED)
