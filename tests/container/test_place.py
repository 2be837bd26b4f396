# SPDX-License-Identifier: Apache-2.0
"""Guests of the harness in containers: what may go wrong around one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from harness import initramfs, kernel_container, place, session, vm
from harness.baseroot import BaseRoot
from harness.errors import HarnessError
from harness.guest import GuestLostError
from harness.kernel_container import OWNER_LABEL, Docker
from harness.place import Local
from harness.qemu import Accelerator, Machine
from harness.session import Command, Files
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST

pytestmark = pytest.mark.vm

ENGINE_SOCKET = Path("/var/run/docker.sock")


@pytest.fixture
def client(image: Callable[[str], str]) -> Iterator[docker.DockerClient]:
    client = kernel_container.engine()
    assert client is not None
    with contextlib.closing(client):
        yield client


@pytest.fixture
def initrd(run_dir: Path, boot_files: Files) -> Path:
    initramfs.concatenate([boot_files.base], run_dir / "initrd")
    return run_dir / "initrd"


def ours(client: docker.DockerClient) -> list[str]:
    """Containers that this process started."""
    found = client.containers.list(all=True, filters={"label": f"{OWNER_LABEL}={place.owner()}"})
    return [str(container.id) for container in found]


def test_a_guest_answers_from_an_unprivileged_container_and_leaves_nothing(
    image: Callable[[str], str], kernel: Callable[[str], KernelFiles],
    client: docker.DockerClient, initrd: Path, run_dir: Path,
) -> None:  # fmt: skip
    """Killed from outside it is a lost guest, told within seconds."""
    where = Docker(image=image(OLDEST))
    with vm.booted(
        Machine(vcpus=1), vmlinuz=kernel(OLDEST).vmlinuz, initrd=initrd, where=where, run_dir=run_dir
    ) as booted:  # fmt: skip
        release = booted.guest.run(["/bin/uname", "-r"], timeout_s=30).text.strip()
        (identity,) = ours(client)
        attributes = client.containers.get(identity).attrs
        host = attributes["HostConfig"]
        booted.held.kill()
        started = time.monotonic()
        with pytest.raises(GuestLostError, match="killed by signal 9"):
            booted.guest.run(["/bin/sleep", "60"], timeout_s=60)
        took_s = time.monotonic() - started

    assert release == kernel(OLDEST).release
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert host["NetworkMode"] == "none"
    assert (host["PidsLimit"], host["IpcMode"]) == (128, "none")
    assert "0" not in attributes["Config"]["User"].split(":")
    writable = [mount["Destination"] for mount in attributes["Mounts"] if mount["RW"]]
    assert writable == ["/run/guest/console.log"]
    assert took_s < 10
    assert ours(client) == []


def test_an_engine_that_goes_away_is_a_lost_guest_within_seconds(
    image: Callable[[str], str], kernel: Callable[[str], KernelFiles], client: docker.DockerClient,
    initrd: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Our way to the engine ends: a real engine, behind a door that closes."""
    where = Docker(image=image(NEWEST))
    try:
        with _door(run_dir / "door") as door:
            monkeypatch.setenv("DOCKER_HOST", f"unix://{run_dir / 'door'}")
            with vm.booted(
                Machine(vcpus=1), vmlinuz=kernel(NEWEST).vmlinuz, initrd=initrd, where=where,
                run_dir=run_dir,
            ) as booted:  # fmt: skip
                door.close()
                started = time.monotonic()
                with pytest.raises(GuestLostError, match="the Docker engine went away"):
                    booted.guest.run(["/bin/sleep", "60"], timeout_s=60)
                took_s = time.monotonic() - started
    finally:
        for identity in ours(client):
            client.containers.get(identity).remove(force=True)

    assert took_s < 10


def test_only_containers_of_the_dead_are_orphans(
    image: Callable[[str], str], client: docker.DockerClient
) -> None:
    """An engine may be shared: by containers, where our pids mean others, and by machines."""
    name = image(NEWEST)
    pid, started, namespace, boot = place.owner().split(":")
    labels = {
        "dead": f"999999999:1:{namespace}:{boot}",
        "alive": place.owner(),
        "in another container": f"999999999:1:{namespace}1:{boot}",
        "on another machine": f"{pid}:{started}:{namespace}:another",
        "of an older harness": "999999999:1",
    }
    made = {
        which: client.containers.create(name, ["true"], labels={OWNER_LABEL: label})
        for which, label in labels.items()
    }
    made["foreign"] = client.containers.create(name, ["true"])
    try:
        removed = kernel_container.remove_orphans()
        left = {
            str(container.id) for container in client.containers.list(all=True, ignore_removed=True)
        }
    finally:
        for container in made.values():
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)

    assert made["dead"].name in removed
    assert {which for which, container in made.items() if container.id not in left} == {"dead"}


def test_a_container_of_who_cannot_be_seen_goes_when_it_has_ended_and_outlived_every_run(
    image: Callable[[str], str], client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a CI job's container is killed, nobody of the next job may know that it is dead."""
    monkeypatch.setattr(kernel_container, "LIFETIME_S", 0)
    label = {OWNER_LABEL: "1:1:1:another"}
    made = []
    try:
        for seconds in (600, 0):
            made.append(
                client.containers.create(
                    image(NEWEST), entrypoint=["/usr/bin/python3", "-c"],
                    command=[f"import time; time.sleep({seconds})"],
                    labels=label, network_mode="none", init=False,
                )
            )  # fmt: skip
            made[-1].start()
        made[-1].wait(timeout=30)
        time.sleep(1)
        removed = kernel_container.remove_orphans()
    finally:
        for container in made:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)

    assert made[1].name in removed
    assert made[0].name not in removed


def test_an_image_that_is_not_there_is_named(
    client: docker.DockerClient, initrd: Path, run_dir: Path
) -> None:
    with (
        pytest.raises(HarnessError, match="no kernel container 'kernel-test:none'") as caught,
        vm.booted(
            Machine(), vmlinuz=Path("/x"), initrd=initrd, where=Docker(image="kernel-test:none"),
            run_dir=run_dir,
        ),
    ):  # fmt: skip
        pytest.fail("it booted")

    assert "inv kernels images" in caught.value.hint


def test_a_qemu_that_refuses_says_why(
    image: Callable[[str], str], initrd: Path, run_dir: Path
) -> None:
    """The reason is in the container's log, which goes with the container."""
    (run_dir / "initrd").unlink()

    with (
        pytest.raises(GuestLostError, match=r"status 1: .*initrd"),
        vm.booted(
            Machine(), vmlinuz=Path("/x"), initrd=initrd, where=Docker(image=image(NEWEST)),
            run_dir=run_dir,
        ),
    ):  # fmt: skip
        pytest.fail("it booted")


def test_a_session_on_this_machine_takes_a_directory_and_gives_signals(
    boot_files: Files, root: BaseRoot, run_dir: Path, tmp_path: Path
) -> None:
    """`inv run`: the same session, without an engine; emulated where KVM boots nothing."""
    notes: list[str] = []
    (tmp_path / "file").write_text("carried")
    where = Local(prefix=root.qemu_prefix, environment=root.environment, root=root.directory)

    outcome = session.run_command(
        Command(argv=("sh", "-c", "cat file >&2; cat; kill -KILL $$"), directory="/src", stdin=b"in"),
        boot_files, where=where, run_dir=run_dir, source=tmp_path,
        accelerators=(Accelerator.KVM, Accelerator.TCG), on_note=notes.append,
    )  # fmt: skip

    assert (outcome.status, outcome.stdout, outcome.stderr) == (137, b"in", b"carried")
    assert not outcome.timed_out
    assert notes[-1].startswith(f"{outcome.accelerator}: the guest answered")
    assert (outcome.accelerator is Accelerator.KVM) == (len(notes) == 1)


def test_a_session_whose_emulated_boot_is_lost_boots_once_more(
    boot_files: Files, root: BaseRoot, run_dir: Path, tmp_path: Path
) -> None:
    """It may be the emulator's doing, and somebody's CI job would fail for it."""
    notes: list[str] = []
    first = f'mkdir {tmp_path}/tried 2>/dev/null && exit 9; exec "$@"'
    where = Local(
        prefix=("sh", "-c", first, "qemu", *root.qemu_prefix), environment=root.environment
    )

    outcome = session.run_command(
        Command(argv=("echo", "there")), boot_files, where=where, run_dir=run_dir,
        on_note=notes.append,
    )  # fmt: skip

    assert outcome.stdout == b"there\n"
    assert notes[0] == "lost at boot, tried once more: QEMU ended with status 9"
    assert len(notes) == 2


def test_a_session_that_never_boots_says_so_after_two_tries(
    boot_files: Files, run_dir: Path, tmp_path: Path
) -> None:
    where = Local(prefix=("sh", "-c", f"echo tried >>{tmp_path}/tries; exit 9"))

    with pytest.raises(GuestLostError, match="QEMU ended with status 9"):
        session.run_command(Command(argv=("true",)), boot_files, where=where, run_dir=run_dir)

    assert (tmp_path / "tries").read_text() == "tried\n" * 2


def test_a_session_whose_place_is_missing_is_not_tried_again(
    client: docker.DockerClient, boot_files: Files, run_dir: Path
) -> None:
    notes: list[str] = []

    with pytest.raises(HarnessError, match="no kernel container 'kernel-test:none'"):
        session.run_command(
            Command(argv=("true",)), boot_files, where=Docker(image="kernel-test:none"),
            run_dir=run_dir, on_note=notes.append,
        )  # fmt: skip

    assert notes == []


@dataclass
class _Door:
    """Passes connections on to the engine until it closes, with all that went through it."""

    listener: socket.socket
    pairs: list[socket.socket] = field(default_factory=list)

    def serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(str(ENGINE_SOCKET))
            self.pairs += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()

    def close(self) -> None:
        for end in (self.listener, *self.pairs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _door(path: Path) -> Iterator[_Door]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        door = _Door(listener)
        thread = threading.Thread(target=door.serve, daemon=True)
        thread.start()
        try:
            yield door
        finally:
            door.close()
            thread.join(10)
            for end in door.pairs:
                end.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
