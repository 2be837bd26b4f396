# SPDX-License-Identifier: Apache-2.0
"""Processes end when they should, with their children, and say what went wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness import process
from harness.process import ProcessError, ProcessTimeoutError


def _gone(pid: int) -> bool:
    """Dead, or dead and not yet waited for by its new parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _gone_soon(pid: int) -> bool:
    end = time.monotonic() + 10
    while not _gone(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_streams_stay_apart_and_the_status_comes_back() -> None:
    done = process.run(
        ["sh", "-c", "cat; echo no >&2; exit 3"], stdin=b"yes", timeout_s=20, check=False
    )

    assert (done.status, done.stdout, done.stderr, done.text) == (3, b"yes", b"no\n", "yes")


def test_without_input_standard_input_is_closed() -> None:
    """Nothing we run may sit and wait for a person."""
    assert process.run(["cat"], timeout_s=20).stdout == b""


def test_the_environment_is_added_to_and_the_directory_is_taken(tmp_path: Path) -> None:
    done = process.run(
        ["sh", "-c", 'echo "$KM_TEST $HOME"; pwd'], env={"KM_TEST": "x"}, cwd=tmp_path, timeout_s=20
    )

    assert done.text.splitlines() == [f"x {os.environ.get('HOME', '')}", str(tmp_path.resolve())]


def test_past_its_deadline_a_command_dies_with_its_children(tmp_path: Path) -> None:
    """A child that outlives its parent would hold memory, locks and our pipes."""
    note = tmp_path / "child"

    with pytest.raises(ProcessTimeoutError, match=r"did not end within 1 s") as caught:
        process.run(["sh", "-c", f"sleep 600 & echo $! > {note}; echo so far; wait"], timeout_s=1)

    assert caught.value.completed is not None
    assert caught.value.completed.stdout == b"so far\n"
    assert caught.value.completed.status == -9
    assert _gone_soon(int(note.read_text()))


def test_a_missing_program_is_named_with_a_way_out() -> None:
    with pytest.raises(ProcessError, match="no program 'km-no-such'") as caught:
        process.run(["km-no-such"], timeout_s=5)

    assert "inv doctor" in caught.value.hint


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)

    with pytest.raises(ProcessError, match=f"cannot start '{text}': Exec format error"):
        process.run([text], timeout_s=5)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo why >&2; echo out; exit 4", "status 4: why"),
        ("echo out; exit 5", "status 5: out"),
        ("kill -TERM $$", "status -15: no output"),
    ],
    ids=["stderr first", "stdout else", "signal"],
)
def test_a_command_that_had_to_work_says_why_not(script: str, says: str) -> None:
    with pytest.raises(ProcessError, match=says) as caught:
        process.run(["sh", "-c", script], timeout_s=20, hint="do this")

    assert caught.value.hint == "do this"
    assert caught.value.completed is not None


def test_a_long_command_line_is_cut_in_the_message() -> None:
    with pytest.raises(ProcessError) as caught:
        process.run(["false", *["word"] * 500], timeout_s=20)

    assert len(caught.value.message) < 300


def test_a_held_process_ends_with_its_block() -> None:
    with process.held(["sleep", "600"]) as child:
        assert child.poll() is None

    assert child.returncode == -15


def test_a_held_shell_s_children_end_with_it(tmp_path: Path) -> None:
    note = tmp_path / "child"
    script = f"sleep 600 & echo $! > {note}.new; mv {note}.new {note}; wait"

    with process.held(["sh", "-c", script]):
        while not note.exists():
            time.sleep(0.02)

    assert _gone_soon(int(note.read_text()))


def test_a_held_process_that_ignores_the_request_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.3)
    note = tmp_path / "child"
    script = f"trap '' TERM; sleep 600 & echo $! > {note}.new; mv {note}.new {note}; wait; wait"

    with process.held(["sh", "-c", script]) as child:
        while not note.exists():
            time.sleep(0.02)

    assert child.returncode == -9
    assert _gone_soon(int(note.read_text()))


def test_passing_through_gives_the_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.passed_through(["sh", "-c", "echo here; exit 7"]) == 7
    assert capfd.readouterr().out == "here\n"
