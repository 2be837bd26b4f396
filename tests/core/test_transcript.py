# SPDX-License-Identifier: Apache-2.0
"""What is kept of the commands that checks run in a guest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.guest import CommandFloodError, CommandResult, CommandTimeoutError
from harness.transcript import Transcript


class _Guest:
    """Ends every command with 3, but `sleep`, which never ends; `yes` writes too much."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        if argv[0] == "sleep":
            raise CommandTimeoutError(f"'{argv[0]}' did not end within {timeout_s:g} s")
        return CommandResult(
            argv=tuple(argv), status=3, stdout=stdin, stderr=b"", truncated=argv[0] == "yes",
            duration_s=0.25,
        )  # fmt: skip

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        return path.encode()

    def start(self, argv: Sequence[str]) -> int:
        return 42


def test_commands_are_kept_as_a_person_would_type_them() -> None:
    """Evidence, and a recipe to follow by hand; what the guest answers passes through."""
    guest = Transcript(_Guest())
    answer = guest.run(["sh", "-c", "echo 'a b' $1"], timeout_s=1, stdin=b"in")
    pid = guest.start(["observer", "--all"])

    assert (answer.status, answer.stdout, pid) == (3, b"in", 42)
    assert guest.read_file("/x") == b"/x"
    ran = guest.take()
    assert [one.command for one in ran] == ["sh -c 'echo '\"'\"'a b'\"'\"' $1'", "observer --all &"]
    assert [(one.status, one.duration_s) for one in ran] == [(3, 0.25), (None, 0.0)]
    assert guest.take() == ()


def test_a_command_that_never_ends_is_kept_too() -> None:
    """It is the one that a person wants to see."""
    guest = Transcript(_Guest())
    with pytest.raises(CommandTimeoutError):
        guest.run(["sleep", "inf"], timeout_s=5)
    (ran,) = guest.take()

    assert (ran.command, ran.status) == ("sleep inf", None)


def test_a_command_with_its_data_inside_is_cut() -> None:
    """Results stay small, and say that something is missing."""
    guest = Transcript(_Guest())
    guest.run(["printf", "x" * 100_000], timeout_s=1)
    (ran,) = guest.take()

    assert len(ran.command) < 5_000
    assert ran.command.endswith("(100007 characters)")


def test_output_that_was_cut_is_no_answer() -> None:
    """A check that parses half an answer would believe it."""
    guest = Transcript(_Guest())

    with pytest.raises(CommandFloodError, match=r"'yes no' flooded its output: only 4 bytes"):
        guest.run(["yes", "no"], timeout_s=1, stdin=b"no\nn")

    assert [(one.command, one.status) for one in guest.take()] == [("yes no", 3)]
