# SPDX-License-Identifier: Apache-2.0
"""What loader and maps take is added up whole, whatever a kernel calls memory, and has a limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness import build, paths
from harness.build import Built
from harness.cache import Cache
from harness.checks import footprint, memory
from harness.objcheck import HeldMap
from harness.results import Cause, CheckResult, Verdict
from harness.supply import KernelFiles
from tests.checks.edited import edited
from tests.vm.matrix import Matrix, leftovers

MIB = 1 << 20
_BOOT_TIMEOUT_S = 300.0  # of a machine that does other things too


def _map(
    of: str, *, number: int = 1, value: int = 8, most: int = 1, memlock: int | None = 0,
    elements: int | None = None, prealloc: bool = True,
) -> HeldMap:  # fmt: skip
    return HeldMap(
        id=number, name=f"{of}_{number}", of=of, key_size=4, value_size=value, max_entries=most,
        prealloc=prealloc, memlock_bytes=memlock, elements=elements, more=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("held", "size"),
    [
        (_map("array", value=1 << 20, most=60), 60 * MIB),
        (_map("array", value=1 << 20, most=60, memlock=60 * MIB + 4096), 60 * MIB + 4096),
        (_map("array", value=5, most=10), 80),
        (_map("percpu_array", value=1000, most=2, memlock=4096), 8000),
        (_map("ringbuf", value=0, most=262144, memlock=0), 262144),
        (_map("ringbuf", value=0, most=262144, memlock=278528), 278528),
        (_map("hash", value=64, most=1000, elements=0), 1000 * (64 + 8 + 48)),
        (_map("percpu_hash", value=64, most=1000, elements=0), 1000 * (4 * 64 + 8 + 48)),
        (_map("hash", value=64, most=1000, elements=10, prealloc=False), 10 * (64 + 8 + 48)),
        (_map("hash", value=64, most=9, elements=0, prealloc=False, memlock=4096), 4096),
        (_map("array", value=8, most=2, memlock=None), 16),
    ],
    ids=["array", "said-more", "padded", "per-cpu-said-once", "ring-said-0", "ring-with-pages",
         "hash", "per-cpu-hash", "elements", "said-without-elements", "not-said"],
)  # fmt: skip
def test_a_map_takes_what_the_kernel_says_or_what_it_must_take(held: HeldMap, size: int) -> None:
    """From v5.11 to v6.3 kernels say 0 of a ring buffer and one copy of a per-CPU value."""
    assert footprint.map_bytes(held, cpus=4) == size


def test_only_maps_that_came_with_the_observer_are_its_own() -> None:
    """Others on the machine are not its fault."""
    mine, other = _map("array", number=9, most=100), _map("array", number=3, most=10**6)

    taken = memory.account([other], [other, mine], cpus=2, resident=MIB)

    assert [held.id for held, _ in taken.maps] == [9]
    assert taken.total == MIB + 800


def test_above_the_limit_fails_and_names_what_is_dear() -> None:
    taken = memory.account(
        [], [_map("array", number=1), _map("array", number=2, value=MIB, most=60)], 2, 2 * MIB
    )

    said = memory.judged(taken, 50, ())

    assert (said.verdict, said.cause) == (Verdict.FAIL, Cause.LIMIT_EXCEEDED)
    assert said.summary.startswith("62.0 MiB, the manifest allows 50: loader 2.0, maps: array_2 60")
    assert said.figures[0].value == pytest.approx(62, abs=0.01)
    assert said.figures[0].limit == 50


def test_an_observer_that_idled_is_unknown_unless_even_so_it_is_above_the_limit() -> None:
    """What its buffers take is seen only when they have been used."""
    small = memory.account([], [_map("array")], 2, MIB)
    large = memory.account([], [_map("array", value=MIB, most=60)], 2, MIB)

    assert memory.judged(small, 50, (), idle=True).verdict is Verdict.UNKNOWN
    assert memory.judged(small, 50, (), idle=False).verdict is Verdict.PASS
    assert memory.judged(large, 50, (), idle=True).verdict is Verdict.FAIL


@pytest.mark.parametrize(("entries", "verdict"), [(50, Verdict.PASS), (51, Verdict.FAIL)])
def test_the_limit_itself_is_allowed(entries: int, verdict: Verdict) -> None:
    taken = memory.account([], [_map("array", value=MIB, most=entries)], 2, 0)

    assert memory.judged(taken, 50, ()).verdict is verdict


def test_neither_maps_nor_loader_is_no_pass() -> None:
    """Nothing was measured."""
    assert memory.judged(memory.account([], [], 2, None), 50, ()).verdict is Verdict.SKIPPED


# ---- in guests ----


def _with(subject: Built, *, memory_mib: float, loader: bool) -> Built:
    """The observer under another limit, with or without its loader."""
    old = subject.subject
    limits = msgspec.structs.replace(old.manifest.limits, memory_mib=memory_mib)
    manifest = msgspec.structs.replace(old.manifest, limits=limits)
    changed = msgspec.structs.replace(
        old, manifest=manifest, loader=old.loader if loader else None
    )  # fmt: skip
    return replace(subject, subject=changed)


@pytest.fixture(scope="module")
def observer(cache: Cache) -> Built:
    return build.from_manifest(paths.default_manifest(), cache, lambda text: None)


@pytest.mark.vm
@pytest.mark.parametrize(
    ("limit_mib", "loader", "verdict"),
    [
        (2.4, True, Verdict.FAIL),
        (50.0, False, Verdict.PASS),
    ],
    ids=["loader-over", "object"],
)
def test_memory_on_oldest_and_newest(
    limit_mib: float, loader: bool, verdict: Verdict, observer: Built, cache: Cache,
    oldest: KernelFiles, newest: KernelFiles, tmp_path: Path,
) -> None:  # fmt: skip
    """Loader 2.3 MiB, ring 256 KiB, the rest pages. That ours passes whole, test_leak sees."""
    run = Matrix(
        cache=cache, kernels=(oldest, newest),
        subject=_with(observer, memory_mib=limit_mib, loader=loader), backend="local",
        checks=(memory.CHECK,), append=(), boot_timeout_s=_BOOT_TIMEOUT_S,
        report_dir=tmp_path / "report",
    ).run()  # fmt: skip

    for cell in run.cells:
        said: CheckResult = next(check for check in cell.checks if check.check == "memory")
        assert said.verdict is verdict, said.summary
        assert said.figures[0].value == pytest.approx(2.62 if loader else 0.3, rel=0.15)
        table = said.evidence[0].text
        assert "ringbuf events" in table
        assert ("the loader, resident" in table) is loader
    assert leftovers(cache) == []


@pytest.mark.vm
def test_an_observer_whose_events_do_not_come_is_not_called_small(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, tmp_path: Path
) -> None:
    """It watches another port than the questions go to: its ring and its buffers stay untouched."""
    deaf = {"dns_monitor.bpf.c": ("dns_ports[DNS_PORTS_MAX] = { 53 }",
                                  "dns_ports[DNS_PORTS_MAX] = { 5353 }")}  # fmt: skip
    run = Matrix(
        cache=cache, kernels=(oldest, newest), subject=edited(tmp_path / "bpf", deaf, cache),
        backend="local", checks=(memory.CHECK,), append=(), boot_timeout_s=_BOOT_TIMEOUT_S,
        report_dir=tmp_path / "report",
    ).run()  # fmt: skip

    for cell in run.cells:
        said = next(check for check in cell.checks if check.check == "memory")
        assert (said.verdict, said.cause) == (Verdict.UNKNOWN, Cause.BEHAVIOUR)
        assert "of 20,000 events had come to the loader" in said.summary
    assert leftovers(cache) == []
