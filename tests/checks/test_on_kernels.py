# SPDX-License-Identifier: Apache-2.0
"""The observer as it is passes every functional check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import build, paths
from harness.build import Built
from harness.cache import Cache
from harness.checks import corpus, function, sends
from harness.results import Run, Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, leftovers

pytestmark = pytest.mark.vm

_ASKED = (function.CHECK, sends.CHECK, corpus.CHECK)
_BOOT_TIMEOUT_S = 240.0  # of a machine that does other things too


@pytest.fixture(scope="module")
def honest(cache: Cache) -> Built:
    """The observer as it is."""
    return build.from_manifest(paths.default_manifest(), cache, lambda text: None)


@pytest.fixture
def run(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, tmp_path: Path, honest: Built
) -> Iterator[Run]:  # fmt: skip
    """The functional checks on both kernels."""
    yield Matrix(
        cache=cache, kernels=(oldest, newest), subject=honest, backend="local", checks=_ASKED,
        append=(), boot_timeout_s=_BOOT_TIMEOUT_S, report_dir=tmp_path / "report",
    ).run()  # fmt: skip
    assert leftovers(cache) == []


def test_the_observer_sees_every_way_to_send_on_oldest_and_newest(run: Run) -> None:
    """The other half of tests/mutants: what fails there fails for what is broken alone."""
    for cell in run.cells:
        said = {check.check: check for check in cell.checks}
        assert {
            name: said[name].summary for name in said if said[name].verdict is not Verdict.PASS
        } == {}
        assert said["function"].summary == "seen through the ringbuf"
        assert "cases through ringbuf and perf" in said["sends"].summary
        assert said["sends"].figures[0].value >= 90
        assert said["corpus"].summary.startswith("99 datagrams by the hook, 97 by the parser")
