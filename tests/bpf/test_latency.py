# SPDX-License-Identifier: Apache-2.0
"""An event reaches the reader while the observer runs, whatever comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import build, paths
from harness.cache import Cache
from harness.checks import Context, observer
from harness.results import Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, check_that, leftovers

_BOOT_TIMEOUT_S = 240.0  # of a machine that does other things too
# $1: driver; $2: what the observer wrote so far. One question, and nothing after it that could
# wake the reader; it is stated to come within 0.1 s (bpf/README.md), a busy machine gets 30.
_ALONE = r"""
"$1" flood --unroutable --cpu 0 --count 1 --label alone || exit
for try in $(seq 600); do
	grep -q '"type":"event"' "$2" && exit 0
	sleep 0.05
done
exit 9
"""


@pytest.mark.vm
def test_an_event_alone_does_not_wait_for_others(
    cache: Cache, newest: KernelFiles, tmp_path: Path
) -> None:
    """A perf buffer wakes nobody before it is filling: who waits for it must look by himself."""
    alone: dict[str, int] = {}

    def does(context: Context) -> None:
        for buffer in ("ringbuf", "perf"):
            seen = observer.observe(
                context, ["/bin/sh", "-c", _ALONE, "alone", context.driver, observer.LINES],
                name=f"alone-{buffer}", options=("--buffer", buffer),
            )  # fmt: skip
            assert observer.wrong_with(seen) == ""
            assert len(seen.events) == 1
            alone[buffer] = seen.command_status

    run = Matrix(
        cache=cache, kernels=(newest,), backend="local", checks=(check_that("alone", does),),
        subject=build.from_manifest(paths.default_manifest(), cache, lambda text: None),
        append=(), boot_timeout_s=_BOOT_TIMEOUT_S, report_dir=tmp_path / "report",
    ).run()  # fmt: skip

    assert run.verdict is Verdict.PASS
    assert alone == {"ringbuf": 0, "perf": 0}
    assert leftovers(cache) == []
