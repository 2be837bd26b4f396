# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster that answers cells; of this project only this module knows Dask.

A lost worker's cell is given to another by the scheduler; after as many losses as that allows
(distributed.scheduler.allowed-failures, 3) the cell is `unknown` with the reason. A task that
nobody wants any more, because its client cancelled it or is gone, ends its guest.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, ParamSpec, TypeVar

import dask
import distributed
from distributed.cfexecutor import ClientExecutor
from distributed.scheduler import KilledWorker

from harness import cell, remote
from harness.cell import Prepared
from harness.errors import HarnessError, UsageError
from harness.progress import Event, Listener, Note, Phase
from harness.qemu import Arch
from harness.remote import Brought, Errand, Luggage
from harness.results import Cell
from harness.schedule import Crew
from harness.sitting import Bench

_P = ParamSpec("_P")
_T = TypeVar("_T")
_CONNECT_S = 10.0
_FIRST_WORKER_S = 15.0  # a cluster that is just being started
_NO_WORKER_S = 120.0  # then nobody comes back
_LOOK_EVERY_S = 0.5
_LUGGAGE_WARNING = "512MiB"  # Dask warns of 10 MiB; what a guest starts from is as much


class Cluster:
    """A connection to a scheduler whose workers have the same harness."""

    def __init__(self, client: distributed.Client, address: str) -> None:
        self._client = client
        self._address = address
        self._gone = ""  # why its futures are cancelled, where that was not a person
        self._ended = threading.Event()

    def crew(self, benches: Mapping[Arch, Bench]) -> Crew[Brought | Cell]:
        """Cells of a run, asked of the workers. benches: by the kernels' architecture."""
        run = uuid.uuid4().hex[:8]
        topic = f"kernel-matrix-{run}"
        executor = _Executor(self._client)
        emit = next(bench.emit for bench in benches.values())
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": _LUGGAGE_WARNING}):
            # Not scattered: what a task made is made again when the worker that has it is lost.
            luggage: dict[Arch, Any] = {  # Dask gives the task what its future holds
                arch: self._client.submit(
                    _carried, remote.pack(bench), key=f"luggage-{arch}-{run}", pure=False
                )
                for arch, bench in benches.items()
            }
        self._client.subscribe_topic(topic, lambda event: _heard(event[1], emit))
        threading.Thread(
            target=self._watch, args=(executor,), name="cluster-watch", daemon=True
        ).start()

        def ask(item: Prepared) -> Future[Brought | Cell]:
            arch = Arch(item.facts.arch)
            files = cell.ready(benches[arch], item)
            if isinstance(files, Cell):
                answered: Future[Brought | Cell] = Future()
                answered.set_result(files)
                return answered
            wanted = remote.errand(benches[arch], item, files)
            # Keys of one group: the scheduler then keeps those that no worker has room for, and a
            # worker that dies takes no cell down with it that it had not begun.
            return executor.ask((f"cell-{run}", item.name), _work, luggage[arch], wanted, topic)

        def bring(item: Prepared, future: Future[Brought | Cell]) -> Cell:
            try:
                failure = future.exception()
                if failure is not None:
                    raise _told(failure)
                brought = future.result()
                if isinstance(brought, Cell):
                    return brought
                report_dir = benches[Arch(item.facts.arch)].request.report_dir
                return remote.kept(brought, item.facts, report_dir)
            except CancelledError:
                reason = self._gone or f"the scheduler at '{self._address}' went away"
                return remote.lost(item.facts, HarnessError(reason, hint="start it again"))
            except HarnessError as error:
                return remote.lost(item.facts, error)

        def cancel() -> None:
            emit(Note(text="interrupted: cancelling what the cluster has not finished"))

        return Crew(executor=executor, ask=ask, bring=bring, cancel=cancel)

    def close(self) -> None:
        """End the connection; what is not finished is cancelled."""
        self._ended.set()
        with contextlib.suppress(TimeoutError):
            self._client.close(timeout=_CONNECT_S)

    def _watch(self, executor: _Executor) -> None:
        """Tasks wait for ever where there is no worker: give up when nobody comes back."""
        alone_s = 0.0
        while not self._ended.wait(_LOOK_EVERY_S):
            alone_s = 0.0 if _workers(self._client) else alone_s + _LOOK_EVERY_S
            if alone_s >= _NO_WORKER_S:
                self._gone = f"no worker is left at '{self._address}'"
                executor.shutdown(wait=False)
                return


@contextlib.contextmanager
def joined(address: str) -> Iterator[Cluster]:
    """A connection to the scheduler at "host:port".

    Raises HarnessError when none answers there, it has no worker, or one has another harness.
    """
    _silence()
    _knock(address)
    try:
        client = distributed.Client(
            f"tcp://{address}", timeout=_CONNECT_S, set_as_default=False, name="kernel-matrix"
        )
    except (OSError, TimeoutError, ValueError) as error:
        raise HarnessError(f"no Dask scheduler answers at '{address}': {error}") from error
    cluster = Cluster(client, address)
    try:
        _refuse_others(client, address)
        yield cluster
    finally:
        cluster.close()


class _Executor(Executor):
    """Dask's, whose shutdown does not know `cancel_futures`."""

    def __init__(self, client: distributed.Client) -> None:
        self._inner = ClientExecutor(client, pure=False)

    # typing.override is of Python 3.12.
    def submit(  # type: ignore[explicit-override]
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        future: Future[_T] = self._inner.submit(fn, *args, **kwargs)
        return future

    def ask(
        self, key: tuple[str, str], fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """`submit` under a name."""
        future: Future[_T] = self._inner.submit(fn, *args, **kwargs, key=key)
        return future

    def shutdown(  # type: ignore[explicit-override]
        self, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        self._inner.shutdown(wait=wait and not cancel_futures)


def _silence() -> None:
    """We say ourselves what is lost; Dask's own loggers have levels of their own."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _knock(address: str) -> None:
    """Dask tries again until its time is over; where nobody listens, that is known at once."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise HarnessError(
            f"no Dask scheduler answers at '{address}': {error.strerror or error}",
            hint="dask scheduler starts one, dask worker tcp://HOST:PORT its workers",
        ) from error


def _refuse_others(client: distributed.Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
    except TimeoutError as error:
        raise HarnessError(
            f"the Dask scheduler at '{address}' has no worker",
            hint=f"on each machine: dask worker tcp://{address}",
        ) from error
    said: dict[str, object] = client.run(remote.identity, on_error="return")
    for worker, found in said.items():
        if found != remote.identity():
            raise UsageError(
                f"worker '{worker}' has harness {_shown(found)}, this is {remote.identity()}",
                hint="install the same version on every machine",
            )


def _shown(found: object) -> str:
    return found if isinstance(found, str) else f"none that answers ({found})"


def _workers(client: distributed.Client) -> int:
    return len(client.scheduler_info().get("workers", {}))


def _told(failure: BaseException) -> HarnessError:
    """What became of a task, in words for a report."""
    if isinstance(failure, KilledWorker):
        return HarnessError(
            f"the worker that answered it was lost {failure.allowed_failures + 1} times, the last at "
            f"{failure.last_worker.address}",
            hint="look at the workers' logs, and whether their machines have the memory",
        )
    return HarnessError(f"a worker failed: {type(failure).__name__}: {failure}")


def _heard(message: object, emit: Listener) -> None:
    match message:
        case [str(kernel), str(phase), str(detail)] | (str(kernel), str(phase), str(detail)):
            emit(Phase(kernel=kernel, phase=phase, detail=detail))


def _carried(luggage: Luggage) -> Luggage:
    """A task whose result is the luggage: workers give it to each other."""
    return luggage


def _work(luggage: Luggage, wanted: Errand, topic: str) -> Brought | Cell:
    """A task on a worker: one cell."""
    worker = distributed.get_worker()
    key = worker.get_current_task()
    given_up, ended = threading.Event(), threading.Event()

    def emit(event: Event) -> None:
        if isinstance(event, Phase):
            detail = f"{event.detail} ({socket.gethostname()})".lstrip()
            worker.log_event(topic, [event.kernel, event.phase, detail])

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            task = worker.state.tasks.get(key)
            if task is None or task.state not in ("executing", "long-running"):
                given_up.set()
                return

    watching = threading.Thread(target=watch, name="cell-watch", daemon=True)
    watching.start()
    try:
        return remote.answer(
            luggage, wanted, given_up, emit, guests=int(worker.state.nthreads)
        )  # fmt: skip
    finally:
        ended.set()
        watching.join()
