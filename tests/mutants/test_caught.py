# SPDX-License-Identifier: Apache-2.0
"""Checks can fail: each broken observer is caught by the check that its row names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness import checks
from harness.checks.context import Where
from harness.results import Cause, CheckResult, Run, Verdict
from harness.supply import KernelFiles
from tests.mutants.conftest import Ask, Subjects
from tests.mutants.table import MUTANTS, Mutant

pytestmark = pytest.mark.vm

_BY_NAME = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS.values()]
_INNOCENT = ("function",)  # cheap, and green for whatever is broken elsewhere: it loads, it sees
_APART = {check.name for check in checks.ALL if check.where is not Where.ORDINARY}
_FINE = {Verdict.PASS, Verdict.SKIPPED, Verdict.UNSUPPORTED}


@pytest.mark.parametrize("mutant", _BY_NAME)
def test_the_named_check_catches_it_on_oldest_and_newest(
    mutant: Mutant, subject_of: Subjects, ask: Ask, oldest: KernelFiles, newest: KernelFiles
) -> None:
    """And what is asked beside it stays green. A timed check is asked alone: that saves a boot."""
    asked = mutant.by if _APART & {*mutant.by} else (*mutant.by, *_INNOCENT)

    run = _told(lambda: ask(subject_of(mutant), (oldest, newest), asked))

    assert_caught(mutant, run)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", _BY_NAME)
def test_no_other_check_fails_by_accident(
    mutant: Mutant, subject_of: Subjects, ask: Ask, oldest: KernelFiles, newest: KernelFiles
) -> None:
    """Every check of every mutant: a check that also sees it says so in the mutant's row."""
    every = tuple(check.name for check in checks.ALL)

    run = _told(lambda: ask(subject_of(mutant), (oldest, newest), every))

    assert_caught(mutant, run)


def test_a_back_port_breaks_what_asks_for_a_version(
    subject_of: Subjects, ask: Ask, kernel: Callable[[str], KernelFiles]
) -> None:
    """6.1's stable tree has the udp_flags of 6.7: both its kernels refuse the version's answer."""
    mutant = MUTANTS["version_branch"]

    run = ask(subject_of(mutant), (kernel("6.1-oldest"), kernel("6.1-newest")), ("load",))

    for cell in run.cells:
        said = {check.check: check for check in cell.checks}
        assert said["resolve"].verdict is Verdict.FAIL
        assert "corkflag" in said["resolve"].summary
        assert said["load"].verdict is Verdict.FAIL


def _told(ask: Callable[[], Run]) -> Run:
    """Once more where a machine with too much to do could not tell: that is no answer, either way.

    The last answer is held to the row: a check that never can tell does not catch anything.
    """
    run = ask()
    if all(_is_told(answer) for cell in run.cells for answer in cell.checks):
        return run
    return ask()


def _is_told(answer: CheckResult) -> bool:
    return (answer.verdict, answer.cause) != (Verdict.UNKNOWN, Cause.INFRA)


def assert_caught(mutant: Mutant, run: Run) -> None:
    """The named check fails as its row says, everywhere, and nothing fails by accident."""
    of_object = (run.checks, "the object")
    of_kernels = [(cell.checks, cell.kernel.name) for cell in run.cells]
    assert len(of_kernels) == 2
    for answers, where in [of_object] if mutant.static else of_kernels:
        said = {answer.check: answer for answer in answers}
        named = said[mutant.by[0]]
        assert re.search(mutant.says, named.summary), _words(named, where)
        assert [
            _words(said[name], where) for name in mutant.by
            if (said[name].verdict, said[name].cause) != (Verdict.FAIL, mutant.cause)
        ] == []  # fmt: skip
    assert [
        _words(answer, where)
        for answers, where in [of_object, *of_kernels]
        for answer in answers
        if answer.verdict not in _FINE and answer.check not in (*mutant.by, *mutant.also)
    ] == []


def _words(answer: CheckResult, where: str) -> str:
    return f"{where}: {answer.check} {answer.verdict} {answer.cause}: {answer.summary}"
