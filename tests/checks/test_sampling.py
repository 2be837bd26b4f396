# SPDX-License-Identifier: Apache-2.0
"""A fair sample passes; a sampler that is unfair in any one way is told so, in its words."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec
import pytest

from harness.checks import observer, sampled, sampling, switched
from harness.checks.observer import Event, Observed, Ready, Scalar, Stats
from harness.checks.sampling import Sampled
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Verdict
from harness.subject import Traffic

_RUN = "5eed"
_N = 10
_TRAFFIC = Traffic(sample_n=_N, sample_threshold=1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Datagram:
    """What a sampler may look at."""

    thread: int
    port: int
    id: int
    name: str
    turn: int  # of the thread
    share: int  # of the thread
    cpu: int


Sampler = Callable[[Datagram], bool]


def _coin(*of: object, one_in: float = _N) -> bool:
    digest = hashlib.blake2b(repr(of).encode(), digest_size=8).digest()
    return int.from_bytes(digest) < 2**64 / one_in


def _fair(d: Datagram) -> bool:
    return _coin(d.port, d.id, d.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A flood as the driver makes it."""

    letter: str
    threads: int
    share: int
    one_name: bool = False
    retries: int = 0
    answers: bool = False
    per_second: int = 100_000

    @property
    def attempts(self) -> int:
        return self.threads * self.share * (1 + self.retries) * (2 if self.answers else 1)

    @property
    def line(self) -> str:
        took_us = self.attempts * 1_000_000 // self.per_second
        return (
            f'{{"type":"flood","label":"{_RUN}{self.letter}","attempts":{self.attempts},"sent":0,'
            f'"threads":{self.threads},"duration_us":{took_us}}}\n'
        )


_ALL = Shape(letter="a", threads=4, share=250)
_MANY = Shape(letter="b", threads=16, share=6250)
_ONE_NAME = Shape(letter="c", threads=16, share=625, one_name=True)
_AGAIN = Shape(letter="d", threads=4, share=125, retries=2, answers=True)
_BELOW = Shape(letter="e", threads=1, share=50)
_ABOVE = Shape(letter="f", threads=4, share=1500, per_second=20_000)
_BELOW_AGAIN = Shape(letter="g", threads=1, share=50)
_JUST_BELOW = Shape(letter="h", threads=1, share=750, per_second=750)
_JUST_ABOVE = Shape(letter="i", threads=1, share=1500, per_second=1500)


def _kept(
    shape: Shape, keep: Sampler, weight: int, numbers: range | None = None
) -> Iterator[Event]:
    for thread, repeat, number in itertools.product(
        range(shape.threads), range(1 + shape.retries), numbers or range(shape.share)
    ):
        first = "t0-00000000" if shape.one_name else f"t{thread}-{number:08x}"
        datagram = Datagram(
            thread=thread, port=40_000 + 7 * thread, id=number & 0xFFFF,
            name=f"{first}.{_RUN}{shape.letter}.test.", turn=repeat * shape.share + number,
            share=shape.share, cpu=thread % 2,
        )  # fmt: skip
        for answer in range(1 + shape.answers):
            if keep(datagram):
                at_ns = number * 1_000_000_000 * shape.threads // shape.per_second
                yield _event(datagram, weight, answer=bool(answer), at_ns=at_ns)


def _event(datagram: Datagram, weight: int, *, answer: bool, at_ns: int) -> Event:
    ports = (53, datagram.port) if answer else (datagram.port, 53)
    return {
        "direction": "response" if answer else "query", "sport": ports[0], "dport": ports[1],
        "id": datagram.id, "name": datagram.name, "sample_n": weight, "ts_ns": at_ns,
    }  # fmt: skip


def _seen(shapes: tuple[Shape, ...], events: list[Event], **classes: int) -> Observed:
    """classes: besides what was kept, the rest being sampled out."""
    hits = sum(shape.attempts for shape in shapes)
    counted = dict.fromkeys(observer.CLASSES, 0) | {"submitted": len(events)} | classes
    counted["sampled_out"] = hits - sum(counted.values())
    return Observed(
        ready=Ready(buffer="ringbuf"), events=tuple(events),
        stats=msgspec.convert({"hits": hits, "received": len(events), **counted}, Stats), unreadable=(), observer_status=0,
        observer_error="", command_status=0, command_error="", evidence=(),
        command_output="2\n" + "".join(shape.line for shape in shapes),
    )  # fmt: skip


def _always(_: Datagram) -> bool:
    return True


def _everything(keep: Sampler = _always) -> Sampled:
    return sampling.read(_seen((_ALL,), list(_kept(_ALL, keep, 1))))


def _share(keep: Sampler = _fair, weight: int = _N) -> Sampled:
    shapes = (_MANY, _ONE_NAME, _AGAIN)
    return sampling.read(
        _seen(shapes, [event for shape in shapes for event in _kept(shape, keep, weight)])
    )


def _switched(
    below: Sampler = _always, above: Sampler = _fair, shape: Shape = _ABOVE, odd: int = 1,
    begins_at: tuple[int, int] = (750, 100), just_above: Shape = _JUST_ABOVE,
) -> Sampled:  # fmt: skip
    """Above, the first 100 datagrams come before the window is seen to be.

    begins_at: the first number that is sampled of the flood just below, and of that just above.
    """
    events = [*_kept(_BELOW, below, 1), *_kept(_BELOW_AGAIN, below, 1)]
    events += _kept(shape, lambda d: d.thread == 0 and d.turn < 100, odd)
    events += _kept(shape, lambda d: not (d.thread == 0 and d.turn < 100) and above(d), _N)
    for near, first in zip((_JUST_BELOW, just_above), begins_at, strict=True):
        events += _kept(near, _always, 1, range(first))
        if first < near.share:
            events += _kept(near, above, _N, range(first, near.share))
    return sampling.read(_seen((_BELOW, shape, _BELOW_AGAIN, _JUST_BELOW, just_above), events))


def _judged(
    everything: Sampled | None = None, share: Sampled | None = None, switched: Sampled | None = None
) -> CheckResult:
    runs = (everything or _everything(), share or _share(), switched or _switched())
    return sampling.judged(runs, _TRAFFIC, emulated=True)


@pytest.fixture(scope="module")
def fair() -> Sampled:
    return _share()


def test_a_fair_sample_passes(fair: Sampled) -> None:
    """The other half of every test below: the same floods, judged the same."""
    result = _judged(share=fair)

    assert result.verdict is Verdict.PASS, result.summary
    assert "of 100000 kept at 1 in 10, believed 9612 to 10392 (error 4e-05)" in result.summary
    assert "all below 1000/s and a sample above, asked at 0.75 and 1.5 times" in result.summary
    figures = {figure.name: figure.value for figure in result.figures}
    assert figures["sent"] == 100_000
    assert figures["judged just below the threshold"] > 600 < figures["judged just above it"]


_TURNS = itertools.count()
_RANDOM = random.Random(4711)
UNFAIR: dict[str, tuple[Sampler, str]] = {
    "id % 10 == 0": (lambda d: d.id % 10 == 0, "kept depends on the last digit of the id"),
    "low bits of the id": (
        lambda d: _coin(d.port, d.id, d.name, one_in=20 if d.id & 1 else 20 / 3),
        "kept depends on the low bits of the id",
    ),
    "hash of the port alone": (lambda d: _coin(d.port), "kept depends on the socket"),
    "hash of the id alone": (lambda d: _coin(d.id), "different sockets with the same id"),
    "hash of the name alone": (lambda d: _coin(d.name), "questions for one name: "),
    "hash without the id": (lambda d: _coin(d.port, d.name), "questions for one name: "),
    "1 in 9": (lambda d: _coin(d.port, d.id, d.name, one_in=9), "of 100000 kept, believed are"),
    "1 in 11": (lambda d: _coin(d.port, d.id, d.name, one_in=11), "of 100000 kept, believed are"),
    "1 in 20": (lambda d: _coin(d.port, d.id, d.name, one_in=20), "of 100000 kept, believed are"),
    "one CPU more than the other": (
        lambda d: _coin(d.port, d.id, d.name, one_in=9 if d.cpu else 11.25),
        "kept depends on the CPU",
    ),
    "more at the end": (
        lambda d: _coin(d.port, d.id, d.name, one_in=9 if 2 * d.turn > d.share else 11),
        "kept depends on the time",
    ),
    "every tenth": (lambda d: next(_TURNS) % 10 == 0, "pairs sent one after the other"),
    "neighbours together": (
        lambda d: _coin(d.port, d.turn // 2, d.name[:2]), "pairs sent one after the other",
    ),
    "a coin for each datagram": (
        lambda d: _RANDOM.random() < 0.1, "torn from retries or answers: of question"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("keep", "says"), UNFAIR.values(), ids=UNFAIR)
def test_an_unfair_sampler_is_told_how(keep: Sampler, says: str) -> None:
    """Each of the statistics is what catches one of them."""
    result = _judged(share=_share(keep))

    assert result.verdict is Verdict.FAIL
    assert says in result.evidence[0].text


def _with_first(events: tuple[Event, ...], **changes: Scalar) -> list[Event]:
    return [{**events[0], **changes}, *events[1:]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sample_n": 1}, "sample_n is 1 in 1 events, not 10"),
        ({"name": "test.cluster.local."}, "an event that nobody sent: {'direction'"),
        ({"name": f"t0-00ffffff.{_RUN}b.test."}, "an event that nobody sent: Kept(thread=0"),
        ({"name": f"t99-00000000.{_RUN}b.test."}, "an event that nobody sent: Kept(thread=99"),
        ({"id": 65_535}, "an event that nobody sent: Kept(thread=0"),
        ({"id": None}, "an event that nobody sent: {'direction'"),
        ({"direction": "response", "dport": 1}, "an event that nobody sent: Kept(thread=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_event_that_is_not_as_sent_fails(changes: dict[str, Scalar], says: str) -> None:
    """One of ten thousand is enough: names, numbers and weights are exact."""
    shapes = (_MANY, _ONE_NAME, _AGAIN)
    events = tuple(event for shape in shapes for event in _kept(shape, _fair, _N))

    result = _judged(share=sampling.read(_seen(shapes, _with_first(events, **changes))))

    assert result.verdict is Verdict.FAIL
    assert says in result.evidence[0].text


def test_an_event_told_twice_fails() -> None:
    """A count that fits by accident would hide it."""
    shapes = (_MANY, _ONE_NAME, _AGAIN)
    events = [event for shape in shapes for event in _kept(shape, _fair, _N)]

    result = _judged(share=sampling.read(_seen(shapes, [events[5], *events])))

    assert "1 datagrams were seen more than once, (0, " in result.summary


def test_questions_for_one_name_are_judged_by_socket_and_id(fair: Sampled) -> None:
    """There the name says nothing: a strange id, a seventeenth socket, an id told twice."""
    shape = _ONE_NAME
    flood = fair.floods[f"{_RUN}c"]
    kept = fair.kept[f"{_RUN}c"]

    assert sampled.fair_of_one_name(flood, kept, _N) == []
    for one, says in (
        (replace(kept[0], id=shape.share), "an event that nobody sent"),
        (replace(kept[0], answer=True), "an event that nobody sent"),
        (replace(kept[0], weight=1), "sample_n is 1 in 1 events"),
        (replace(kept[0], port=1), "16 sockets asked, events tell of 17"),
        (kept[1], "1 datagrams were seen more than once"),
    ):
        assert any(says in text for text in sampled.fair_of_one_name(flood, [one, *kept[1:]], _N))


def test_a_question_s_answers_come_to_the_port_that_asked(fair: Sampled) -> None:
    """A group that is complete but of two sockets is none."""
    flood, kept = fair.floods[f"{_RUN}d"], fair.kept[f"{_RUN}d"]

    questions, wrong = sampled.whole(flood, kept, _N, 2)
    _, moved = sampled.whole(flood, [replace(kept[0], port=1), *kept[1:]], _N, 2)

    assert (questions, wrong) == (len(kept) // 6, [])
    assert "an event that nobody sent" in moved[0]


def test_what_another_stage_dropped_is_no_sample(fair: Sampled) -> None:
    """ring_full or rate_limited would make a fair sampler look unfair, or the reverse."""
    events = list(_kept(_ALL, _always, 1))

    lost = sampling.read(_seen((_ALL,), events[:-3], ring_full=3))

    assert "class ring_full moved by 3, not by 0" in _judged(everything=lost, share=fair).summary


def test_one_in_one_keeps_all(fair: Sampled) -> None:
    """One of a thousand left out is one too many."""
    result = _judged(everything=_everything(lambda d: d.turn != 17 or d.thread != 2), share=fair)

    assert "at 1 in 1: 999 of 1000 kept, not all" in result.summary


@pytest.mark.parametrize(
    ("switched", "says"),
    [
        (_switched(below=_fair), "below the threshold of 1000/s: "),
        (_switched(odd=7), "sample_n is 7 in an event, neither 1 nor 10"),
        (_switched(above=_always), "above the threshold: 5900 of 5900 kept, believed are"),
        (_switched(above=lambda d: _coin(d.port, d.id, d.name, one_in=20)), "believed are"),
        (_switched(begins_at=(60, 100)), "sampled below the threshold of 1000/s, from "),
        (
            _switched(begins_at=(750, 1500)),
            "not sampled above the threshold of 1000/s, up to 1500/s",
        ),
    ],
    ids=["always on", "weight", "on, keeps all", "1 in 20", "too soon", "too late"],
)
def test_sampling_begins_at_the_threshold(fair: Sampled, switched: Sampled, says: str) -> None:
    """Off below, on above, 1 in 10 of what was above."""
    result = _judged(share=fair, switched=switched)

    assert result.verdict is Verdict.FAIL
    assert says in result.evidence[0].text


def test_a_sampler_that_never_begins_fails(fair: Sampled) -> None:
    """At twenty times the threshold each datagram stands for itself: at most 500 may."""
    events = [
        event for shape in (_BELOW, _ABOVE, _BELOW_AGAIN) for event in _kept(shape, _always, 1)
    ]

    never = sampling.read(_seen((_BELOW, _ABOVE, _BELOW_AGAIN), events))
    result = _judged(share=fair, switched=never)

    assert "no sampling above the threshold of 1000/s: at 20000/s 6000 of 6000" in result.summary
    assert "at most 500 may" in result.summary


def test_a_load_that_was_not_reached_is_unknown(fair: Sampled) -> None:
    """A machine too slow to go above the threshold has not shown that sampling begins."""
    slow = replace(_ABOVE, per_second=1_500)

    result = _judged(share=fair, switched=_switched(shape=slow))

    assert result.verdict is Verdict.UNKNOWN
    assert "only 1500/s were reached, 2000/s are needed" in result.summary


def test_a_load_just_above_that_was_not_reached_is_unknown(fair: Sampled) -> None:
    """Nor has one that could not send a second of 1.5 times the threshold."""
    slow = replace(_JUST_ABOVE, per_second=900)

    result = _judged(share=fair, switched=_switched(begins_at=(750, 1500), just_above=slow))

    assert (result.verdict, result.cause) == (Verdict.UNKNOWN, Cause.INFRA)
    assert "and 0 just above the load is known, not of 100" in result.summary


@pytest.mark.parametrize("threshold", [0, 199, 5001])
def test_a_threshold_that_a_second_cannot_show_is_not_asked_for(threshold: int) -> None:
    """Windows of a few datagrams, or floods that fill the buffer."""
    assert threshold not in switched.THRESHOLDS


@pytest.mark.parametrize("output", ["", "x\n", "0\n", "2\nhello\n", '2\n{"label":"a"}\n'])
def test_a_driver_that_says_something_else_is_our_trouble(output: str) -> None:
    """Not the subject's."""
    seen = replace(_seen((_ALL,), []), command_output=output)

    with pytest.raises(HarnessError, match=r"number of CPUs|driver's line"):
        sampling.read(seen)
