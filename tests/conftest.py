# SPDX-License-Identifier: Apache-2.0
"""What the tests of several directories share: the machine's cache, its kernels, the machine.

`inv test` runs them in two processes, beside each other (pytest-xdist). Most tests with guests wait
more than they compute. A guest that is timed has the machine to itself all the same: `harness.slot`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator

import pytest
from xdist.scheduler import LoadScopeScheduling

from harness import catalogue, paths, slot, supply
from harness.cache import Cache
from harness.errors import UnavailableError
from harness.supply import KernelFiles

OLDEST, NEWEST = "5.10-oldest", "7.3-newest"

# Tests that go to whichever process is free; of the others, a module's stay together, since they
# share what its fixtures made: a booted guest, a run.
_SINGLE = re.compile(r"tests/(vm/test_|mutants/test_caught)")
_VARIANT = re.compile(rf"\[(?:.*-)?(local|docker|{OLDEST}|{NEWEST})(?:-.*)?\]$")  # what they share
# Faults of guests, and of what they are run by: of each, one after another.
_FAULTS = re.compile(r"tests/faults/(?:test_(answers|channel|guest|isolation|qemu)\.py)?")
# What takes longest begins, so that no process is left alone with it; what fills two cores goes
# beside what waits. Then other tests with guests, the undisturbed ones, those without guests.
_ORDER = tuple(
    re.compile(f"tests/{words}")
    for words in (
        "faults/", r"checks/test_on_kernels.*\[local", "arm64/", "vm/", "thirdparty/",
        "checks/test_on_kernels", "mutants/test_caught",
    )
)  # fmt: skip
_UNDISTURBED = re.compile(  # what they leave to be found, any run that begins would find
    r"tests/(vm/test_ending\.py::test_a_harness_killed_outright"
    r"|container/test_place\.py::test_only_containers_of_the_dead)"
)
# Everyday tests that hostile input, interruption, concurrency, another architecture and bad luck do
# no harm: `inv test -m faults` runs them too, beside the fault tests.
_SURVIVES = re.compile(
    r"tests/((hostile|arm64)/|core/test_(admission|flaky|journal|lost|quarantine|remote|slot)\.py"
    r"|vm/test_(ending|quarantine)\.py|container/test_place\.py|gate/test_merge\.py)"
)
_HOLDS_NO_SITTING = ("tests/objcheck/", "tests/container/")  # guests booted without a pipeline


class _Together(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no type hints
    """Which tests one process gets together."""

    def _split_scope(self, nodeid: str) -> str:
        if _UNDISTURBED.match(nodeid):
            return "undisturbed"
        if _SINGLE.match(nodeid):
            return nodeid
        if fault := _FAULTS.match(nodeid):
            return f"faults {fault[1] is not None}"
        variant = _VARIANT.search(nodeid)
        return nodeid.partition("::")[0] + (variant[1] if variant else "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return _Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks; and an order where tests run beside each other: elsewhere it is that of the files."""
    for item in items:
        if _SURVIVES.match(item.nodeid):
            item.add_marker(pytest.mark.survives)
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if _UNDISTURBED.match(item.nodeid):  # when it need not wait long for the others
        return len(_ORDER) + 1
    rest = len(_ORDER) if item.get_closest_marker("vm") else len(_ORDER) + 2
    places = (i for i, words in enumerate(_ORDER) if words.match(item.nodeid))
    return next(places, rest)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """What the test may not meet of the other processes' waits, or is waited for."""
    with contextlib.ExitStack() as held:
        if hasattr(item.config, "workerinput") and item.config.cache is not None:
            beside = item.config.cache.mkdir("beside")
            undisturbed = _UNDISTURBED.match(item.nodeid) is not None
            held.enter_context(slot.hold_in(beside, alone=undisturbed))
            # A test that computes would spoil the times of a guest that is timed. Not one whose
            # sittings hold the machine's slot themselves: it would wait for itself.
            vm = bool(item.get_closest_marker("vm") or item.get_closest_marker("faults"))
            if not vm or item.nodeid.startswith(_HOLDS_NO_SITTING):
                held.enter_context(slot.hold(Cache.default(), alone=False))
            if not vm:  # what it holds itself is not the machine's
                patched = held.enter_context(pytest.MonkeyPatch.context())
                patched.setenv(slot.SETTING, str(item.config.cache.mkdir("slot")))
        return (yield)


@pytest.fixture(scope="session")
def cache() -> Cache:
    """The machine's own: kernels and the base root are too large to fetch for a test."""
    return Cache.default()


@pytest.fixture(scope="session")
def kernel(cache: Cache) -> Callable[[str], KernelFiles]:
    """A kernel of the catalogue, as locked."""
    directory = paths.catalogue_dir()
    known = {kernel.name: kernel for kernel in catalogue.load(directory).kernels}
    lock = supply.read_lock(directory / "kernels.lock")

    def obtain(name: str) -> KernelFiles:
        try:
            return supply.obtain(known[name], cache=cache, lock=lock)
        except UnavailableError as error:
            pytest.skip(f"{name} cannot be had here: {error.message}")

    return obtain


@pytest.fixture(scope="session")
def oldest(kernel: Callable[[str], KernelFiles]) -> KernelFiles:
    return kernel(OLDEST)


@pytest.fixture(scope="session")
def newest(kernel: Callable[[str], KernelFiles]) -> KernelFiles:
    return kernel(NEWEST)
