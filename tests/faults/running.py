# SPDX-License-Identifier: Apache-2.0
"""`kernel-matrix` as somebody's command line has it, on a machine that the test has prepared."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import paths, process
from harness.cache import Cache
from tests.vm.matrix import until

_ROOT = paths.default_manifest().parents[1]
KERNEL = "6.1-oldest"
BOOTS, LOADS = (f"{KERNEL:<16} {phase}\n" for phase in ("boot", "load"))  # lines of its progress
RUN_S = 240.0  # a run of one boot takes ten seconds on an idle machine
NOWHERE = "http://127.0.0.1:9"  # refuses every connection
_MATRIX = ("--kernels", KERNEL, "--checks", "load", "--backend", "local", "--boot-timeout", "300")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """`kernel-matrix`, as somebody's command line had it."""

    status: int
    out: str
    err: str
    took_s: float


@dataclass(kw_only=True)
class Running:
    """It runs."""

    child: process.Child
    directory: Path
    started: float = field(default_factory=time.monotonic)

    def until_it_says(self, text: str) -> None:
        """Or ends."""
        until(lambda: text in self.err() or self.child.poll() is not None, timeout_s=RUN_S)
        assert text in self.err()

    def err(self) -> str:
        return (self.directory / "err").read_text(errors="replace")

    def end(self) -> Ended:
        status = self.child.wait(RUN_S)
        out = (self.directory / "out").read_text(errors="replace")
        took_s = time.monotonic() - self.started
        assert "Traceback" not in self.err(), self.err()
        return Ended(status=status, out=out, err=self.err(), took_s=took_s)


@contextlib.contextmanager
def started(
    cache: Cache, directory: Path, *words: object, before: tuple[str, ...] = (), **env: str
) -> Iterator[Running]:
    """before: what goes in front of the command: unshare, setpriv, prlimit."""
    directory.mkdir(parents=True, exist_ok=True)
    argv = [*before, sys.executable, "-m", "harness", "kernel-matrix", *_MATRIX, *words]
    with (
        (directory / "out").open("wb") as out,
        (directory / "err").open("wb") as err,
        process.held(
            [str(word) for word in argv], stdout=out, stderr=err,
            env={"KERNEL_MATRIX_CACHE": str(cache.root), "PYTHONPATH": str(_ROOT), **env},
        ) as child,
    ):  # fmt: skip
        yield Running(child=child, directory=directory)


def ended(
    cache: Cache, directory: Path, *words: object, before: tuple[str, ...] = (), **env: str
) -> Ended:
    """From its start to its end."""
    with started(cache, directory, *words, before=before, **env) as run:
        return run.end()


def errors(done: Ended) -> list[str]:
    """Every error line, wherever it went."""
    return [line for line in (done.err + done.out).splitlines() if line.startswith("error: ")]


def mounted_over(there: Path, name: str, *more: str) -> tuple[str, ...]:
    """A command's front: a mount that nobody else sees, and that goes with the command."""
    script = f'mount --bind "$0" {name} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(there), *more)


def truncate(path: Path) -> None:
    """Half of it is lost; a hard link elsewhere keeps the whole."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
