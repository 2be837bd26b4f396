# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from harness import process, session
from harness.guest import GuestLostError
from harness.session import Command


def trailer(status: int, timed_out: int, out: int, err: int, lost: int) -> bytes:
    return f"km-command {status} {timed_out} {out} {err} {lost}".ljust(79).encode() + b"\n"


@pytest.mark.parametrize(
    "word",
    ["plain", "two words", "it's", '"$HOME"', "a\nb", "-n", "\udcff\udcfe", "*", "ü"],
)
def test_every_word_reaches_the_command_as_it_is(word: str, tmp_path: Path) -> None:
    """The command's words go through a shell script: none may be read by it."""
    script = tmp_path / "command"
    script.write_bytes(
        session.script(Command(argv=("printf", "%s|", word), environment={"WORD": word}))
    )

    done = process.run(["busybox", "sh", script], timeout_s=10)

    assert done.stdout == word.encode(errors="surrogateescape") + b"|"


def test_environment_reaches_the_command_except_names_no_shell_has(tmp_path: Path) -> None:
    """`docker run -e a.b=c` is allowed; exporting it would be a syntax error."""
    command = Command(argv=("env",), environment={"GOOD": "a b", "not.a-name": "x"})
    (tmp_path / "command").write_bytes(session.script(command))

    done = process.run(["busybox", "sh", tmp_path / "command"], timeout_s=10)

    assert b"GOOD=a b\n" in done.stdout
    assert b"not.a-name" not in done.stdout


@pytest.mark.parametrize(
    ("argv", "directory", "status"),
    [(("/nonexistent",), "/", 127), (("/etc/passwd",), "/", 126), (("true",), "/nowhere", 126)],
    ids=["not-found", "not-executable", "no-directory"],
)
def test_what_cannot_start_has_the_shell_s_status(
    argv: tuple[str, ...], directory: str, status: int, tmp_path: Path
) -> None:
    (tmp_path / "command").write_bytes(session.script(Command(argv=argv, directory=directory)))

    done = process.run(["busybox", "sh", tmp_path / "command"], timeout_s=10, check=False)

    assert done.status == status
    assert done.stderr


def test_an_answer_is_cut_by_its_trailer() -> None:
    out, err = b"out\x00km-command 9 9 9 9 9\n", b"\xff"

    answer = session.parse_answer(out + err + trailer(3, 1, len(out), len(err), 7))

    assert answer == (3, True, out, err, 7)


@pytest.mark.parametrize(
    "answer",
    [b"", b"sh: km-command: not found", trailer(0, 0, 5, 0, 0), b"x" + trailer(0, 0, 0, 0, 0)],
    ids=["nothing", "message", "too-short", "too-long"],
)
def test_an_answer_that_does_not_add_up_is_a_lost_guest(answer: bytes) -> None:
    """A status out of a half answer would be a verdict that nobody gave."""
    with pytest.raises(GuestLostError):
        session.parse_answer(answer)


@pytest.mark.parametrize(
    ("line", "status"),
    [("0", 0), ("0x300", 3), ("0x9", 137)],
    ids=["ok", "failed", "killed"],
)
def test_a_shell_s_status_is_what_init_saw(line: str, status: int, tmp_path: Path) -> None:
    log = tmp_path / "shell.log"
    log.write_text(f"guest# exit\r\nkm: guest down (server status {line})\r\n")

    assert session._shell_status(log, 0) == status


def test_a_shell_that_never_ended_is_a_lost_guest(tmp_path: Path) -> None:
    with pytest.raises(GuestLostError, match="without its shell"):
        session._shell_status(tmp_path / "shell.log", 1)
