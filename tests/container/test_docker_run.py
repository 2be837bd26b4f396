# SPDX-License-Identifier: Apache-2.0
"""`docker run kernel-test:…` as a person types it: real engine, real kernels."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import process
from harness.process import Completed
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST

pytestmark = pytest.mark.vm

_TIMEOUT_S = 180.0  # a boot takes 4 s on an idle machine
_HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "1234:1234")


def docker_run(
    image: str, *command: str, options: tuple[str, ...] = (), stdin: bytes | None = None
) -> Completed:
    if process.which("docker") is None:
        pytest.skip("there is an engine, but no docker command")
    words = ["docker", "run", "--rm", "--network", "none", *options, image, *command]
    return process.run(words, stdin=stdin, check=False, timeout_s=_TIMEOUT_S)


@pytest.mark.parametrize("name", [OLDEST, NEWEST])
def test_uname_prints_the_kernel_of_the_image(
    name: str, image: Callable[[str], str], kernel: Callable[[str], KernelFiles]
) -> None:
    """A container shares its host's kernel; this one must not."""
    done = docker_run(image(name), "uname", "-r")

    assert done == Completed(
        argv=done.argv, status=0, stdout=kernel(name).release.encode() + b"\n", stderr=b""
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as somebody has it, readable for any user."""
    path = tmp_path / "project"
    (path / "tests").mkdir(parents=True)
    (path / "outside").symlink_to("/etc/debian_version")
    script = path / "tests" / "run.sh"
    script.write_text(
        "#!/bin/bash\n"
        "[[ $(readlink ../outside) == /etc/debian_version && ! -e ../outside ]] || exit 1\n"
        'cat; printf \'%s|\' "$PWD" "$SETTING" "$@"\n'
        "printf 'no\\xff' >&2\n"
        "echo kept > /dev/stderr; cat <(echo substituted)\n"
        "sleep 1000 &\n"
        "exit 42\n"
    )
    script.chmod(0o755)
    (path / "ballast").write_bytes(os.urandom(60 << 20))
    for directory in (tmp_path, *tmp_path.parents):
        below = directory.is_relative_to("/tmp") and directory != Path("/tmp")
        if below and directory.stat().st_uid == os.getuid():
            with contextlib.suppress(OSError):
                directory.chmod(0o755)
    return path


def test_a_mounted_script_runs_unprivileged_with_all_that_belongs_to_it(
    image: Callable[[str], str], project: Path
) -> None:
    """Directory, words, variables, input, output, status; a server left behind does not hang it.

    60 MiB beside the script have to fit into the guest as well.
    """
    done = docker_run(
        image(OLDEST), "./run.sh", "two words", "ü",
        options=("-i", "-v", f"{project}:/src:ro", "-w", "/src/tests", "-e", "SETTING=it's",
                 *_HARDENED),
        stdin=b"\x00in\r\n\xff",
    )  # fmt: skip

    assert done.stderr == b"no\xffkept\n"
    assert done.stdout == "\x00in\r\n\udcff/src/tests|it's|two words|ü|substituted\n".encode(
        errors="surrogateescape"
    )
    assert done.status == 42


def test_a_command_over_its_deadline_keeps_its_words_and_gets_124(
    image: Callable[[str], str],
) -> None:
    """It also shows that /tmp is not needed when there is a /dev/shm."""
    done = docker_run(
        image(OLDEST), "sh", "-c", "echo before; sleep 1000",
        options=("-e", "KERNEL_MATRIX_TIMEOUT_S=2", "-e", "KERNEL_MATRIX_VERBOSE=1", "--read-only"),
    )  # fmt: skip

    assert done.stdout == b"before\n"
    assert b"'sh' did not end within 2 s" in done.stderr
    assert b"tcg" in done.stderr or b"kvm" in done.stderr
    assert done.status == 124


def test_a_kernel_that_panics_is_125_with_its_last_words(image: Callable[[str], str]) -> None:
    """Never the status that the command might have had."""
    done = docker_run(image(NEWEST), "sh", "-c", "echo c > /proc/sysrq-trigger")

    assert b"the kernel gave up: Kernel panic" in done.stderr
    assert b"the console's last lines" in done.stderr
    assert b"sysrq" in done.stderr
    assert done.stdout == b""
    assert done.status == 125


def test_more_output_than_comes_out_is_said(image: Callable[[str], str]) -> None:
    done = docker_run(image(NEWEST), "head", "-c", "17000000", "/dev/zero")

    assert b"more than the 16711680" in done.stderr
    assert done.stdout == bytes(16711680)
    assert done.status == 125


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ((), (), b"no command to run"),
        (("true",), ("-e", "KERNEL_MATRIX_TIMEOUT_S=never"), b"TIMEOUT_S is 'never'"),
        (("true",), ("-v", "/etc/passwd:/src"), b"it is no directory"),
        (
            ("true",),
            ("-v", "/usr/lib:/src:ro", "-e", "KERNEL_MATRIX_SRC_LIMIT_MIB=1"),
            b"'/src' holds over 1 MiB",
        ),
    ],
    ids=["no-command", "no-number", "a-file", "too-much"],
)
def test_wrong_use_is_a_line_and_125_without_a_boot(
    command: tuple[str, ...], options: tuple[str, ...], message: bytes, image: Callable[[str], str]
) -> None:
    done = docker_run(image(NEWEST), *command, options=options)

    assert message in done.stderr
    assert b"Traceback" not in done.stderr
    assert (done.status, done.stdout) == (125, b"")


def test_docker_stop_does_not_wait_for_its_grace(image: Callable[[str], str]) -> None:
    """PID 1 ignores SIGTERM by default, and docker then waits ten seconds for nothing."""
    words = ["docker", "run", "--detach", "--network", "none", image(NEWEST), "sleep", "1000"]
    identity = process.run(words, timeout_s=60).text.strip()
    try:
        select.select([], [], [], 2.0)  # a boot on its way
        started = time.monotonic()
        process.run(["docker", "stop", "--time", "30", identity], timeout_s=60)
        took_s = time.monotonic() - started
        state = process.run(
            ["docker", "inspect", "--format", "{{.State.ExitCode}}", identity], timeout_s=30
        )
    finally:
        process.run(["docker", "rm", "--force", identity], timeout_s=60)

    assert took_s < 15
    assert state.text.strip() == "143"


def test_a_terminal_without_a_command_is_a_shell(
    image: Callable[[str], str], tmp_path: Path
) -> None:
    name = image(OLDEST)
    master, slave = pty.openpty()
    words = ["docker", "run", "--rm", "-it", "--network", "none"]
    words += ["-v", f"{tmp_path}:/src", "-w", "/src", name]
    with process.held(words, stdin=slave, stdout=slave, stderr=slave) as child:
        os.close(slave)
        seen = _read_until(master, b"guest# ")
        os.write(master, b"echo $((6*7))-$(uname -n)-$PWD\r")
        seen += _read_until(master, b"42-guest-/src")
        os.write(master, b"exit 3\r")
        _read_until(master, None)
        status = child.wait(30)
    os.close(master)

    assert b"42-guest-/src" in seen
    assert status == 3


def _read_until(terminal: int, text: bytes | None) -> bytes:
    """What the terminal shows until `text`, or until it closes."""
    seen = b""
    deadline = time.monotonic() + 120
    while text is None or text not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                chunk = os.read(terminal, 4096)
            except OSError:  # EIO: the other side is closed
                return seen
            seen += chunk
    return seen
