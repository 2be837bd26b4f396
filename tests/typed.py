# SPDX-License-Identifier: Apache-2.0
"""The program within this process (a new one takes a second), as a person types it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest

from harness import cli

Type = Callable[[Sequence[object]], tuple[int, str, str]]  # status, stdout, stderr


def typing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Type:
    """`kernel-matrix WORDS…`, with the words to come."""

    def call(words: Sequence[object]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kernel-matrix", *(str(word) for word in words)])
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capfd.readouterr()
        return status, said.out, said.err

    return call
