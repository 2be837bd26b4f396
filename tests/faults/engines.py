# SPDX-License-Identifier: Apache-2.0
"""A Docker engine of the tests' own, which they may kill, stop and freeze."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker

from harness import process
from tests.vm.matrix import until

_SIZE = "3g"  # of its images: in memory, so that they go with it
_START_S = 120.0  # three seconds on an idle machine


@dataclass(kw_only=True)
class Engine:
    """dockerd as a child of this process; its containerd lives on when it dies, as on any machine."""

    directory: Path
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    child: process.Child | None = None

    @property
    def host(self) -> str:
        """What DOCKER_HOST has to say."""
        return f"unix://{self.directory / 'docker.sock'}"

    def start(self) -> None:
        """Return when it answers."""
        if self.child is not None:
            self.child.wait(_START_S)
            self.running.close()
        (self.directory / "docker.pid").unlink(missing_ok=True)  # of one that was killed
        log = self.running.enter_context((self.directory / "dockerd.log").open("ab"))
        self.child = self.running.enter_context(
            process.held(
                ["dockerd", f"--config-file={self.directory / 'docker.json'}"], stderr=log
            )
        )  # fmt: skip
        assert until(self.answers, timeout_s=_START_S), self.log()

    def answers(self) -> bool:
        """Asked without the SDK, which leaks a socket when nobody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(5)
            try:
                stream.connect(str(self.directory / "docker.sock"))
                stream.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b"200 OK" in stream.recv(100)
            except OSError:
                return False

    def end(self, number: signal.Signals) -> None:
        """SIGKILL: it dies, its containers run on. SIGTERM: it ends its containers, then itself.

        It may still be there on return: a harness has to see it go.
        """
        assert self.child is not None
        self.child.send_signal(number)

    def freeze(self) -> None:
        """It listens and never answers."""
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGCONT)

    def containers(self) -> list[str]:
        """All that it knows, whatever state they are in."""
        with contextlib.closing(docker.DockerClient(base_url=self.host)) as client:
            return [str(one.id) for one in client.containers.list(all=True)]

    def log(self) -> str:
        return (self.directory / "dockerd.log").read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def own_engine() -> Iterator[Engine]:
    """An engine that is nobody else's, with no image; it answers when the block begins."""
    with tempfile.TemporaryDirectory(prefix="e-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        _mounted(directory, stack)
        address = directory / "containerd.sock"
        (directory / "containerd.toml").write_text(
            f'version = 2\nroot = "{directory}/containerd"\nstate = "{directory}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{address}"\n'
        )
        # Kernel containers have no network: it needs no bridge and no packet filter.
        (directory / "docker.json").write_text(
            json.dumps(
                {
                    "hosts": [f"unix://{directory / 'docker.sock'}"], "bridge": "none",
                    "iptables": False, "ip6tables": False, "containerd": str(address),
                    "data-root": str(directory / "data"), "exec-root": str(directory / "exec"),
                    "pidfile": str(directory / "docker.pid"),
                }
            )
        )  # fmt: skip
        stack.enter_context(process.held(["containerd", "--config", directory / "containerd.toml"]))
        assert until(address.exists, timeout_s=_START_S)
        engine = Engine(directory=directory)
        stack.callback(_ended, engine)
        engine.start()
        yield engine


def _mounted(directory: Path, stack: contextlib.ExitStack) -> None:
    process.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", directory], timeout_s=10)
    # dockerd mounts its data once more, over itself.
    stack.callback(process.run, ["umount", "--recursive", directory], timeout_s=60)


def _ended(engine: Engine) -> None:
    """Its containers go with it; killed, it would leave them."""
    if engine.child is not None and engine.child.poll() is None:
        engine.thaw()
        engine.child.send_signal(signal.SIGTERM)
        engine.child.wait(_START_S)
    engine.running.close()
