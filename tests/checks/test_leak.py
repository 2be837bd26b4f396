# SPDX-License-Identifier: Apache-2.0
"""A leak is found from its stated size on, and noise is not taken for one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import paths, process
from harness.cache import Cache
from harness.checks import footprint, growth, leak, memory
from harness.checks.footprint import Sample
from harness.checks.growth import Measured
from harness.errors import HarnessError
from harness.objcheck import HeldMap
from harness.results import Cause, CheckResult, Verdict
from harness.supply import KernelFiles
from tests.checks.edited import edited
from tests.checks.recorded import KERNELS, RECORDED, observed
from tests.vm.matrix import Matrix, leftovers

EVENTS = 1_000_000
KIB, MIB = 1 << 10, 1 << 20
_BOOT_TIMEOUT_S = 300.0  # of a machine that does other things too
Noise = Callable[[], float]
_DRAW = random.Random(20261122)


def _sample(events: int, kernel: float, resident: float | None, *, observer: bool) -> Sample:
    return Sample(
        attempts=events, submitted=events if observer else None, kernel=int(kernel),
        slab=8 * MIB, percpu=600 * KIB, resident=None if resident is None else int(resident),
    )  # fmt: skip


def _measured(
    *,
    kernel: float = 0.0,
    loader: float = 0.0,
    empty: float = 0.0,
    stages: int = 20,
    noise: Noise = lambda: 0.0,
    loader_noise: Noise = lambda: 0.0,
) -> Measured:
    """A run with so many bytes of growth an event."""
    at = [number * EVENTS // stages for number in range(stages + 1)]
    return Measured(
        events=EVENTS, received=EVENTS,
        run=tuple(
            _sample(x, 20 * MIB + kernel * x + noise(), 9 * MIB + loader * x + loader_noise(),
                    observer=True)
            for x in at
        ),
        empty=tuple(
            _sample(x, 16 * MIB + empty * x + noise(), None, observer=False) for x in at
        ),
        start=(), end=(), stays="",
        before=_sample(0, 16 * MIB, None, observer=False),
        after=_sample(0, 16 * MIB + 250 * KIB, None, observer=False),
    )  # fmt: skip


def _map(elements: int | None, *, of: str = "hash", most: int = 1 << 20, more: bool = False,
         memlock: int = 4096) -> HeldMap:  # fmt: skip
    return HeldMap(
        id=7, name="seen", of=of, key_size=4, value_size=64, max_entries=most, prealloc=True,
        memlock_bytes=memlock, elements=elements, more=more,
    )  # fmt: skip


def test_what_does_not_grow_passes() -> None:
    said = growth.judge(_measured())

    assert (said.verdict, said.summary) == (Verdict.PASS, "")
    assert [each.bytes for each in said.growths] == [0, 0, 0]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (_measured(loader=4096 / 1000), "the loader's memory grows by 4.1 ± 0.0 bytes an event"),
        (_measured(kernel=128), "the kernel's memory grows by 128.0 ± 0.0 bytes an event"),
        (_measured(kernel=2.2), "the kernel's memory grows by 2.2 ± 0.0 bytes"),
        (replace(_measured(), start=(_map(0),), end=(_map(1000),)),
         "map seen has 1,000 elements more after 1,000,000 events"),
        (replace(_measured(), start=(_map(0),), end=(_map(100_000, more=True),)),
         "map seen has 100,000 or more elements more"),
        (replace(_measured(), start=(_map(3, most=64),), end=(_map(64, most=64),)),
         "map seen has 61 elements more after 1,000,000 events and is full (64)"),
        (replace(_measured(), start=(_map(0, most=17),), end=(_map(17, most=17),)),
         "map seen has 17 elements more after 1,000,000 events and is full (17)"),
        (replace(_measured(), start=(_map(None, of="array"),),
                 end=(_map(None, of="array", memlock=5 * MIB),)),
         "map seen takes 5.0 MiB more"),
        (replace(_measured(), end=(_map(0, memlock=5 * MIB),)), "map seen takes 5.0 MiB more"),
        (replace(_measured(), stays="2 BPF objects are left after the unload: map seen"),
         "2 BPF objects are left after the unload: map seen"),
        (replace(_measured(), after=_sample(0, 19 * MIB, None, observer=False)),
         "3.0 MiB of kernel memory stay after the unload"),
    ],
    ids=["page-a-1000", "element", "kernel-least", "elements", "more-than-walked", "small-map-full",
         "least-map-full", "map-memory", "new-map", "objects", "kernel-memory-left"],
)  # fmt: skip
def test_each_kind_of_leak_fails_and_is_named(measured: Measured, words: str) -> None:
    said = growth.judge(measured)

    assert said.verdict is Verdict.FAIL
    assert words in said.summary


@pytest.mark.parametrize(
    "measured",
    [
        _measured(loader=1.0),
        _measured(kernel=1.9),
        _measured(kernel=3.0, empty=1.5),
        replace(_measured(), start=(_map(0),), end=(_map(8),)),
        replace(_measured(), start=(_map(64, most=64),), end=(_map(64, most=64),)),
        replace(_measured(), start=(_map(0, most=2),), end=(_map(2, most=2),)),
        replace(_measured(), start=(_map(0, most=16),), end=(_map(16, most=16),)),
        replace(_measured(), start=(_map(0, of="lru_hash"),),
                end=(_map(1000, of="lru_hash", most=1000),)),
        replace(_measured(), start=(_map(None, of="array"),), end=(_map(None, of="array"),)),
    ],
    ids=["loader", "kernel", "as-without-observer", "few-elements", "full-from-the-start", "one-each-cpu",
         "one-each-setting", "lru", "no-elements"],
)  # fmt: skip
def test_what_is_allowed_passes(measured: Measured) -> None:
    """The other side of each threshold."""
    assert growth.judge(measured).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (replace(_measured(), received=999_999), "only 999,999 of 1,000,000 events came through"),
        (_measured(stages=16), "fewer than 17 samples"),
        (_measured(empty=3.0), "grows by 2.9 MiB without an observer"),
        (_measured(noise=lambda: _DRAW.gauss(0, 3 * MIB)),
         "nothing can be told"),
    ],
    ids=["too-few-events", "too-few-samples", "restless-guest", "noise"],
)  # fmt: skip
def test_what_cannot_be_told_is_unknown(measured: Measured, words: str) -> None:
    """Neither a pass of a run that shows nothing, nor a failure of the subject."""
    said = growth.judge(measured)

    assert said.verdict is Verdict.UNKNOWN
    assert words in said.summary


def test_a_leak_is_told_from_the_noise_of_a_guest() -> None:
    """Four times the scatter that was measured (60 kB): no false alarm, and no leak missed."""

    def scatter() -> float:
        return _DRAW.gauss(0, 240 * KIB)

    for _ in range(500):
        assert growth.judge(_measured(noise=scatter)).verdict is Verdict.PASS
        for leaking in (
            _measured(noise=scatter, kernel=6.0),
            _measured(noise=scatter, loader=4.0, loader_noise=scatter),
        ):
            assert growth.judge(leaking).verdict is Verdict.FAIL


def test_fewer_events_allow_no_less_than_a_mebibyte() -> None:
    """The guest's own noise does not shrink with them."""
    few = replace(_measured(), events=100_000)

    assert few.allowed == MIB
    assert _measured().allowed == 2.0 * EVENTS


@pytest.mark.parametrize("kernel", KERNELS)
def test_recorded_readings_of_the_observer_pass(kernel: str) -> None:
    """What real guests print is read whole; the noise is what the module says it is."""
    measured = _recorded(kernel)
    said = growth.judge(measured)

    assert (said.verdict, said.summary) == (Verdict.PASS, "")
    assert len(measured.run) >= 21 <= len(measured.empty)
    assert measured.run[-1].submitted == measured.received >= 1_000_000
    assert measured.empty[-1].attempts == 1_010_000
    loader, kernel_memory, empty = said.growths
    assert loader.bytes == 0
    assert abs(kernel_memory.bytes) < 0.5 * MIB > abs(empty.bytes)
    assert growth.ERRORS * kernel_memory.error < 0.7 * MIB
    assert abs(measured.stayed) < MIB
    assert [held.name for held in measured.end if held.elements is not None] == [
        "rate_windows", "load_windows",
    ]  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_recorded_readings_with_a_leak_in_them_fail(kernel: str) -> None:
    """A page each 1,000 events, and an element of a slab each event, on real noise."""
    measured = _recorded(kernel)
    pages = [
        replace(s, resident=(s.resident or 0) + (s.submitted or 0) // 1000 * 4096)
        for s in measured.run
    ]
    elements = [replace(s, kernel=s.kernel + 128 * (s.submitted or 0)) for s in measured.run]

    for run in (pages, elements):
        assert growth.judge(replace(measured, run=tuple(run))).verdict is Verdict.FAIL


def _recorded(kernel: str) -> Measured:
    text = (RECORDED / f"{kernel}-leak.txt").read_text()
    parts = dict(part.split("\n", 1) for part in text.removeprefix("# ").split("\n# "))
    seen = observed(f"{kernel}-leak", command_output=parts["observed"])
    return leak.read(EVENTS, parts["known"], parts["empty"], seen, parts["after"])


def test_what_is_left_is_named() -> None:
    before = '{"type":"id","kind":"btf","id":1,"name":"vmlinux","of":"kernel"}\n' + _TOTALS
    left = '{"type":"id","kind":"map","id":9,"name":"events","of":"ringbuf"}\n'

    assert leak.left_behind(before, f"@sample\n@\n{before}") == ""
    assert (
        leak.left_behind(before, f"@sample\n@\n{left}{before}")
        == "1 BPF objects are left after the unload: map events"
    )


_TOTALS = '{"type":"ids","program":0,"map":0,"link":0,"btf":1}\n{"type":"end"}\n'


# ---- samples ----

_READING = """@sample
{"type":"stats","hits":9,"submitted":7}
MemTotal:           8000 kB
MemFree:            4000 kB
Buffers:               0 kB
Cached:              100 kB
AnonPages:           200 kB
SReclaimable:        300 kB
SUnreclaim:          500 kB
Percpu:               60 kB
        managed  1990
              count:    20
              count:    5
        managed  0
Rss:                 900 kB
@
"""


def test_a_sample_is_read_with_the_pages_on_the_free_lists() -> None:
    (sample,) = footprint.read_samples(_READING)

    assert sample == Sample(
        attempts=0, submitted=7, kernel=(8000 - 4000 - 4 * 25 - 600) * KIB, slab=500 * KIB,
        percpu=60 * KIB, resident=900 * KIB,
    )  # fmt: skip


def test_floods_between_samples_are_added_up() -> None:
    flood = '{"type":"flood","label":"x","attempts":40}\n'

    found = footprint.read_samples(_READING + flood + flood + _READING + flood)

    assert [sample.attempts for sample in found] == [0, 80]


def test_without_smaps_rollup_statm_tells_the_resident_pages() -> None:
    """Kernels without CONFIG_PROC_PAGE_MONITOR."""
    (sample,) = footprint.read_samples(
        _READING.replace("Rss:                 900 kB", "statm 5000 225 10 1 0 9 0")
    )

    assert sample.resident == 900 * KIB


@pytest.mark.parametrize("lost", ["MemFree", "managed", "count", "AnonPages"])
def test_a_reading_that_lacks_a_figure_is_refused(lost: str) -> None:
    """Half a reading would be memory that comes and goes."""
    text = "\n".join(line for line in _READING.splitlines() if lost not in line) + "\n"

    with pytest.raises(HarnessError, match="memory figures lack"):
        footprint.read_samples(text)


def test_a_line_has_its_slope_and_its_error() -> None:
    """Against figures worked by hand: y = 1, 3, 2, 4 at 0 to 3."""
    assert footprint.fit([(0, 1), (1, 3), (2, 5)]) == footprint.Line(slope=2, error=0)
    line = footprint.fit([(0, 1), (1, 3), (2, 2), (3, 4)])
    assert line.slope == pytest.approx(0.8)
    assert line.error == pytest.approx((1.8 / 2 / 5) ** 0.5)


# ---- the script ----

# Of each ten datagrams one is lost. $1: where the number of events is kept.
_DRIVER = """#!/bin/sh
events=$(cat {0}/events)
echo $((events + $3 * 9 / 10)) >{0}/events
echo '{{"type":"flood","attempts":'$3'}}'
"""
_LOADER = """#!/bin/sh
echo '{{"type":"stats","hits":0,"submitted":'$(cat {0}/events)',"hits_v6":0}}'
"""
# Elements come with the events; half of those that are there are gone at the next reading.
_OBJCHECK = """#!/bin/sh
if [ $(cat {0}/events) -eq 0 ]; then
	elements=10 cpus=0
else
	cpus=2
	read elements <{0}/elements
	echo $((elements / 2)) >{0}/elements
fi
echo '{{"type":"map","id":4,"name":"a","of":"lru_hash","max_entries":9,"elements":9}}'
echo '{{"type":"map","id":5,"name":"b","of":"hash","max_entries":64,"elements":'$elements'}}'
echo '{{"type":"map","id":6,"name":"c","of":"hash","max_entries":2,"elements":'$cpus'}}'
"""


def test_the_script_sends_what_was_lost_and_waits_for_what_is_tidied_up(tmp_path: Path) -> None:
    """Run by this machine's shell, with parts that behave so."""
    for name, text in (("driver", _DRIVER), ("loader", _LOADER), ("objcheck", _OBJCHECK)):
        (tmp_path / name).write_text(text.format(tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "events").write_text("0\n")
    (tmp_path / "elements").write_text("64\n")
    words = [str(tmp_path / name) for name in ("driver", "loader", "objcheck")]

    done = process.run(
        ["/bin/sh", "-c", f"OBSERVER_PID=$$\n{leak._OBSERVED}", "leak", *words,
         "100", "20", "60", "2000", "8", "16"],
        timeout_s=60,
    )  # fmt: skip

    run, _, maps = done.stdout.decode().partition("@start\n")
    samples = footprint.read_samples(run)
    # 23 stages of 100, nine tenths of which come through: the first sum of 2,000 or more.
    assert [sample.submitted for sample in samples] == [90 * stage for stage in range(24)]
    assert samples[-1].attempts == 2300
    assert all(sample.resident for sample in samples)
    counts = [line.rpartition(":")[2] for line in maps.splitlines() if '"b"' in line]
    assert counts == ["10}", "16}"]  # by way of 64, which is full, and 32; "c" may be full


# ---- in guests ----


_FEWER = ("leak_events = 1000000", "leak_events = 200000")
# With so many events a mebibyte is allowed: a page each 100 events makes eight.
_PAGES = (
    "\ts->received++;\n",
    "\ts->received++;\n\tif (s->received % 100 == 0)\n\t\t*(volatile char *)malloc(4096) = 1;\n",
)
_CHILD = (
    "\twrite_ready(s);\n\terr = loop(s);",
    "\tif (fork() == 0) {\n\t\tsetsid();\n\t\tclose(0);\n\t\tclose(1);\n\t\tclose(2);\n"
    "\t\tpause();\n\t\t_exit(0);\n\t}\n\twrite_ready(s);\n\terr = loop(s);",
)
_MANIFEST = paths.default_manifest().name


@pytest.mark.vm
@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({_MANIFEST: _FEWER}, ""),
        ({_MANIFEST: _FEWER, "dnsmon_run.c": _PAGES}, "the loader's memory grows by 4"),
        ({_MANIFEST: _FEWER, "dnsmon_run.c": _CHILD}, "BPF objects are left after the unload"),
    ],
    ids=["honest", "page", "held"],
)
def test_a_loader_that_leaks_fails_on_oldest_and_newest(
    edits: dict[str, tuple[str, str]], words: str, cache: Cache, oldest: KernelFiles,
    newest: KernelFiles, tmp_path: Path,
) -> None:  # fmt: skip
    """And the same loader without the leak passes, with two guests at once on the machine."""
    run = Matrix(
        cache=cache, kernels=(oldest, newest), subject=edited(tmp_path / "bpf", edits, cache),
        backend="local", checks=(memory.CHECK, leak.CHECK), append=(),
        boot_timeout_s=_BOOT_TIMEOUT_S, report_dir=tmp_path / "report",
    ).run()  # fmt: skip

    for cell in run.cells:
        said: dict[str, CheckResult] = {check.check: check for check in cell.checks}
        assert (said["memory"].verdict, said["memory"].summary) == (Verdict.PASS, "")
        if words:
            assert (said["leak"].verdict, said["leak"].cause) == (
                Verdict.FAIL, Cause.LIMIT_EXCEEDED,
            )  # fmt: skip
            assert words in said["leak"].summary
        else:
            assert (said["leak"].verdict, said["leak"].summary) == (Verdict.PASS, "")
            assert said["leak"].figures[0].value < 0.5
    assert leftovers(cache) == []
