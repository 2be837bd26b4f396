# SPDX-License-Identifier: Apache-2.0
"""A bug of ours in the midst of a cell, its guest booting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.progress import Event, Phase
from harness.results import Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import AFTERWARDS, Matrix, check_that, verdicts

pytestmark = pytest.mark.vm


def test_a_bug_in_a_sitting_costs_its_cell_and_no_other(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    """The report has the other, and the traceback; the fixture looks for what is left of the guest."""
    kernels = (replace(newest, name="broken"), replace(newest, name="fine"))
    made = matrix(*kernels, checks=(check_that("breaks", lambda context: None), AFTERWARDS))

    def breaks(event: Event) -> None:
        if isinstance(event, Phase) and (event.kernel, event.phase) == ("broken", "breaks"):
            raise ZeroDivisionError("nobody thought of it")

    made.on_event = breaks

    run = made.run()

    broken, fine = run.cells
    assert fine.verdict is Verdict.PASS
    assert verdicts(broken.checks)["boot"] == ("unknown", "harness")
    assert broken.attempts == 1
    told = next(check for check in broken.checks if check.check == "boot")
    assert told.summary == "a bug of ours: ZeroDivisionError: nobody thought of it"
    assert "in breaks\n" in told.evidence[0].text
    assert (made.report_dir / "kernels" / "broken" / "console.log").stat().st_size > 0
