# SPDX-License-Identifier: Apache-2.0
"""A run of the pipeline as the tests here make it, and the traces that runs may not leave."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from harness import kernel_container, paths, pipeline
from harness.build import Built
from harness.cache import Cache
from harness.checks import Check, Context
from harness.checks.splat import CHECK as SPLAT
from harness.kernel_container import OWNER_LABEL
from harness.progress import Event
from harness.qemu import Machine
from harness.results import CheckResult, Run, Verdict
from harness.sitting import Request
from harness.supply import KernelFiles

PATIENCE_S = 30.0  # for what takes a second on an idle machine


@dataclass(kw_only=True)
class Matrix:
    """A run that has not begun yet."""

    cache: Cache
    kernels: tuple[KernelFiles, ...]
    subject: Built
    backend: str
    checks: tuple[Check, ...]
    append: tuple[str, ...]
    boot_timeout_s: float
    report_dir: Path
    jobs: int = 2
    machine: Machine = field(default_factory=Machine)
    on_event: Callable[[Event], object] = lambda event: None  # called in the cell's thread
    events: list[tuple[float, Event]] = field(default_factory=list)  # monotonic time

    def run(self) -> Run:
        request = Request(
            subject=lambda *_: self.subject,
            kernels=(),
            directories=self.kernels,
            lock=paths.catalogue_dir() / "kernels.lock",
            backend=self.backend,
            jobs=self.jobs,
            checks=self.checks,
            report_dir=self.report_dir,
            append=self.append,
            machine=self.machine,
            boot_timeout_s=self.boot_timeout_s,
        )

        def listen(event: Event) -> None:
            self.events.append((time.monotonic(), event))
            self.on_event(event)

        return pipeline.run(request, self.cache, listen)


def verdicts(checks: tuple[CheckResult, ...]) -> dict[str, tuple[str, str]]:
    """What each check said, and why."""
    return {check.check: (str(check.verdict), str(check.cause)) for check in checks}


def check_that(name: str, does: Callable[[Context], object]) -> Check:
    """A check of a test's own: it passes when `does` returns; what it asserts, the test asserts."""

    def ask(context: Context) -> CheckResult:
        try:
            does(context)
        except AssertionError as error:  # the harness would make a verdict of it
            pytest.fail(str(error))
        return CheckResult(check=name, verdict=Verdict.PASS)

    return Check(name=name, question="Does a test's own deed return?", ask=ask, estimate_s=1.0)


AFTERWARDS = SPLAT  # a check that has to wait for the test's own


def qemus(cache: Cache, pid: int) -> list[int]:
    """Processes of guests on this machine that the harness with that pid started."""
    ours = f"{cache.root / 'run'}/{pid}-".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (pid, os.getpid()):
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            # Those that become a QEMU, or wait for it and end with it, have its words too
            # (harness.confine).
            program = words.partition(b"\0")[0].rpartition(b"/")[2]
            if (
                ours in words
                and b"-nodefaults" in words
                and program.startswith((b"ld-linux", b"qemu-system-"))
            ):
                found.append(int(entry.name))
    return found


def run_directories(cache: Cache, pid: int) -> list[Path]:
    """Directories of guests that the harness with that pid made."""
    return sorted((cache.root / "run").glob(f"{pid}-*"))


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient | None]:
    """The engine, if one answers."""
    client = kernel_container.engine()
    if client is None:
        yield None
        return
    with contextlib.closing(client):
        yield client


def need_engine() -> None:
    """The test is skipped where no engine answers."""
    with engine() as client:
        if client is None:
            pytest.skip("no Docker engine answers")


def containers(pid: int) -> list[str]:
    """Containers of guests that the harness with that pid started."""
    with engine() as client:
        if client is None:
            return []
        found = client.containers.list(
            all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
        )
        return [
            str(one.id) for one in found if one.labels.get(OWNER_LABEL, "").startswith(f"{pid}:")
        ]


def leftovers(cache: Cache, pid: int = 0) -> list[str]:
    """Traces of the guests of a harness: of this process, or of that pid."""
    whose = pid or os.getpid()
    return [
        *(f"process {one}" for one in qemus(cache, whose)),
        *(str(path) for path in run_directories(cache, whose)),
        *(f"container {one}" for one in containers(whose)),
    ]


def until(holds: Callable[[], object], *, timeout_s: float = PATIENCE_S) -> bool:
    """Wait for something outside this process that tells nobody when it happens."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
