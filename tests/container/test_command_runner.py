# SPDX-License-Identifier: Apache-2.0
"""guestbin/command.c, run here in a scratch root: the guest adds nothing to it but a kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import harness
from harness import process, session

Run = Callable[..., tuple[int, bool, bytes, bytes, int]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "km-command"
    source = Path(harness.__file__).parent / "guestbin" / "command.c"
    process.run(["cc", "-static", "-O2", "-Wall", "-Werror", "-o", path, source], timeout_s=60)
    return path


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Run:
    if os.getuid() != 0:
        pytest.skip("chroot needs root")
    (tmp_path / "bin").mkdir()
    (tmp_path / ".kernel-matrix").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "null").touch()
    process.run(["cp", program, process.which("busybox") or "", tmp_path / "bin"], timeout_s=10)
    (tmp_path / "bin" / "sh").symlink_to("busybox")

    def run(script: str, *, stdin: bytes = b"", timeout_ms: int = 20000, limit: int = 1 << 20):  # type: ignore[no-untyped-def]
        (tmp_path / ".kernel-matrix" / "command").write_text(script)
        (tmp_path / ".kernel-matrix" / "stdin").write_bytes(stdin)
        done = process.run(
            ["chroot", tmp_path, "/bin/km-command", str(timeout_ms), str(limit)], timeout_s=30
        )
        return session.parse_answer(done.stdout)

    return run


def test_streams_stay_apart_and_the_status_comes_through(run: Run) -> None:
    answer = run("busybox cat; echo no >&2; exit 42", stdin=b"\x00\n\xff")

    assert answer == (42, False, b"\x00\n\xff", b"no\n", 0)


def test_a_signal_is_told_as_a_shell_tells_it(run: Run) -> None:
    assert run("kill -SEGV $$")[0] == 128 + 11


def test_a_server_left_in_the_background_keeps_nobody_waiting(run: Run) -> None:
    """Test scripts start servers; a container ends with its command all the same."""
    started = time.monotonic()

    answer = run("busybox sleep 15 & echo done")

    assert answer == (0, False, b"done\n", b"", 0)
    assert time.monotonic() - started < 10


def test_past_its_deadline_a_command_is_killed_with_its_children(run: Run) -> None:
    answer = run("echo before; busybox sleep 15; echo after", timeout_ms=300)

    assert answer == (128 + 9, True, b"before\n", b"", 0)


def test_what_is_over_the_limit_is_counted_and_does_not_block(run: Run) -> None:
    """A command that waited for a full pipe would be called a hang."""
    status, timed_out, stdout, stderr, lost = run(
        "busybox head -c 300000 /.kernel-matrix/stdin; echo end >&2",
        stdin=b"a" * 300_000, limit=100_000,
    )  # fmt: skip

    assert (status, timed_out, stdout) == (0, False, b"a" * 100_000)
    assert (stderr, lost) == (b"", 200_000 + len("end\n"))
