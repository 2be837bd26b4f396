# SPDX-License-Identifier: Apache-2.0
"""Where a guest's QEMU runs. Here: on this machine; `harness.kernel_container`: in a container.

The arguments are the same either way: a place only says how a process is started and watched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness import process
from harness.qemu import Accelerator

_STDERR = "qemu.log"


class Held(Protocol):
    """A QEMU that somebody started."""

    def ended(self) -> str | None:
        """None while it runs; then how it ended, in words."""

    def kill(self) -> None:
        """End it at once (tests of lost guests use this)."""


class Place(Protocol):
    """A way to run QEMU."""

    @property
    def name(self) -> str:
        """ "local" or "docker"."""

    def kernel_path(self, vmlinuz: Path) -> Path:
        """Where QEMU, at this place, finds that kernel."""

    def hold(
        self, qemu_argv: Sequence[str], run_dir: Path, *, accelerator: Accelerator, memory_mib: int
    ) -> AbstractContextManager[Held]:
        """Run QEMU for the length of the block; `run_dir` has the same path there and here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """QEMU as a process of this machine."""

    prefix: tuple[str, ...]  # program and the words before our arguments
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "local"

    def kernel_path(self, vmlinuz: Path) -> Path:
        return vmlinuz

    @contextlib.contextmanager
    def hold(
        self, qemu_argv: Sequence[str], run_dir: Path, *, accelerator: Accelerator, memory_mib: int
    ) -> Iterator[Held]:
        # setpriv: when the harness is killed with SIGKILL, the kernel kills its guests too.
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *self.prefix, *qemu_argv]
        with (
            (run_dir / _STDERR).open("wb") as errors,
            process.held(argv, stderr=errors, env=self.environment) as child,
        ):
            yield _LocalQemu(child, run_dir / _STDERR)


class _LocalQemu:
    def __init__(self, child: process.Child, errors: Path) -> None:
        self._child = child
        self._errors = errors

    def ended(self) -> str | None:
        status = self._child.poll()
        if status is None:
            return None
        return _ending(status, self._errors)

    def kill(self) -> None:
        self._child.kill()


def owner() -> str:
    """ "pid:start time" of this process: a pid alone may be somebody else's tomorrow."""
    return f"{os.getpid()}:{_start_time(os.getpid())}"


def alive(text: str) -> bool:
    """Whether the process that `owner()` named still runs."""
    pid, _, started = text.partition(":")
    return pid.isascii() and pid.isdigit() and _start_time(int(pid)) == started != ""


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # proc(5): field 22, starttime in clock ticks


def _ending(status: int, errors: Path) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    try:
        said = errors.read_text(errors="replace").strip()[-400:]
    except OSError:
        said = ""
    return f"QEMU {how}{': ' + said if said else ''}"
