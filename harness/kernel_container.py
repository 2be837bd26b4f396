# SPDX-License-Identifier: Apache-2.0
"""QEMU in a kernel container, through the Docker engine."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import docker
import docker.errors
import requests
from docker.models.containers import Container as DockerContainer
from docker.types import LogConfig, Ulimit

from harness import confine
from harness.errors import HarnessError
from harness.place import CONSOLE, Held, dead, owner
from harness.qemu import PROGRAM, Accelerator, Arch

logger = logging.getLogger(__name__)

OWNER_LABEL = "kernel-matrix.owner"  # `place.owner()` of the harness that started a container
LIFETIME_S = 6 * 3600  # of a guest's container: longer than any run
_OVERHEAD_MIB = 512  # what QEMU itself takes beside the guest's memory
_MORE_CPUS = 1  # QEMU's own threads, beside those of the guest's CPUs
_MAX_LOG = "1m"  # of what QEMU writes to its standard error
_KVM = Path("/dev/kvm")
_RUN_DIR = "/run/guest"  # run_dir in there: its own path may lead through a closed directory
_NO_ANSWER = "the Docker engine went away while the guest ran"
_CALL_TIMEOUT_S = 30  # the engine's answer to a request that does not wait for a guest
BACK_WITHIN_S = 60.0  # how long guests wait for an engine that answered before, all together
_LOOK_TIMEOUT_S = 5  # a busy engine's answer to a ping; a frozen one never answers
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Docker:
    """QEMU in a kernel container: no network, no capability, read-only root, not root, limits.

    The engine's own seccomp profile stays on; nothing is shared but the guest's directory, which
    is read-only, and the console's file in it.
    """

    image: str
    arch: Arch = Arch.X86_64
    lifetime_s: int = LIFETIME_S  # then it ends even if nobody comes back

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
            user = confine.next_user()
            (run_dir / CONSOLE).touch()
            confine.hand_over(run_dir, user, (CONSOLE,))
            kvm = accelerator is Accelerator.KVM
            memory = f"{memory_mib + _OVERHEAD_MIB}m"
            try:
                # Not `run`: that would ask a registry for an image that is not there.
                container = client.containers.create(
                    self.image,
                    entrypoint=["/usr/bin/timeout", "--signal=KILL", str(self.lifetime_s)],
                    command=[PROGRAM[self.arch], *_inside(qemu_argv, run_dir)],
                    detach=True,
                    network_mode="none",
                    ipc_mode="none",
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    read_only=True,
                    tmpfs={"/tmp": "size=16m,noexec,nosuid,nodev"},
                    user=f"{user.uid}:{user.gid}",
                    group_add=_kvm_groups() if kvm else [],
                    mem_limit=memory,
                    memswap_limit=memory,
                    nano_cpus=_nano_cpus(client, qemu_argv),
                    pids_limit=confine.MAX_TASKS,
                    ulimits=_ULIMITS,
                    log_config=LogConfig(type="json-file", config={"max-size": _MAX_LOG}),
                    volumes={
                        str(run_dir): {"bind": _RUN_DIR, "mode": "ro"},
                        str(run_dir / CONSOLE): {"bind": f"{_RUN_DIR}/{CONSOLE}", "mode": "rw"},
                    },
                    devices=[str(_KVM)] if kvm else [],
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


_ULIMITS = [
    Ulimit(name=name, soft=most, hard=most)
    for name, most in (
        ("core", 0), ("nofile", confine.MAX_FILES), ("fsize", confine.MAX_FILE_BYTES),
    )
]  # fmt: skip


def _inside(qemu_argv: Sequence[str], run_dir: Path) -> list[str]:
    """The arguments with the guest's directory as the container has it."""
    quoted = str(run_dir).replace(",", ",,")  # in options of several values (`qemu.argv`)
    return [word.replace(quoted, _RUN_DIR).replace(str(run_dir), _RUN_DIR) for word in qemu_argv]


def _nano_cpus(client: docker.DockerClient, qemu_argv: Sequence[str]) -> int | None:
    """As many CPUs as the guest has and one for QEMU itself, none over the machine's.

    None where the kernel cannot: an engine refuses the limit then.
    """
    facts = client.info()
    if not facts.get("CpuCfsQuota", False):
        return None
    vcpus = int(qemu_argv[qemu_argv.index("-smp") + 1]) if "-smp" in qemu_argv else 1
    return min(vcpus + _MORE_CPUS, int(facts.get("NCPU", 1))) * 1_000_000_000


def _kvm_groups() -> list[str]:
    """The group that may open /dev/kvm."""
    try:
        device = _KVM.stat()
    except OSError:
        return []
    return [str(device.st_gid)] if device.st_mode & 0o060 == 0o060 else []


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

    @property
    def identity(self) -> str:
        """The container's id."""
        return str(self._container.id)

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


def engine(timeout_s: int | None = None) -> docker.DockerClient | None:
    """A client of the Docker engine, or None when none answers."""
    if not _listens():
        return None
    try:
        client = docker.from_env(timeout=timeout_s or _CALL_TIMEOUT_S)
    except docker.errors.DockerException:
        return None
    try:
        client.ping()
    except (docker.errors.DockerException, requests.RequestException):
        client.close()
        return None
    return client


@dataclass(kw_only=True)
class _Outage:
    """What this process knows of the engine being away."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    since: float | None = None  # monotonic; None: it answered when somebody looked last
    left: set[str] = field(default_factory=set)  # containers that could not be removed


_outage = _Outage()


def await_engine(given_up: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Return once the engine answers, and has nothing of ours left of before it went away.

    An engine that is stopped and started again comes back within BACK_WITHIN_S, counted from when
    the first guest missed it, or guests cease to wait. HarnessError then, or when `given_up`.
    """
    told = False
    while (client := engine(_LOOK_TIMEOUT_S)) is None:
        with _outage.lock:
            _outage.since = _outage.since or time.monotonic()
            away_s = time.monotonic() - _outage.since
        if given_up():
            raise HarnessError("interrupted while the Docker engine was away")
        if away_s > BACK_WITHIN_S:
            raise HarnessError(
                f"the Docker engine went away and was not back within {BACK_WITHIN_S:g} s",
                hint="start it again, then run the rest once more, or run it with --backend local",
            )
        if not told:
            left_s = BACK_WITHIN_S - away_s
            say(f"waiting for the Docker engine to come back, {left_s:.0f} s at most")
            told = True
        time.sleep(_LOOK_EVERY_S)
    with contextlib.closing(client):
        with _outage.lock:
            _outage.since = None
        _remove_left(client)


def remove_left() -> None:
    """Remove the containers that an engine which was away could not, if it is back."""
    if _outage.left and (client := engine(_LOOK_TIMEOUT_S)) is not None:
        with contextlib.closing(client):
            _remove_left(client)


def _remove_left(client: docker.DockerClient) -> None:
    with _outage.lock:
        left = sorted(_outage.left)
        _outage.left.clear()
    for identity in left:
        try:
            container = client.containers.get(identity)
        except docker.errors.NotFound:
            continue
        except (docker.errors.DockerException, requests.RequestException):
            with _outage.lock:
                _outage.left.add(identity)
        else:
            _remove(container)


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
    """Remove containers whose harness is dead (killed with SIGKILL); their names.

    Other machines and containers may use the engine too, and whether a harness of theirs lives
    cannot be seen from here. A container of such a one is left alone until it has ended and
    LIFETIME_S have passed since it was made. So are those of before the machine was started anew.
    An engine that fails at it keeps them for the next start: guests may do without it.
    """
    client = engine()
    if client is None:
        return []
    removed: list[str] = []
    with contextlib.closing(client):
        try:
            # One of another run may end while they are looked at.
            ours = client.containers.list(
                all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
            )
        except (docker.errors.DockerException, requests.RequestException) as error:
            logger.warning("what a killed run left in the Docker engine stays there: %s", error)
            return []
        for container in ours:
            if dead(container.labels.get(OWNER_LABEL, "")) or _outlived(container):
                _remove(container)
                removed.append(str(container.name))
    return removed


def _outlived(container: DockerContainer) -> bool:
    """Whether it has ended, so long after it was made that no harness waits for it any more."""
    made = re.sub(r"\.\d+", "", str(container.attrs.get("Created", "")))  # of nanoseconds
    try:
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(made)
    except (ValueError, TypeError):
        return False
    return container.status in ("created", "exited", "dead") and age.total_seconds() > LIFETIME_S


def _remove(container: DockerContainer) -> None:
    if not _listens():
        _leave(container, "no engine answers")
        return
    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        return
    except (docker.errors.DockerException, requests.RequestException) as error:
        _leave(container, str(error))


def _leave(container: DockerContainer, why: str) -> None:
    """It goes when the engine is back, in this run or at the start of the next."""
    logger.warning("container %s is left behind for now: %s", container.name, why)
    with _outage.lock:
        _outage.left.add(str(container.id))
