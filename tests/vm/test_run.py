# SPDX-License-Identifier: Apache-2.0
"""Objects that are refused, and objects without a manifest, on the oldest and the newest kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import build, checks, job
from harness.results import Cause, Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, verdicts

pytestmark = pytest.mark.vm


@pytest.mark.parametrize(
    ("source", "cause", "says"),
    [
        ("misses_field", Cause.CORE_RELOCATION, "km_no_such_field"),
        ("refused", Cause.VERIFIER_REJECTED, "map_value_or_null"),
    ],
)
def test_a_kernel_that_refuses_the_object_fails_with_the_reason(
    matrix: Callable[..., Matrix], compiled: Callable[[str], Path],
    oldest: KernelFiles, newest: KernelFiles, source: str, cause: Cause, says: str,
) -> None:  # fmt: skip
    """What the harness is for: the cause is the object's, named, and decides the exit status."""
    subject = build.from_object(compiled(source))

    run = matrix(oldest, newest, subject=subject, checks=checks.ALL).run()

    for cell in run.cells:
        load = next(check for check in cell.checks if check.check == "load")
        assert (load.verdict, load.cause) == (Verdict.FAIL, cause), cell.kernel.name
        assert says in load.summary
        assert load.remedy
        assert cell.verdict is Verdict.FAIL
        assert cell.attempts == 1
        # What a report shows of it: how it was asked, by what, and where in the source it is.
        assert load.commands
        assert cell.boot is not None
        assert cell.boot.libbpf
        refused = [program for program in load.programs if program.verdict is Verdict.FAIL]
        assert all(program.why for program in refused)
        assert refused
        findings = [one for check in cell.checks for one in check.findings]
        assert [one.rule for one in findings] == (
            ["unresolved-relocation"] if cause is Cause.CORE_RELOCATION else []
        )
        assert all(one.file.endswith(f"{source}.bpf.c") and one.line > 0 for one in findings)
    assert job.status(run, strict=False) == 1


def test_an_object_without_a_manifest_is_loaded_and_attached(
    matrix: Callable[..., Matrix], compiled: Callable[[str], Path],
    oldest: KernelFiles, newest: KernelFiles,
) -> None:  # fmt: skip
    """Anybody's object gets what needs no knowledge of its meaning; the rest is said to be skipped."""
    subject = build.from_object(compiled("counts"))

    run = matrix(oldest, newest, subject=subject, checks=checks.ALL).run()

    lacking = {c.name for c in checks.ALL if any(not n.met(subject.subject) for n in c.needs)}
    no_limit = {"memory"}
    assert {"function", "sampling", "rate-limit", "overhead"} < lacking
    for cell in run.cells:
        found = verdicts(cell.checks)
        skipped = {name for name, (verdict, _) in found.items() if verdict == "skipped"}
        assert skipped == lacking | no_limit
        assert {verdict for verdict, _ in found.values()} == {"pass", "skipped"}
        assert {"load", "attach", "splat"} < set(found)
        assert found["function"] == ("skipped", "not-asked")
    assert job.status(run, strict=False) == 0
