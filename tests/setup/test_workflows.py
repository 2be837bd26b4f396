# SPDX-License-Identifier: Apache-2.0
"""The workflows that people copy: valid, safe, and made of commands that run anywhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness import paths, process

_ROOT = paths.default_manifest().parents[1]
_WORKFLOWS = sorted((_ROOT / ".github" / "workflows").glob("*.yml"))
_BIN = Path(sys.executable).parent


def _runs(workflow: Path) -> list[str]:
    found = YAML(typ="safe").load(workflow.read_text())
    return [
        str(step["run"]) for job in found["jobs"].values() for step in job["steps"] if "run" in step
    ]


def test_github_s_schema_accepts_them() -> None:
    done = process.run(
        [_BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *_WORKFLOWS],
        timeout_s=60, check=False,
    )  # fmt: skip
    assert done.status == 0, done.text


def test_an_audit_finds_nothing() -> None:
    """Actions pinned by hash, permissions least, no template in a script."""
    done = process.run(
        [_BIN / "zizmor", "--offline", "--quiet", "--persona=pedantic", *_WORKFLOWS],
        timeout_s=60, check=False,
    )  # fmt: skip
    assert done.status == 0, done.text


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=lambda path: path.stem)
def test_every_inv_command_is_one_that_we_have(workflow: Path) -> None:
    commands = [
        (words[0], re.findall(r"(?<=\s)--[a-z-]+", " ".join(words)))
        for run in _runs(workflow)
        for line in run.splitlines()
        for found in re.findall(r"\./inv ([^|>\n]+)", line)
        if (words := found.split())
    ]
    assert commands
    flags_of: dict[str, set[str]] = {}
    for task, flags in commands:
        flags_of.setdefault(task, set()).update(flags)
    for task, named in flags_of.items():
        help_ = process.run(
            [sys.executable, "-m", "harness", "--help", task], cwd=_ROOT, timeout_s=60
        ).text
        assert [flag for flag in named if flag not in help_] == [], task


def test_every_step_but_github_s_own_business_is_a_command_of_ours() -> None:
    """What runs there can be run here; the rest is ownership, git, and the other jobs' results."""
    foreign = [
        run for path in _WORKFLOWS for run in _runs(path)
        if "./inv " not in run and not run.startswith(("sudo chown", "for result", "git diff"))
    ]  # fmt: skip
    assert foreign == []
