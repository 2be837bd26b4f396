# SPDX-License-Identifier: Apache-2.0
"""Mutants, built once, and runs of the pipeline with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import checks
from harness.build import Built
from harness.cache import Cache
from harness.checks import Check
from harness.results import Run
from harness.supply import KernelFiles
from tests.mutants.table import Mutant, built
from tests.vm.matrix import Matrix, leftovers

_BOOT_TIMEOUT_S = 300.0  # ten times what a busy machine needs

Subjects = Callable[[Mutant], Built]
Ask = Callable[..., Run]


@pytest.fixture(scope="session")
def subject_of(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    """Breaks and builds; the cache has what was built before."""
    made: dict[str, Built] = {}

    def make(mutant: Mutant) -> Built:
        if mutant.name not in made:
            made[mutant.name] = built(mutant, tmp_path_factory.mktemp(mutant.name), cache)
        return made[mutant.name]

    return make


@pytest.fixture
def ask(cache: Cache, tmp_path: Path) -> Iterator[Ask]:
    """Asks checks, by name, of a subject on kernels; afterwards nothing of it may be left."""
    number = itertools.count(1)

    def run(subject: Built, kernels: tuple[KernelFiles, ...], names: tuple[str, ...]) -> Run:
        return Matrix(
            cache=cache, kernels=kernels, subject=subject, backend="local", checks=named(names),
            append=(), boot_timeout_s=_BOOT_TIMEOUT_S, report_dir=tmp_path / f"report-{next(number)}",
        ).run()  # fmt: skip

    yield run
    assert leftovers(cache) == []


def named(names: tuple[str, ...]) -> tuple[Check, ...]:
    """The checks with these names, in the order of asking."""
    return tuple(check for check in checks.ALL if check.name in names)
