# SPDX-License-Identifier: Apache-2.0
"""What a log file shows of a run: a plain line for each event, nothing that moves."""

from __future__ import annotations

import re
import threading

import pytest

from harness.progress import Finished, Note, Phase, Progress


def _lines(text: str) -> list[str]:
    """Without the times."""
    lines = text.splitlines()
    assert all(re.match(r"\[ *\d+\.\d s\] ", line) for line in lines)
    return [line.partition("] ")[2].rstrip() for line in lines]


def test_without_a_terminal_each_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr: stdout belongs to the result."""
    with Progress() as emit:
        emit(Phase(kernel="5.10-oldest", phase="boot"))
        emit(Phase(kernel="5.10-oldest", phase="fetch", detail="linux-image [1/2]"))
        emit(Finished(kernel="5.10-oldest", verdict="fail", summary="load: no [red]"))
        emit(Finished(kernel="x", verdict="pass", summary=""))
        emit(Note(text="something " + "long " * 60))

    said = capsys.readouterr()
    assert said.out == ""
    assert "\x1b" not in said.err
    assert _lines(said.err) == [
        "5.10-oldest      boot",
        "5.10-oldest      fetch: linux-image [1/2]",
        "5.10-oldest      fail  load: no [red]",
        "x                pass",
        ("something " + "long " * 60).rstrip(),
    ]


def test_lines_of_many_threads_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as emit:
        threads = [
            threading.Thread(target=lambda: [emit(Note(text="a" * 300)) for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert _lines(capsys.readouterr().err) == ["a" * 300] * 80


def test_on_a_terminal_running_kernels_are_drawn_and_finished_ones_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress() as emit:
        emit(Phase(kernel="running", phase="boot", detail="slowly"))
        emit(Phase(kernel="done", phase="load"))
        emit(Finished(kernel="done", verdict="pass", summary="5.10.1"))

    shown = capsys.readouterr().err
    assert "\x1b[" in shown
    assert re.search(r"running\s+boot\s+\d+\.\d s\s+slowly", re.sub(r"\x1b\[[^m]*m", "", shown))
    assert "5.10.1" in shown


def test_an_error_within_passes_and_leaves_the_terminal_usable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor is hidden while we draw, and shown again whatever happens."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    with pytest.raises(KeyboardInterrupt), Progress():
        raise KeyboardInterrupt

    assert capsys.readouterr().err.rfind("\x1b[?25h") > 0
