# SPDX-License-Identifier: Apache-2.0
"""The patches as they are: each applies, and each has a row in the table."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest

from harness import checks, coreaccess
from harness.paths import default_manifest
from harness.process import ProcessError
from tests.mutants.table import MUTANTS, PATCHES, Mutant, broken

_BY_NAME = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS.values()]


def test_every_patch_has_its_row() -> None:
    """A patch without a row is asked of nobody."""
    assert sorted(path.stem for path in PATCHES.glob("*.patch")) == sorted(MUTANTS)


def test_every_mutant_names_a_check_that_there_is() -> None:
    known = {check.name for check in checks.ALL} | {coreaccess.NAME}

    assert {name for mutant in MUTANTS.values() for name in (*mutant.by, *mutant.also)} <= known


@pytest.mark.parametrize("mutant", _BY_NAME)
def test_a_patch_breaks_what_the_observer_is_today(mutant: Mutant, tmp_path: Path) -> None:
    """A patch that no longer applies, or changes nothing, would prove nothing."""
    manifest = broken(mutant, tmp_path)

    compared = filecmp.dircmp(manifest.parent, default_manifest().parent)
    assert compared.diff_files
    assert not compared.left_only


def test_a_patch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Loudly, and not with whatever of it fits."""
    mutant = MUTANTS["wrong_field"]
    twice = broken(mutant, tmp_path).parent
    (tmp_path / "again").mkdir()

    with pytest.raises(ProcessError, match="patch does not apply"):
        broken(mutant, tmp_path / "again", origin=twice)
