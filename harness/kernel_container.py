# SPDX-License-Identifier: Apache-2.0
"""QEMU in a kernel container, through the Docker engine."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import requests
from docker.models.containers import Container as DockerContainer

from harness.errors import HarnessError
from harness.place import Held, alive, owner
from harness.qemu import PROGRAM, Accelerator, Arch

logger = logging.getLogger(__name__)

OWNER_LABEL = "kernel-matrix.owner"  # "pid:start time" of the harness that started a container
_OVERHEAD_MIB = 512  # what QEMU itself takes beside the guest's memory
_NO_ANSWER = "the Docker engine went away while the guest ran"
_CALL_TIMEOUT_S = 30  # the engine's answer to a request that does not wait for a guest


@dataclass(frozen=True, kw_only=True, slots=True)
class Docker:
    """QEMU in a kernel container: no network, no capability, read-only root, limits."""

    image: str
    arch: Arch = Arch.X86_64
    lifetime_s: int = 6 * 3600  # longer than any run; then it ends even if nobody comes back

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
        with contextlib.closing(client), contextlib.ExitStack() as stack:
            try:
                # Not `run`: that would ask a registry for an image that is not there.
                container = client.containers.create(
                    self.image,
                    entrypoint=["/usr/bin/timeout", "--signal=KILL", str(self.lifetime_s)],
                    command=[PROGRAM[self.arch], *qemu_argv],
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
                stack.callback(_remove, container)
                container.start()
            except docker.errors.ImageNotFound as error:
                raise HarnessError(
                    f"there is no kernel container '{self.image}'",
                    hint="inv kernels images builds the kernel containers",
                ) from error
            except (docker.errors.DockerException, requests.RequestException) as error:
                raise HarnessError(f"Docker did not start '{self.image}': {error}") from error
            yield _DockerQemu(container)


class _DockerQemu:
    """A thread waits for the container's end: asking again and again would cost the guest CPU."""

    def __init__(self, container: DockerContainer) -> None:
        self._container = container
        self._ending: str | None = None
        threading.Thread(target=self._wait, name="container-end", daemon=True).start()

    def ended(self) -> str | None:
        return self._ending

    def kill(self) -> None:
        self._container.kill()

    def _wait(self) -> None:
        # A client of our own: the harness uses the other one at the same time.
        client = engine()
        if client is None:
            self._ending = _NO_ANSWER
            return
        with contextlib.closing(client):
            self._ending = _wait_for_end(client, str(self._container.id))


def _wait_for_end(client: docker.DockerClient, identity: str) -> str:
    """Block until the container has ended; how, in words."""
    try:
        container = client.containers.get(identity)
        status = int(
            container.wait().get("StatusCode", -1)
        )  # no deadline: the guest's user has one
        container.reload()
        state = container.attrs.get("State", {})
        said = container.logs(tail=5).decode(errors="replace").strip()[-400:]
    except docker.errors.NotFound:
        return "the container was removed from outside"
    except (docker.errors.DockerException, requests.RequestException) as error:
        logger.debug("waiting for container %s: %s", identity, error)
        return _NO_ANSWER
    killed = " (out of memory)" if state.get("OOMKilled") else ""
    signalled = f"was killed by signal {status - 128}"
    how = signalled if status > 128 else f"ended with status {status}"
    return f"QEMU {how}{killed}{': ' + said if said else ''}"


def engine() -> docker.DockerClient | None:
    """A client of the Docker engine, or None when none answers."""
    if not _listens():
        return None
    try:
        client = docker.from_env(timeout=_CALL_TIMEOUT_S)
    except docker.errors.DockerException:
        return None
    try:
        client.ping()
    except (docker.errors.DockerException, requests.RequestException):
        client.close()
        return None
    return client


def _listens() -> bool:
    """Whether a local engine's socket takes connections: the SDK leaks one when it does not."""
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    path = address.removeprefix("unix://")
    if path == address:
        return True  # a remote engine: the SDK finds out
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


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


def _remove(container: DockerContainer) -> None:
    if not _listens():
        logger.warning("container %s is left behind: no engine answers", container.name)
        return
    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        return
    except (docker.errors.DockerException, requests.RequestException) as error:
        logger.warning("container %s is left behind: %s", container.name, error)
