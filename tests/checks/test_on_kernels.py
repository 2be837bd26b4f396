# SPDX-License-Identifier: Apache-2.0
"""Fabricated data cannot pass: an object that makes names up fails, the same with ours passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import build, paths, process
from harness.build import Built
from harness.cache import Cache
from harness.checks import corpus, function, sends
from harness.results import Cause, Run, Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, leftovers

pytestmark = pytest.mark.vm

_MUTANT = Path(__file__).parents[1] / "bpf" / "mutants" / "constant_name.h"
_ASKED = (function.CHECK, sends.CHECK, corpus.CHECK)
_BOOT_TIMEOUT_S = 240.0  # of a machine that does other things too


@pytest.fixture(scope="module")
def honest(cache: Cache) -> Built:
    """The observer as it is."""
    return build.from_manifest(paths.default_manifest(), cache, lambda text: None)


@pytest.fixture(scope="module")
def fabricating(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The observer with a parser that calls every name test.cluster.local."""
    out = tmp_path_factory.mktemp("mutant")
    process.run(
        ["make", "-C", paths.default_manifest().parent, f"OUT={out}", "mutant",
         f"PARSER={_MUTANT}"],
        timeout_s=300,
    )  # fmt: skip
    manifest = out / "mutant" / paths.default_manifest().name
    return build.from_manifest(manifest, cache, lambda text: None)


@pytest.fixture
def run(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Run]:  # fmt: skip
    """The functional checks of the subject that the test asks for, on both kernels."""
    subject: Built = request.getfixturevalue(request.param)
    yield Matrix(
        cache=cache, kernels=(oldest, newest), subject=subject, backend="local", checks=_ASKED,
        append=(), boot_timeout_s=_BOOT_TIMEOUT_S, report_dir=tmp_path / "report",
    ).run()  # fmt: skip
    assert leftovers(cache) == []


@pytest.mark.parametrize("run", ["honest"], indirect=True)
def test_the_observer_sees_every_way_to_send_on_oldest_and_newest(run: Run) -> None:
    """The other half of the next test: what fails there fails for the parser alone."""
    for cell in run.cells:
        said = {check.check: check for check in cell.checks}
        assert {
            name: said[name].summary for name in said if said[name].verdict is not Verdict.PASS
        } == {}
        assert said["function"].summary == "seen through the ringbuf"
        assert "cases through ringbuf and perf" in said["sends"].summary
        assert said["sends"].figures[0].value >= 90
        assert said["corpus"].summary.startswith("99 datagrams by the hook, 97 by the parser")


@pytest.mark.parametrize("run", ["fabricating"], indirect=True)
def test_an_observer_that_makes_names_up_fails_every_functional_check(run: Run) -> None:
    """It loads, attaches, counts and reports as ours does: only the names are not what was sent."""
    for cell in run.cells:
        asked = {check.name for check in _ASKED}
        said = {check.check: check for check in cell.checks if check.check in asked}
        assert {(check.verdict, check.cause) for check in said.values()} == {
            (Verdict.FAIL, Cause.BEHAVIOUR)
        }
        assert "was not seen; seen: test.cluster.local." in said["function"].summary
        assert "ringbuf: sendto_v4: name_wire is '0474657374" in said["sends"].summary
        assert said["sends"].figures[0].value < 60
        assert "name_wire is '0474657374" in said["corpus"].summary
