# SPDX-License-Identifier: Apache-2.0
"""The decisions of a kernel container's entry point that need no kernel."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness import container, session
from harness.errors import HarnessError
from harness.qemu import Accelerator


@pytest.mark.parametrize(
    ("directory", "expected"),
    [("/src", "/src"), ("/src/a b", "/src/a b"), ("/", "/"), ("/srcs", "/"), ("/tmp", "/")],
)
def test_the_working_directory_holds_where_the_guest_has_it(directory: str, expected: str) -> None:
    assert container.carried_directory(directory) == expected


def test_what_the_engine_and_we_set_is_not_the_command_s_environment() -> None:
    """The container's PATH means programs that the guest does not have."""
    environment = {"PATH": "/x", "HOSTNAME": "c0ffee", "KERNEL_MATRIX_TIMEOUT_S": "3", "MINE": "1"}

    assert container.carried_environment(environment) == {"MINE": "1"}


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf", "1e9"])
def test_a_deadline_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match=f"TIMEOUT is '{text}'"):
        container.number_setting({"TIMEOUT": text}, "TIMEOUT", 600)


def test_an_unset_deadline_is_the_default() -> None:
    assert container.number_setting({"TIMEOUT": ""}, "TIMEOUT", 600) == 600


def outcome(**changes: object) -> session.Outcome:
    values: dict[str, object] = {
        "status": 7, "stdout": b"\x00out", "stderr": b"err\xff", "timed_out": False,
        "lost_bytes": 0, "accelerator": Accelerator.TCG, "boot_s": 3.0, "duration_s": 1.0,
    }  # fmt: skip
    return session.Outcome(**(values | changes))  # type: ignore[arg-type]


def test_output_and_status_are_passed_on_untouched(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    status = container._tell(outcome(), "prog", 600)

    assert status == 7
    assert capfdbinary.readouterr() == (b"\x00out", b"err\xff")


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"timed_out": True}, 124, b"'prog' did not end within 600 s"),
        ({"lost_bytes": 5}, 125, b"wrote 5 bytes more"),
    ],
    ids=["timed-out", "cut"],
)
def test_what_is_not_the_whole_answer_never_has_the_command_s_status(
    changes: dict[str, object], status: int, message: bytes,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:  # fmt: skip
    found = container._tell(outcome(**changes), "prog", 600)
    written = capfdbinary.readouterr()

    assert found == status
    assert written.out == b"\x00out"
    assert message in written.err


def test_a_stop_signal_unwinds() -> None:
    """As PID 1 the default action of SIGTERM does not happen."""
    with pytest.raises(SystemExit) as caught:
        container._end(signal.SIGTERM, None)

    assert caught.value.code == 143


def test_a_base_without_qemu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(HarnessError, match="no 'qemu-system-x86_64'"):
        container.check()


@pytest.mark.parametrize(
    ("argv", "setting", "message"),
    [([], "", "no command to run"), (["true"], "x", "KERNEL_MATRIX_TIMEOUT_S is 'x'")],
    ids=["no-command", "no-number"],
)
def test_what_we_have_to_say_is_on_standard_error_with_our_status(
    argv: list[str], setting: str, message: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whoever parses the command's output must not find ours in it."""
    monkeypatch.setattr("sys.argv", ["kernel-test", *argv])
    monkeypatch.setenv("KERNEL_MATRIX_TIMEOUT_S", setting)
    kept = {number: signal.getsignal(number) for number in (15, 2, 1)}
    try:
        status = container.main()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    written = capfd.readouterr()

    assert status == container.STATUS_LOST
    assert written.out == ""
    assert f"kernel-test: {message}" in written.err
    assert "kernel-test: hint: " in written.err


def test_a_lost_guest_shows_the_end_of_its_console(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "console.log").write_text("".join(f"line {n}\n" for n in range(100)))

    container._show_console(tmp_path)

    shown = capfd.readouterr().err
    assert "line 99" in shown
    assert "line 75" in shown
    assert "line 74\n" not in shown
