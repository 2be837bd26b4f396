# SPDX-License-Identifier: Apache-2.0
"""The project's own checks: lint and tests, as CI and `./inv test` run them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness import process, results

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_COVERAGE_PERCENT = 85
_WITH = {"faults": "faults or survives"}
_PROCESSES_MAX = 4  # of tests beside each other: each may boot two guests
COVERAGE = Path("reports/coverage.json")  # what the gate reads
_LINTERS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)


SCHEMA = ROOT / "reports" / "schema" / f"results-v{results.SCHEMA}.json"


def write_schema() -> Path:
    """Publish the schema of results.json, made of the structs; a test fails when it is stale."""
    results.write_atomically(SCHEMA, results.json_schema())
    return SCHEMA


def is_checkout() -> bool:
    """Whether we run from the project's own tree, not from an installed package."""
    return (ROOT / "tasks.py").is_file()


def lint() -> int:
    """Every linter's output as it comes; 1 when one complains."""
    failed = [
        name
        for name, *words in _LINTERS
        if process.passed_through([_BIN / name, *words], cwd=ROOT) != 0
    ]
    return 1 if failed else 0


def test(*, fast: bool, expression: str, markers: str) -> int:
    """Lint, then pytest if nothing complained; with every test, coverage of harness/ has a floor.

    markers: pytest's -m, for the tests that are left out unless asked for; they are not linted.
    Asked for faults, it also runs what of the others proves that nothing is lost or believed wrongly.
    Many tests run beside each other, as tests/conftest.py says.
    """
    if not markers and lint() != 0:
        return 1
    everyday = f"not {'vm' if fast else 'slow'} and not faults"
    words = ["-m", _WITH.get(markers, markers) or everyday]
    if markers:
        words += ["--durations=25"]
    if expression:
        words += ["-k", expression]
    if not (expression or markers or fast):
        words += [
            "--cov=harness",
            "--cov-report=term",
            f"--cov-report=json:{COVERAGE}",
            f"--cov-fail-under={_COVERAGE_PERCENT}",
            "--durations=15",
        ]
    if not expression and (not markers or markers in _WITH):
        processes = min(_PROCESSES_MAX, max(2, len(os.sched_getaffinity(0))))
        words += [f"-n{processes}", "--dist=loadscope", "--no-loadscope-reorder"]
    # Not the larger of the two: a pytest that a signal killed has a negative status.
    tested = process.passed_through([sys.executable, "-m", "pytest", *words], cwd=ROOT)
    return 0 if tested == 0 else 1
