# SPDX-License-Identifier: Apache-2.0
"""The commands that a person types, with hostile files: one line, status 2 or 3, no traceback."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from harness import process
from tests.hostile.test_types import _sections

_CHECKOUT = Path(__file__).parents[2]
COMMANDS = {
    "inspect-pipe": ("inspect", "PIPE"),
    "inspect-zeros": ("inspect", "ZERO"),
    "inspect-overlapping-sections": ("inspect", "SECTIONS"),
    "resolve-pipe": ("resolve", "PIPE", "--btf", "NOISE"),
    "resolve-noise": ("resolve", "NOISE", "--btf", "ZERO"),
    "matrix-of-an-object-that-is-a-pipe": ("kernel-matrix", "--plan", "--object", "PIPE"),
    "matrix-of-zeros": ("kernel-matrix", "--plan", "--object", "ZERO"),
    "matrix-of-a-manifest-that-is-a-pipe": ("kernel-matrix", "--plan", "--manifest", "PIPE"),
    "matrix-of-a-nested-manifest": ("kernel-matrix", "--plan", "--manifest", "NESTED"),
    "matrix-on-noise": ("kernel-matrix", "--plan", "--kernel-dir", "KERNEL"),
    "report-of-a-pipe": ("report", "--results", "PIPE"),
    "report-of-nested-json": ("report", "--results", "NESTED"),
    "merge-of-a-pipe": ("report", "--merge", "PIPE", "--out", "OUT"),
    "compare-with-zeros": ("compare", "ZERO", "PIPE"),
    "gate-of-a-pipe": ("gate", "--results", "PIPE"),
    "name-with-an-escape": ("inspect", "ESCAPE"),
    "name-that-is-no-text": ("inspect", "SURROGATE"),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the words in capitals stand for."""
    base = tmp_path_factory.mktemp("hostile")
    os.mkfifo(base / "pipe")
    (base / "noise").write_bytes(bytes(range(256)) * 40)
    (base / "nested").write_bytes(b"a = " + b"[" * 100_000)
    (base / "sections").write_bytes(_sections(10_000))
    (base / "kernel").mkdir()
    (base / "kernel" / "vmlinuz").write_bytes(bytes(range(256)) * 40)
    return {
        "PIPE": str(base / "pipe"), "ZERO": "/dev/zero", "NOISE": str(base / "noise"),
        "NESTED": str(base / "nested"), "SECTIONS": str(base / "sections"),
        "KERNEL": str(base / "kernel"), "OUT": str(base / "out"),
        "ESCAPE": str(base / "\x1b[31m\r::error::\u202e"), "SURROGATE": str(base / "\udcff"),
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_hostile_file_ends_in_one_line(command: tuple[str, ...], words: dict[str, str]) -> None:
    """Whoever waits for CI reads that line."""
    done = process.run(
        [sys.executable, "-m", "harness", *(words.get(word, word) for word in command)],
        timeout_s=120, check=False, cwd=_CHECKOUT,
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(errors="strict")

    assert done.status in (2, 3), said
    assert "Traceback" not in said
    assert len(re.findall(r"^error: ", said, re.MULTILINE)) == 1, said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert not re.search(r"^\s*::", said, re.MULTILINE)
