# SPDX-License-Identifier: Apache-2.0
"""A sampler that begins too soon or too late is told so; one that keeps its promise never is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from harness.checks import switched
from harness.checks.sampled import Flood, Kept
from harness.checks.switched import ABOVE, BELOW, Judged

N, THRESHOLD = 10, 1000
NS = 1_000_000_000
WINDOW_NS = NS // 10
_DRAW = random.Random(20261123)


def sent(per_s: float, stalls: Sequence[tuple[float, float]] = (), count: int = 0) -> list[int]:
    """A second of a flood at a steady rate. A datagram that is due in (begin, begin + length) s goes
    at the stall's end, together with all others."""
    times: list[int] = []
    for turn in range(count or int(per_s)):
        due = turn / per_s
        for begin, length in stalls:
            due = max(due, begin + length) if begin < due < begin + length else due
        at = int(due * NS)
        times.append(max(at, times[-1] + 20_000) if times else at)  # 20 us a send
    return times


def observed(times: Sequence[int], *, begins_at: int = THRESHOLD, phase_ns: int = 0) -> list[Kept]:
    """What an observer keeps that samples from `begins_at` a second on; the flood began at phase_ns."""
    kept: list[Kept] = []
    counts: dict[int, int] = {}
    for number, at in enumerate(times):
        window = (at + phase_ns) // WINDOW_NS
        counts[window] = counts.get(window, 0) + 1
        limit = begins_at // 10
        above = counts[window] > limit or counts.get(window - 1, 0) > limit
        if not above or _DRAW.random() < 1 / N:
            kept.append(
                Kept(thread=0, number=number, port=4000, id=number, weight=N if above else 1,
                     answer=False, at_ns=7 * NS + phase_ns + at)
            )  # fmt: skip
    return kept


def judged(times: Sequence[int], kept: Sequence[Kept]) -> Judged:
    flood = Flood(label="x", attempts=len(times), threads=1, duration_us=times[-1] // 1000)
    return switched.judge(flood, kept, N, THRESHOLD)


@pytest.mark.parametrize("phase_ns", [0, 37_000_000, 99_999_999])  # of the flood's begin
def test_what_keeps_the_promise_is_shown_to(phase_ns: int) -> None:
    """On a quiet machine nearly all of either flood is evidence."""
    below, above = sent(BELOW * THRESHOLD), sent(ABOVE * THRESHOLD)

    low = judged(below, observed(below, phase_ns=phase_ns))
    high = judged(above, observed(above, phase_ns=phase_ns))

    assert low.wrong == high.wrong == ()
    assert low.kept_below > 600 > 2 * switched.needed(THRESHOLD)
    assert high.sampled_above > 400


@pytest.mark.parametrize("begins_at", [100, 400, 600, 700])
def test_one_that_begins_too_soon_is_told_from_where(begins_at: int) -> None:
    for _ in range(60):
        times = sent(BELOW * THRESHOLD)
        (wrong,) = judged(times, observed(times, begins_at=begins_at, phase_ns=_any_phase())).wrong

        assert wrong.startswith("sampled below the threshold of 1000/s, from ")
        assert begins_at < int(wrong.split("from ")[1].split("/")[0]) <= THRESHOLD


@pytest.mark.parametrize("begins_at", [1600, 4000, 1_000_000])
def test_one_that_begins_too_late_is_told_up_to_where(begins_at: int) -> None:
    for _ in range(60):
        times = sent(ABOVE * THRESHOLD)
        (wrong,) = judged(times, observed(times, begins_at=begins_at, phase_ns=_any_phase())).wrong

        assert wrong.startswith("not sampled above the threshold of 1000/s, up to ")
        assert wrong.endswith(" datagrams stand for themselves")


def _any_phase() -> int:
    return _DRAW.randrange(WINDOW_NS)


def _stalled(per_s: float) -> Iterator[list[int]]:
    for _ in range(200):
        stalls = [
            (_DRAW.uniform(-0.05, 1), _DRAW.expovariate(1 / _DRAW.choice([0.005, 0.03, 0.2, 1])))
            for _ in range(_DRAW.randrange(12))
        ]
        yield sent(per_s, stalls)


@pytest.mark.parametrize("load", [BELOW, ABOVE, 1.0])
def test_no_stall_is_taken_for_a_fault(load: float) -> None:
    """Whatever a machine does with the times, the two bounds hold: evidence is all that is lost."""
    for times in _stalled(load * THRESHOLD):
        said = judged(times, observed(times, phase_ns=_any_phase()))

        assert said.wrong == ()


def test_a_flood_that_came_all_at_once_shows_nothing() -> None:
    """So does one that was far slower than asked."""
    for times in (sent(750, [(-0.1, 2)]), sent(1500, [(-0.1, 2)]), sent(300)):
        said = judged(times, observed(times))

        assert said.wrong == ()
        assert said.kept_below + said.sampled_above < switched.needed(THRESHOLD)


def test_a_fault_is_seen_between_stalls() -> None:
    """A stall of 100 ms in each flood leaves the rest as evidence."""
    below, above = sent(750, [(0.3, 0.1)]), sent(1500, [(0.3, 0.1)])

    assert judged(below, observed(below, begins_at=600)).wrong
    assert judged(above, observed(above, begins_at=4000)).wrong
    assert judged(below, observed(below)).kept_below > switched.needed(THRESHOLD)
    assert judged(above, observed(above)).sampled_above > switched.needed(THRESHOLD)


def test_a_single_datagram_left_out_below_is_one_too_many() -> None:
    """Wherever it is: first, last, or between two of one window."""
    times = sent(BELOW * THRESHOLD)
    kept = observed(times)
    for lost in (0, 17, 400, len(times) - 1):
        (wrong,) = judged(times, [one for one in kept if one.number != lost]).wrong

        assert wrong.endswith(": 1 datagrams were left out or stand for 10")


def test_one_that_keeps_nothing_fails() -> None:
    """No event tells a time, and yet: up to the threshold all are promised."""
    times = sent(50)

    (wrong,) = judged(times, []).wrong

    assert "50 datagrams were left out" in wrong


def test_times_that_go_back_are_told() -> None:
    """All of this rests on them."""
    times = sent(BELOW * THRESHOLD)
    kept = observed(times)

    wrong = judged(times, [*kept[:50], *(observed([t - WINDOW_NS for t in times])[50:])]).wrong

    assert "ts_ns of an event is before that of one sent earlier by the same thread" in wrong
