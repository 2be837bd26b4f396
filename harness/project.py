# SPDX-License-Identifier: Apache-2.0
"""The project's own checks: lint and tests, as CI and `./inv test` run them."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import process, results

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_COVERAGE_PERCENT = 85
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
    """Lint, then pytest; with every test, coverage of harness/ must reach its floor.

    markers: pytest's -m, for the tests that are left out unless asked for; they are not linted.
    """
    status = 0 if markers else lint()
    words = ["-m", markers or f"not {'vm' if fast else 'slow'} and not faults"]
    if expression:
        words += ["-k", expression]
    elif not fast and not markers:
        words += [
            "--cov=harness",
            "--cov-report=term",
            f"--cov-report=json:{COVERAGE}",
            f"--cov-fail-under={_COVERAGE_PERCENT}",
        ]
    # Not the larger of the two: a pytest that a signal killed has a negative status.
    tested = process.passed_through([sys.executable, "-m", "pytest", *words], cwd=ROOT)
    return status if tested == 0 else 1
