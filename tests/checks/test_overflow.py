# SPDX-License-Identifier: Apache-2.0
"""A buffer that overflowed in a real guest passes; with one number changed it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness import build, paths, process
from harness.cache import Cache
from harness.checks import overflow
from harness.checks.observer import Event, Observed, Scalar
from harness.errors import HarnessError
from harness.results import CheckResult, Verdict
from harness.subject import Map
from tests.checks import recorded

_STRUCT = 152  # octets of struct dns_event
_BUFFERS = {"ringbuf": "7.3-newest-overflow", "perf": "7.3-newest-overflow-perf"}


def _flood(label: str, attempts: int) -> str:
    return (
        f'{{"type":"flood","label":"{label}","attempts":{attempts},"threads":1,'
        '"duration_us":50000}\n'
    )


def _recorded(buffer: str = "ringbuf") -> tuple[Observed, str]:
    """The lines of a guest, and the label of its run."""
    seen = recorded.observed(_BUFFERS[buffer])
    match = re.fullmatch(r"t0-00000000\.([0-9a-f]{8})a\.test\.", str(seen.events[0]["name"]))
    assert match is not None
    label = match[1]
    said = _flood(f"{label}a", 1000) + _flood(f"{label}b", 8)
    return replace(seen, command_output=said), label


def _judged(
    change: Callable[[Observed], Observed] = lambda seen: seen,
    *, buffer: str = "ringbuf", size: int | None = _STRUCT,
) -> CheckResult:  # fmt: skip
    seen, label = _recorded(buffer)
    return overflow.judged([overflow.read(change(seen), label, size)])


def _counted(**changes: int) -> Callable[[Observed], Observed]:
    """The counters moved by so much."""

    def change(seen: Observed) -> Observed:
        assert seen.stats is not None
        now = {name: getattr(seen.stats, name) + by for name, by in changes.items()}
        return replace(seen, stats=msgspec.structs.replace(seen.stats, **now))

    return change


def _event(number: int, **fields: Scalar) -> Callable[[Observed], Observed]:
    """One event with other fields."""

    def change(seen: Observed) -> Observed:
        events: list[Event] = list(seen.events)
        events[number] = {**events[number], **fields}
        return replace(seen, events=tuple(events))

    return change


def _order(*numbers: int) -> Callable[[Observed], Observed]:
    """The events with these numbers, of 19 stored and 8 afterwards; the counters fit them."""

    def change(seen: Observed) -> Observed:
        fewer = len(seen.events) - len(numbers)
        return _counted(submitted=-fewer, received=-fewer, ring_full=fewer)(
            replace(seen, events=tuple(seen.events[number] for number in numbers))
        )

    return change


@pytest.mark.parametrize("buffer", _BUFFERS)
def test_an_overflow_of_a_real_guest_passes(buffer: str) -> None:
    """A page: 19 records of 208 octets, header included; the kernel counts perf's losses itself."""
    result = _judged(buffer=buffer)

    assert result.verdict is Verdict.PASS, result.summary
    assert result.summary == (
        f"{buffer} of 4096 octets: 19 stored, as many as it holds, 981 counted as lost, "
        "8 seen afterwards"
    )
    assert [figure.value for figure in result.figures] == [19, 981, 981][: len(result.figures)]


def test_a_manifest_that_names_no_struct_leaves_the_capacity_open() -> None:
    """Everything else is judged all the same."""
    result = _judged(size=None)

    assert result.summary.startswith("ringbuf of 4096 octets: 19 stored, 981 counted as lost")


def test_the_struct_s_size_is_read_from_the_object(cache: Cache) -> None:
    """What the manifest names is looked up where the compiler wrote it; a typing error is told."""
    subject = build.from_manifest(paths.default_manifest(), cache, lambda text: None).subject
    unknown = {"events": Map(record="dns_evnt")}
    silent = msgspec.structs.replace(subject.manifest, maps={})

    assert overflow.record_bytes(subject) == _STRUCT
    assert overflow.record_bytes(msgspec.structs.replace(subject, manifest=silent)) is None
    wrong = msgspec.structs.replace(subject.manifest, maps=unknown)
    with pytest.raises(HarnessError, match="no struct 'dns_evnt'"):
        overflow.record_bytes(msgspec.structs.replace(subject, manifest=wrong))


@pytest.mark.parametrize(
    ("buffer", "octets", "takes"),
    [("ringbuf", 256, 264), ("perf", 256, 272), ("ringbuf", 249, 264), ("perf", 252, 264),
     ("perf", 253, 272)],
)  # fmt: skip
def test_a_record_takes_whole_words(buffer: str, octets: int, takes: int) -> None:
    """Measured: of 65,536 octets a ring holds 248 records of 256, a perf buffer 240."""
    assert overflow.record(buffer, octets) == takes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_counted(ring_full=-981), "1008 hits, but 27 in all classes"),
        (_counted(ring_full=-981, hits=-981), "class ring_full moved by 0, not by 981"),
        (_counted(ring_full=981), "1008 hits, but 1989 in all classes"),
        (_counted(ring_full=981, hits=981), "class ring_full moved by 1962, not by 981"),
        (_counted(submitted=981, ring_full=-981), "1008 events submitted, but 27 received"),
        (_counted(submitted=1, received=1, ring_full=-1), "28 events received, but 27 written"),
        (_counted(perf_lost=982), "982 events reported lost, but 981 counted so"),
        (_counted(sampled_out=5, ring_full=-5), "class sampled_out moved by 5, not by 0"),
        (_event(3, name="test.cluster.local."), "an event that nobody sent: test.cluster.local."),
        (_event(3, id=999), "an event that nobody sent: t0-00000003."),
        (_event(19, cpu_ring_full=0), "cpu_ring_full is 0 in event 20, not 981"),
        (_event(2, cpu_ring_full=1), "cpu_ring_full is 1 in event 3, not 0"),
        (_order(*range(18), *range(19, 27)), "18 events were stored, but 4096 octets hold 19"),
        (_order(*range(18), 17, *range(19, 27)), "question 17 was seen more than once"),
        (_order(1, 0, *range(2, 27)), "not the first ones sent, in their order"),
        (_order(*range(26)), "of 8 questions sent after it went on, 7 were seen"),
        (_order(*range(26), 25), "of 8 questions sent after it went on, 7 were seen, not in order"),
        (_order(*range(19, 27)), "0 of 1000 questions were stored, not some"),
    ],
    ids=[
        "uncounted", "uncounted, nor a hit", "counted twice", "counted twice, as hits",
        "counted as submitted", "received but not written", "lost told twice", "another class",
        "another name", "another id", "loss not told", "loss told too early", "room left unused",
        "stored twice", "order", "lost afterwards", "twice afterwards", "nothing stored",
    ],
)  # fmt: skip
def test_an_account_that_does_not_add_up_fails(
    change: Callable[[Observed], Observed], says: str
) -> None:
    """Each of the numbers decides alone."""
    result = _judged(change)

    assert result.verdict is Verdict.FAIL
    assert says in result.evidence[0].text


def test_a_buffer_that_did_not_overflow_says_nothing() -> None:
    """Questions that all fit are no overflow: a larger buffer than asked for, or a reader."""
    seen, label = _recorded()
    said = _flood(f"{label}a", 19) + _flood(f"{label}b", 8)
    fits = _counted(hits=-981, ring_full=-981)(replace(seen, command_output=said))

    result = overflow.judged([overflow.read(fits, label, None)])

    assert "19 of 19 questions were stored, not some" in result.evidence[0].text


@pytest.mark.parametrize("output", ["", "hello\n", _flood("xa", 1000)])
def test_a_driver_that_says_something_else_is_our_trouble(output: str) -> None:
    """Not the subject's."""
    seen, label = _recorded()

    with pytest.raises(HarnessError, match="driver"):
        overflow.read(replace(seen, command_output=output), label, _STRUCT)


def test_an_observer_without_totals_is_not_read() -> None:
    """The check asks before; nothing here divides what is not there."""
    seen, label = _recorded()

    with pytest.raises(HarnessError, match="left no facts"):
        overflow.read(replace(seen, stats=None), label, _STRUCT)


def test_the_observer_is_stopped_for_the_first_questions_only(tmp_path: Path) -> None:
    """The script itself, with this machine's shell: stopped, sent, told to go on, sent again."""
    (tmp_path / "written").touch()
    driver, loader = tmp_path / "driver", tmp_path / "loader"
    driver.write_text(
        '#!/bin/sh\nfor last do :; done\n'
        'echo "$last $(sed "s/.*) \\(.\\).*/\\1/" /proc/$OBSERVER_PID/stat)"\n'
    )  # fmt: skip
    loader.write_text('#!/bin/sh\necho \'{"type":"stats","hits":5,"submitted":0,"received":0}\'\n')
    for tool in (driver, loader):
        tool.chmod(0o755)
    outer = 'sleep 60 & OBSERVER_PID=$! sh -c "$1" overflow "$2" "$3" label "$4" 1000 8; kill $!'

    done = process.run(
        ["sh", "-c", outer, "outer", overflow._SCRIPT, driver, loader, tmp_path / "written"],
        timeout_s=60,
    )

    assert done.stdout.decode().splitlines() == ["labela T", "labelb S"]
