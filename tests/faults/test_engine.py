# SPDX-License-Identifier: Apache-2.0
"""A Docker engine that dies, stops, freezes or loses things under a run: an engine of our own."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import docker
import pytest

from harness import baseroot, images, job, kernel_container
from harness.cache import Cache
from harness.checks import Check, Context
from harness.progress import Event, Phase
from harness.results import Run, Verdict
from harness.supply import KernelFiles
from tests.faults.engines import Engine, own_engine
from tests.vm.matrix import AFTERWARDS, PATIENCE_S, Matrix, check_that, leftovers, until, verdicts

_BEFORE, _HIT, _LATER = "6.1-before", "6.1-hit", "6.1-later"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with own_engine() as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", started.host)
        yield started


@pytest.fixture(scope="module")
def kernels(
    engine: Engine, cache: Cache, kernel: Callable[[str], KernelFiles]
) -> tuple[KernelFiles, ...]:
    """Three cells of one kernel, their containers built: a run asks them one after the other."""
    made = tuple(replace(kernel("6.1-oldest"), name=name) for name in (_BEFORE, _HIT, _LATER))
    root = baseroot.obtain(cache, print)
    for files in made:
        images.ensure_image(files, root, cache, print)
    return made


@pytest.fixture
def asked(
    matrix: Callable[..., Matrix], kernels: tuple[KernelFiles, ...], engine: Engine
) -> Iterator[Callable[..., Matrix]]:
    """Runs with one guest at a time; afterwards the engine has no container, whatever happened."""

    def make(*checks: Check, only: int = 3) -> Matrix:
        made = matrix(*kernels[:only], backend="docker", checks=(*checks, AFTERWARDS))
        made.jobs = 1
        return made

    yield make
    if not engine.answers():
        engine.start()
        kernel_container.remove_left()
    assert engine.containers() == []


def _in(name: str, does: Callable[[Context], object]) -> Check:
    """A check that does something in the first guest of that cell, and then waits in it."""
    done: list[str] = []

    def once(context: Context) -> None:
        if context.kernel.name == name and not done:
            done.append(name)
            does(context)
            context.guest.run(["/bin/sleep", "60"], timeout_s=60)

    return check_that("deed", once)


def _when_missed(does: Callable[[], object]) -> Callable[[Event], None]:
    """Do it as soon as a guest waits for the engine."""

    def listen(event: Event) -> None:
        if isinstance(event, Phase) and "waiting for the Docker engine" in event.detail:
            does()

    return listen


def _attempts(run: Run) -> dict[str, tuple[str, int]]:
    return {cell.kernel.name: (str(cell.verdict), cell.attempts) for cell in run.cells}


def test_an_engine_killed_in_mid_run_and_started_again_costs_one_try_of_one_cell(
    asked: Callable[..., Matrix], engine: Engine, cache: Cache
) -> None:
    """Its containers run on without it until it is back: then they have to go."""
    made = asked(_in(_HIT, lambda context: engine.end(signal.SIGKILL)))

    def start() -> None:
        time.sleep(1.1)  # a wait of a second or less is not told of, and it may be back that soon
        engine.start()

    made.on_event = _when_missed(start)

    run = made.run()

    assert _attempts(run) == {_BEFORE: ("pass", 1), _HIT: ("pass", 2), _LATER: ("pass", 1)}
    hit = run.cells[1]
    assert hit.earlier == ("guest-lost: the Docker engine went away while the guest ran",)
    assert hit.phases_s["wait for the engine"] > 1
    assert (made.report_dir / "kernels" / _HIT / "console.log").stat().st_size > 0
    assert leftovers(cache) == []
    assert engine.containers() == []


def test_an_engine_that_stays_away_ends_a_run_within_a_stated_time(
    asked: Callable[..., Matrix], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wait for all cells, not one for each; what was finished before stays."""
    monkeypatch.setattr(kernel_container, "BACK_WITHIN_S", 3.0)
    stopped: list[float] = []

    def stop(context: Context) -> None:
        stopped.append(time.monotonic())
        engine.end(signal.SIGTERM)

    run = asked(_in(_HIT, stop)).run()

    assert time.monotonic() - stopped[0] < 3 + PATIENCE_S
    assert _attempts(run) == {_BEFORE: ("pass", 1), _HIT: ("unknown", 2), _LATER: ("unknown", 2)}
    assert run.cells[1].earlier[0].startswith("guest-lost: ")
    for cell in run.cells[1:]:
        assert verdicts(cell.checks)["boot"] == ("unknown", "infra")
        assert cell.deciding is not None
        assert "was not back within 3 s" in cell.deciding.summary
        assert "start it again" in cell.deciding.remedy
    assert job.status(run, strict=False) == 3


# The SDK closes no connection of a client that it could not make: whoever collects it is told.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_an_engine_that_freezes_costs_no_verdict(
    asked: Callable[..., Matrix], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest answers through its own channel, and the next waits."""
    monkeypatch.setattr(kernel_container, "_CALL_TIMEOUT_S", 2)
    frozen: list[str] = []

    def freeze(context: Context) -> None:
        if not frozen:
            frozen.append(context.kernel.name)
            engine.freeze()

    made = asked(check_that("deed", freeze), only=2)
    made.on_event = _when_missed(engine.thaw)

    run = made.run()

    assert frozen == [_BEFORE]
    assert _attempts(run) == {_BEFORE: ("pass", 1), _HIT: ("pass", 1)}
    assert until(lambda: engine.containers() == [])
    gc.collect()  # here, not in the test after this


def test_what_the_engine_loses_is_made_again(
    asked: Callable[..., Matrix], engine: Engine, kernels: tuple[KernelFiles, ...]
) -> None:
    """A container removed from outside, and an image deleted between plan and boot."""
    with contextlib.closing(docker.DockerClient(base_url=engine.host)) as client:

        def remove(context: Context) -> None:
            (container,) = client.containers.list()
            container.remove(force=True)

        def delete(event: Event) -> None:
            booting = isinstance(event, Phase) and (event.kernel, event.phase) == (_HIT, "boot")
            if booting and not deleted:
                deleted.append(_HIT)
                client.images.remove(f"{images.REPOSITORY}:{_HIT}")

        deleted: list[str] = []
        made = asked(_in(_BEFORE, remove))
        made.on_event = delete
        run = made.run()

    assert _attempts(run) == {_BEFORE: ("pass", 2), _HIT: ("pass", 2), _LATER: ("pass", 1)}
    removed, without_image = run.cells[0], run.cells[1]
    assert removed.earlier == ("guest-lost: the container was removed from outside",)
    (why,) = without_image.earlier
    assert why.startswith("infra: ")
    assert why.endswith(f"there is no kernel container '{images.REPOSITORY}:{_HIT}'")
    assert all(cell.verdict is Verdict.PASS for cell in run.cells)


def test_an_engine_killed_in_a_build_costs_one_try_of_one_cell(
    asked: Callable[..., Matrix], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-stream: the SDK then fails with errors that are not its own.

    The build's container stays in the engine until the next start.
    """
    for name in ("_DOCKERFILE", "_WARM"):
        slow = getattr(images, name).replace("import sys;", "import sys, time; time.sleep(5);")
        monkeypatch.setattr(images, name, slow)
    killed: list[str] = []

    def kill_in_a_build() -> None:
        with contextlib.closing(docker.DockerClient(base_url=engine.host)) as client:
            # The one that sleeps: containers of other steps never run.
            if until(lambda: client.containers.list(ignore_removed=True)):
                killed.extend(engine.containers())
                engine.end(signal.SIGKILL)

    def listen(event: Event) -> None:
        if isinstance(event, Phase) and "building the kernel container" in event.detail:
            if not builder.ident:
                builder.start()
        elif isinstance(event, Phase) and "waiting for the Docker engine" in event.detail:
            engine.start()

    builder = threading.Thread(target=kill_in_a_build)
    made = asked(only=2)
    made.on_event = listen

    run = made.run()

    builder.join()
    assert _attempts(run) == {_BEFORE: ("pass", 2), _HIT: ("pass", 1)}
    (why,) = run.cells[0].earlier
    assert why.startswith("infra: the Docker engine failed at 'kernel-test:6.1-before': ")
    assert engine.containers() == killed != []
    images.remove_half_made()  # too young: somebody may still build
    assert engine.containers() == killed
    monkeypatch.setattr(images, "_YOUNG_S", 0.0)
    images.remove_half_made()
