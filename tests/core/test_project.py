# SPDX-License-Identifier: Apache-2.0
"""What `./inv lint` and `./inv test` ask of the tools, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import process, project


@dataclass
class Tools:
    """Tools that only answer: the real ones would run these tests again."""

    statuses: dict[str, int] = field(default_factory=dict)  # by name; 0 for others
    asked: list[str] = field(default_factory=list)

    def pass_through(self, argv: Sequence[str | Path], *, cwd: Path | None = None) -> int:
        self.asked.append(" ".join(str(word) for word in argv))
        return self.statuses.get("pytest" if "pytest" in argv else Path(argv[0]).name, 0)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools()
    monkeypatch.setattr(process, "passed_through", tools.pass_through)
    return tools


def test_every_linter_runs_though_one_complains(tools: Tools) -> None:
    tools.statuses["ruff"] = 2

    assert project.lint() == 1
    assert len(tools.asked) == 4


@pytest.mark.parametrize(
    ("fast", "expression", "has", "lacks"),
    [
        (True, "", "-m not vm and not faults", "--cov"),
        (False, "", "-m not slow and not faults --cov", "-k"),
        (False, "", "--cov-fail-under=85", "-k"),
        (False, "boot", "-k boot", "--cov"),
        (False, "", "-n", "-k"),
        (True, "", "--dist=loadscope", "--cov"),
        (False, "boot", "-k boot", "--dist"),
    ],
    ids=["fast", "everything", "floor", "some", "beside", "beside, fast", "some, alone"],
)
def test_only_a_whole_test_run_is_held_to_its_coverage(
    tools: Tools, fast: bool, expression: str, has: str, lacks: str
) -> None:
    assert project.test(fast=fast, expression=expression, markers="") == 0

    line = tools.asked[-1]
    assert has in line
    assert lacks not in line.partition("pytest")[2]


def test_no_test_runs_on_what_a_linter_complains_of(tools: Tools) -> None:
    """Its lines would stand twenty minutes above the last one."""
    tools.statuses["ruff"] = 1

    assert project.test(fast=False, expression="", markers="") == 1
    assert not any("pytest" in line for line in tools.asked)


def test_tests_asked_for_by_marker_run_without_the_others(tools: Tools) -> None:
    """Nor are they linted: they have a quarter of an hour."""
    assert project.test(fast=False, expression="engine", markers="slow") == 0

    (line,) = tools.asked
    assert line.endswith("pytest -m slow --durations=25 -k engine")


def test_faults_bring_what_else_survives(tools: Tools) -> None:
    """Beside them, as a whole; what is picked out runs alone."""
    assert project.test(fast=False, expression="", markers="faults") == 0
    assert project.test(fast=False, expression="engine", markers="faults") == 0

    whole, some = (line.partition("pytest ")[2] for line in tools.asked)
    assert whole.startswith("-m faults or survives --durations=25 -n")
    assert some == "-m faults or survives --durations=25 -k engine"


@pytest.mark.parametrize("tool", ["pytest", "mypy"])
@pytest.mark.parametrize("status", [1, 5, -9])
def test_a_failure_of_either_is_a_failure(tools: Tools, tool: str, status: int) -> None:
    """A pytest killed for want of memory (-9) has not passed."""
    tools.statuses[tool] = status

    assert project.test(fast=True, expression="", markers="") == 1
