# SPDX-License-Identifier: Apache-2.0
"""Where a guest's QEMU runs: on this machine, or in a kernel container. Same arguments, either way."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import docker
import docker.errors
import requests
from docker.models.containers import Container as DockerContainer

from harness import process
from harness.errors import HarnessError
from harness.qemu import PROGRAM, Accelerator, Arch

logger = logging.getLogger(__name__)

OWNER_LABEL = "kernel-matrix.owner"  # "pid:start time" of the harness that started a container
_STDERR = "qemu.log"
_OVERHEAD_MIB = 512  # what QEMU itself takes beside the guest's memory


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Docker:
    """QEMU in a kernel container: no network, no capability, read-only root, limits."""

    image: str
    arch: Arch = Arch.X86_64

    @property
    def name(self) -> str:
        return "docker"

    def kernel_path(self, vmlinuz: Path) -> Path:
        return Path("/boot/vmlinuz")

    @contextlib.contextmanager
    def hold(
        self, qemu_argv: Sequence[str], run_dir: Path, *, accelerator: Accelerator, memory_mib: int
    ) -> Iterator[Held]:
        client = engine()
        if client is None:
            raise HarnessError("the Docker engine does not answer any more", hint="start it again")
        with contextlib.closing(client):
            try:
                container = client.containers.run(
                    self.image,
                    entrypoint=PROGRAM[self.arch],
                    command=list(qemu_argv),
                    detach=True,
                    network_mode="none",
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    read_only=True,
                    tmpfs={"/tmp": "size=64m"},
                    user=f"{os.getuid()}:{os.getgid()}",
                    mem_limit=f"{memory_mib + _OVERHEAD_MIB}m",
                    pids_limit=128,
                    volumes={str(run_dir): {"bind": str(run_dir), "mode": "rw"}},
                    devices=["/dev/kvm"] if accelerator is Accelerator.KVM else [],
                    labels={OWNER_LABEL: owner()},
                    init=False,
                )
            except docker.errors.DockerException as error:
                raise HarnessError(
                    f"Docker did not start '{self.image}': {error}",
                    hint="inv kernels images builds the kernel containers",
                ) from error
            try:
                yield _DockerQemu(container)
            finally:
                _remove(container)


class _DockerQemu:
    def __init__(self, container: DockerContainer) -> None:
        self._container = container

    def ended(self) -> str | None:
        try:
            self._container.reload()
        except docker.errors.NotFound:
            return "the container was removed from outside"
        except (docker.errors.DockerException, requests.RequestException) as error:
            return f"the Docker engine does not answer ({type(error).__name__})"
        if self._container.status in ("running", "created"):
            return None
        state = self._container.attrs.get("State", {})
        status = state.get("ExitCode", -1)
        said = self._container.logs(tail=5).decode(errors="replace").strip()
        killed = " (out of memory)" if state.get("OOMKilled") else ""
        how = f"killed by signal {status - 128}" if status > 128 else f"status {status}"
        return f"QEMU ended with {how}{killed}{': ' + said if said else ''}"

    def kill(self) -> None:
        self._container.kill()


def engine() -> docker.DockerClient | None:
    """A client of the Docker engine, or None when none answers."""
    try:
        client = docker.from_env(timeout=60)
    except docker.errors.DockerException:
        return None
    try:
        client.ping()
    except (docker.errors.DockerException, requests.RequestException):
        client.close()
        return None
    return client


def remove_orphans() -> list[str]:
    """Remove containers whose harness is dead (killed with SIGKILL); their names."""
    client = engine()
    if client is None:
        return []
    removed: list[str] = []
    with contextlib.closing(client):
        for container in client.containers.list(all=True, filters={"label": OWNER_LABEL}):
            if not alive(container.labels.get(OWNER_LABEL, "")):
                _remove(container)
                removed.append(str(container.name))
    return removed


def owner() -> str:
    """ "pid:start time" of this process: a pid alone may be somebody else's tomorrow."""
    return f"{os.getpid()}:{_start_time(os.getpid())}"


def alive(text: str) -> bool:
    """Whether the process that `owner()` named still runs."""
    pid, _, started = text.partition(":")
    return pid.isdigit() and _start_time(int(pid)) == started != ""


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # proc(5): field 22, starttime in clock ticks


def _remove(container: DockerContainer) -> None:
    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        return
    except (docker.errors.DockerException, requests.RequestException) as error:
        logger.warning("container %s is left behind: %s", container.name, error)


def _ending(status: int, errors: Path) -> str:
    how = (
        f"killed by signal {-status} ({signal.Signals(-status).name})"
        if status < 0
        else f"status {status}"
    )
    try:
        said = errors.read_text(errors="replace").strip()[-400:]
    except OSError:
        said = ""
    return f"QEMU ended with {how}{': ' + said if said else ''}"
