# SPDX-License-Identifier: Apache-2.0
"""The entry point of a kernel container: boot its kernel, run the container's command in it.

Runs on Debian's python3-minimal, so standard library only. Standard output belongs to the command:
whatever we have to say goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from harness import qemu, session, source_tree
from harness.errors import HarnessError
from harness.guest import CommandTimeoutError, GuestLostError
from harness.place import Local
from harness.qemu import PROGRAM, Accelerator, Arch
from harness.session import Command, Files

HOME = Path("/opt/kernel-matrix")
BASE = HOME / "base.cpio"
VMLINUZ = Path("/boot/vmlinuz")
NEEDED = ("cpio", "prlimit", "setpriv", "timeout")
STATUS_TIMED_OUT = 124  # as timeout(1)
STATUS_LOST = 125  # as docker(1): not the command's doing

_SOURCE = Path("/src")
_KVM = Path("/dev/kvm")
_OURS = "KERNEL_MATRIX_"
_SHELLS = ("sh", "bash", "/bin/sh", "/bin/bash")  # on a terminal: the guest's, on its console
_CONSOLE_TAIL_LINES = 25
# The engine's and the shell's own; the guest has its own of each.
_NOT_CARRIED = frozenset({"PATH", "HOME", "HOSTNAME", "TERM", "PWD", "OLDPWD", "SHLVL", "_"})


def main() -> int:
    """The container's exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(dir=_scratch()))
            run_dir = Path(name)
            try:
                return _run(sys.argv[1:], os.environ, run_dir)
            except GuestLostError:
                _show_console(run_dir)
                raise
    except CommandTimeoutError as error:
        _say(error.message)
        return STATUS_TIMED_OUT
    except HarnessError as error:
        _say(error.message)
        if error.hint:
            _say(f"hint: {error.hint}")
        return STATUS_LOST


def check() -> None:
    """Raise HarnessError unless this root has every program we start (when an image is built)."""
    _arch()
    for program in NEEDED:
        if shutil.which(program) is None:
            raise HarnessError(f"the base image has no '{program}'")


def _arch() -> Arch:
    """Of the guests: a base image has the QEMU for one architecture."""
    for arch in Arch:
        if shutil.which(PROGRAM[arch]) is not None:
            return arch
    raise HarnessError(f"the base image has no '{PROGRAM[Arch.X86_64]}'")


def carried_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What `docker run -e` gave to the command."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _NOT_CARRIED and not name.startswith(_OURS)
    }


def carried_directory(directory: str) -> str:
    """The command's working directory: the container's, where the guest has it."""
    inside = Path(directory)
    return directory if inside == _SOURCE or _SOURCE in inside.parents else "/"


def number_setting(environment: Mapping[str, str], name: str, default: float) -> float:
    """A positive number of the environment."""
    text = environment.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise HarnessError(f"{name} is '{text}'", hint="give a positive number")
    return value


def _run(argv: Sequence[str], environment: Mapping[str, str], run_dir: Path) -> int:
    timeout_s = number_setting(environment, f"{_OURS}TIMEOUT_S", session.COMMAND_TIMEOUT_S)
    limit_mib = int(
        number_setting(environment, f"{_OURS}SRC_LIMIT_MIB", float(source_tree.LIMIT_MIB))
    )
    if not argv and not _is_terminal():
        raise HarnessError(
            "no command to run",
            hint="name one after the image, or ask for a shell with docker run -it",
        )
    verbose = bool(environment.get(f"{_OURS}VERBOSE"))
    arch = _arch()
    accelerators = _accelerators(arch)
    if verbose and accelerators == (Accelerator.TCG,):
        _say("tcg: there is no /dev/kvm that we may open")
    files = Files(vmlinuz=VMLINUZ, base=BASE, arch=arch)
    where = Local(prefix=(PROGRAM[arch],))
    source = _SOURCE if _SOURCE.exists() else None

    def note(text: str) -> None:
        if verbose:
            _say(text)

    directory = carried_directory(str(Path.cwd()))
    if not argv or (len(argv) == 1 and argv[0] in _SHELLS and _is_terminal()):
        _say("leave the guest with exit; it is thrown away then")
        return session.shell(
            files, where=where, run_dir=run_dir, accelerators=accelerators,
            source=source, source_limit_mib=limit_mib, directory=directory, on_note=note,
        )  # fmt: skip
    command = Command(
        argv=tuple(argv), directory=directory,
        environment=carried_environment(environment), stdin=_stdin(limit_mib),
    )  # fmt: skip
    outcome = session.run_command(
        command, files, where=where, run_dir=run_dir, accelerators=accelerators,
        timeout_s=timeout_s, source=source, source_limit_mib=limit_mib, on_note=note,
    )  # fmt: skip
    return _tell(outcome, argv[0], timeout_s)


def _tell(outcome: session.Outcome, program: str, timeout_s: float) -> int:
    """Pass on what the command wrote; the exit status."""
    for stream, data in ((sys.stdout, outcome.stdout), (sys.stderr, outcome.stderr)):
        with contextlib.suppress(BrokenPipeError):
            stream.buffer.write(data)
            stream.flush()
    if outcome.timed_out:
        _say(f"'{program}' did not end within {timeout_s:g} s and was killed")
        return STATUS_TIMED_OUT
    if outcome.lost_bytes:
        _say(
            f"'{program}' wrote {outcome.lost_bytes} bytes more than the"
            f" {session.OUTPUT_LIMIT_BYTES} that come out of a guest"
        )
        _say("hint: compress or reduce it in the guest")
        return STATUS_LOST
    return outcome.status


def _accelerators(arch: Arch) -> tuple[Accelerator, ...]:
    """KVM only where the container was given it; whether it works, the boot tells."""
    if arch is not qemu.host_arch():
        return (Accelerator.TCG,)
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return (Accelerator.TCG,)
    return (Accelerator.KVM, Accelerator.TCG)


def _stdin(limit_mib: int) -> bytes:
    if sys.stdin is None or _is_terminal():
        return b""
    limit = limit_mib << 20
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise HarnessError(
            f"standard input is over {limit_mib} MiB",
            hint=f"raise {_OURS}SRC_LIMIT_MIB, or put it into a directory mounted at {_SOURCE}",
        )
    return data


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _scratch() -> str:
    """Somewhere to write; never the working directory, which may be the person's."""
    for name in ("/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            tempfile.TemporaryFile(dir=name).close()
            return name
    raise HarnessError("the container has no place to write", hint="docker run --tmpfs /tmp …")


def _show_console(run_dir: Path) -> None:
    for name in ("console.log", "shell.log"):
        with contextlib.suppress(OSError):
            lines = (run_dir / name).read_text(errors="replace").splitlines()
            _say("\n".join(["the console's last lines:", *lines[-_CONSOLE_TAIL_LINES:]]))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"kernel-test: {text}\n")
        sys.stderr.flush()


def _end(number: int, frame: FrameType | None) -> None:
    """docker stop: as PID 1 we would not end by ourselves. Unwinding ends QEMU first."""
    raise SystemExit(128 + number)
