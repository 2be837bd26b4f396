# SPDX-License-Identifier: Apache-2.0
"""Windows over time stamps, and what a limiter's events say when the machine stood still."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.checks import timeline
from harness.checks.timeline import NS_PER_S, Part, Promise, Sends, Span, Timeline
from tests.checks import limiters

_MS = 1_000_000
_WINDOW_NS = 100 * _MS
_XADD = Promise(limiter="xadd", limit=1000, burst=100, cpus=2)
_GCRA = Promise(limiter="gcra", limit=1000, burst=100, cpus=2)
_SPAN = Span(start_ns=10 * NS_PER_S, end_ns=11 * NS_PER_S)
_times = st.lists(st.integers(min_value=0, max_value=5 * NS_PER_S), max_size=60).map(sorted)
_near = st.lists(
    st.integers(min_value=-3, max_value=3).map(lambda at: at + NS_PER_S)
    | st.integers(min_value=0, max_value=6), max_size=40,
).map(sorted)  # fmt: skip


@given(_times | _near)
def test_the_most_in_a_second_is_that_of_every_window_tried(at: list[int]) -> None:
    """Any window can be moved right until it starts at an event without losing one."""
    tried = [sum(start <= one < start + NS_PER_S for one in at) for start in at]

    assert timeline.most_in_a_second(at) == max(tried, default=0)


@pytest.mark.parametrize(
    ("at", "most"),
    [([], 0), ([5], 1), ([0, NS_PER_S], 1), ([0, NS_PER_S - 1], 2), ([7, 7, 7], 3)],
    ids=["none", "one", "a second apart", "just within", "at once"],
)
def test_a_second_ends_before_its_last_instant(at: list[int], most: int) -> None:
    """[t, t + 1 s): two events a second apart are not in one second."""
    assert timeline.most_in_a_second(at) == most


@given(_times, st.integers(1, NS_PER_S), st.integers(0, 20))
def test_every_event_of_the_bins_is_counted_once(at: list[int], width: int, bins: int) -> None:
    """Bins neither overlap nor leave a gap."""
    held = timeline.counts(at, 3, width, bins)

    assert len(held) == bins
    assert sum(held) == sum(3 <= one < 3 + bins * width for one in at)


def test_the_core_is_when_a_generator_was_sending_for_certain() -> None:
    """Between readings 100 ms further apart than it sent, and read up to 10 ms too early."""
    span = timeline.core(5 * NS_PER_S, 6100 * _MS, NS_PER_S, 20 * _MS)

    assert span == Span(start_ns=5130 * _MS, end_ns=5980 * _MS)


def test_a_generator_that_was_lost_for_longer_than_it_sent_has_no_core() -> None:
    """It may have sent at the beginning or at the end: of no instant is it known."""
    assert timeline.core(5 * NS_PER_S, 8 * NS_PER_S, NS_PER_S, 0) is None


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(100, 300, (100, 300)), (101, 399, (200, 300)), (101, 199, None), (100, 200, (100, 200))],
)
def test_edge_windows_are_left_out(
    start: int, end: int, expected: tuple[int, int] | None
) -> None:  # fmt: skip
    """A window that was only partly loaded says nothing."""
    whole = timeline.whole_windows(Span(start_ns=start, end_ns=end), 100)

    assert whole == (expected and Span(start_ns=expected[0], end_ns=expected[1]))


@pytest.mark.parametrize(
    ("short", "kept"), [(0, True), (1, True), (2, False)], ids=["none", "CPUs-1", "one more"]
)
def test_windows_may_lose_a_call_in_flight_on_each_other_cpu(short: int, kept: bool) -> None:
    """100 a window, two CPUs: 99 is the design's, 98 is lost."""
    held = timeline.delivered(limiters.windows(_SPAN, [100 - short] * 10), _SPAN, _XADD)

    assert held.kept is kept
    assert held.floor_per_s == 990
    assert held.windows == (100 - short,) * 10


def test_a_window_with_one_event_too_many_is_over_the_limit() -> None:
    """That no window holds more is exact."""
    held = timeline.delivered(limiters.windows(_SPAN, [101] * 10), _SPAN, _XADD)

    assert held.per_s > held.ceiling_per_s


def test_a_bucket_in_steady_state_keeps_its_promise() -> None:
    """One event a millisecond."""
    held = timeline.delivered(limiters.bucket(_SPAN), _SPAN, _GCRA)

    assert held.kept
    assert held.per_s == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("promise", [_XADD, _GCRA], ids=["xadd", "gcra"])
def test_a_lost_remainder_keeps_no_promise(promise: Promise) -> None:
    """931 a second, evenly: seven in a hundred are lost all the time."""
    at = limiters.even(_SPAN, 931)

    held = timeline.delivered(at, _SPAN, promise)

    assert not held.kept
    assert not held.kept_but_for_silences


@pytest.mark.parametrize("start_ms", range(0, 900, 37))
@pytest.mark.parametrize("length_ms", [20, 60, 99])
def test_a_pause_shorter_than_the_burst_costs_a_bucket_nothing(
    start_ms: int, length_ms: int
) -> None:
    """What was saved up follows at once, wherever in the stretch the pause was."""
    pause = Span(start_ns=_SPAN.start_ns + start_ms * _MS,
                 end_ns=_SPAN.start_ns + (start_ms + length_ms) * _MS)  # fmt: skip
    held = timeline.delivered(limiters.bucket(_SPAN, pauses=[pause]), _SPAN, _GCRA)

    assert held.kept


@pytest.mark.parametrize("start_ms", range(0, 600, 37))
def test_a_machine_that_stood_still_is_not_the_limiter_s_fault(start_ms: int) -> None:
    """300 ms without any load: less than promised came, and it is known why it may be."""
    pause = Span(start_ns=_SPAN.start_ns + start_ms * _MS,
                 end_ns=_SPAN.start_ns + (start_ms + 300) * _MS)  # fmt: skip
    for at, promise in (
        (limiters.bucket(_SPAN, pauses=[pause]), _GCRA),
        (limiters.windowed(_SPAN, pauses=[pause]), _XADD),
    ):
        held = timeline.delivered(at, _SPAN, promise)

        assert not held.kept
        assert held.kept_but_for_silences


def test_a_limiter_that_loses_a_few_of_every_window_is_not_excused() -> None:
    """However a machine stands still, of twice the limit one window has that much."""
    held = timeline.delivered(limiters.windows(_SPAN, [98, 60] * 5), _SPAN, _XADD)

    assert not held.kept_but_for_silences


_pauses = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(1, 400)).map(
        lambda ms: Span(start_ns=_SPAN.start_ns + ms[0] * _MS,
                        end_ns=_SPAN.start_ns + (ms[0] + ms[1]) * _MS)
    ), max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(_pauses)
def test_however_often_a_machine_stood_still_it_has_an_excuse(pauses: list[Span]) -> None:
    """Of a generator that does not say when it sent, and sent twice the limit all the same."""
    assume(len(limiters.offered(_SPAN, pauses)) >= 2 * 1000)
    for passed, promise in (
        (limiters.windowed(_SPAN, pauses=pauses), _XADD),
        (limiters.bucket(_SPAN, pauses=pauses), _GCRA),
    ):
        held = timeline.delivered(passed, _SPAN, promise)

        assert held.kept or held.kept_but_for_silences


@settings(max_examples=60, deadline=None)
@given(_pauses, st.sampled_from([1, 4, 9, 10]))
def test_no_correct_limiter_delivers_less_than_is_due(pauses: list[Span], every: int) -> None:
    """However the machine stood still, and however little was sent: a failure is the limiter's.

    Down to 2,000 a second, and each a datagram of its own.
    """
    sends = limiters.sends(limiters.offered(_SPAN, pauses)[::every])
    for passed, promise in (
        (limiters.windowed(_SPAN, pauses=pauses, every=every), _XADD),
        (limiters.bucket(_SPAN, pauses=pauses, every=every), _GCRA),
    ):
        due = timeline.due(_SPAN, promise, sends)

        assert due is not None
        assert due <= sum(timeline.delivered(passed, _SPAN, promise).windows)


@pytest.mark.parametrize(
    ("promise", "due"), [(_XADD, 990), (_GCRA, 980)], ids=["xadd", "gcra"]
)  # fmt: skip
@pytest.mark.parametrize("sample_n", [1, 10])
def test_all_is_due_of_a_load_without_a_pause(promise: Promise, due: float, sample_n: int) -> None:
    """Else a lost remainder would find an excuse on a machine that never stood still.

    A bucket's last step is owed to the next one; with a sample it is half a window.
    """
    every = Span(start_ns=_SPAN.start_ns, end_ns=_SPAN.end_ns)
    at = [one for one in limiters.offered(every) for _ in range(sample_n)]

    found = timeline.due(_SPAN, promise, limiters.sends(at), sample_n=sample_n, deviations=5)

    assert found == (due if sample_n == 1 or promise is _XADD else 950)


def test_nothing_is_due_when_nothing_was_sent() -> None:
    """Nor of what was sent outside of the span."""
    outside = limiters.sends([_SPAN.start_ns - 1, _SPAN.end_ns])

    assert timeline.due(_SPAN, _XADD, outside) == 0
    assert timeline.due(_SPAN, _GCRA, outside) == 0


def test_windows_that_are_too_short_for_the_generator_s_bins_say_nothing() -> None:
    """A window of 40 ms has four bins, and three of them whole: half of its load is not told."""
    short = Promise(limiter="xadd", limit=1000, burst=40, cpus=2)

    assert timeline.due(_SPAN, short, limiters.sends(limiters.offered(_SPAN))) is None


@pytest.mark.parametrize(
    ("start", "end", "hits"), [(0, 100, 6), (20, 40, 5), (21, 40, 3), (20, 39, 2), (0, 20, 0)]
)
def test_only_bins_that_lie_whole_in_a_stretch_count(start: int, end: int, hits: int) -> None:
    """Of the others it is not known."""
    sends = Sends(bin_ns=10, first_bin=2, hits=(2, 3, 1))

    assert sends.within(start, end) == hits


def test_a_timeline_holds_every_event_and_reads_back() -> None:
    """It is drawn by others: what its docstring says is what is in the file."""
    at = limiters.bucket(_SPAN)
    part = Part(name="one CPU", start_ns=_SPAN.start_ns + 1, end_ns=_SPAN.end_ns + 250 * _MS,
                offered_per_s=5.0)  # fmt: skip

    drawn = timeline.timeline(at, scenario="xadd", promise=_GCRA, bound=1100, parts=[part])

    assert sum(drawn.counts) == len(at)
    assert drawn.start_ns <= min(at[0], part.start_ns)
    assert drawn.start_ns % drawn.bin_ns == 0
    assert drawn.start_ns + len(drawn.counts) * drawn.bin_ns > part.end_ns
    assert (drawn.limit_per_s, drawn.burst, drawn.bound) == (1000, 100, 1100)
    assert msgspec.json.decode(msgspec.json.encode(drawn), type=Timeline) == drawn


def test_a_timeline_of_nothing_is_one_empty_bin() -> None:
    """An observer without events still has its file."""
    drawn = timeline.timeline([], scenario="x", promise=_XADD, bound=1100, parts=[])

    assert (drawn.counts, drawn.max_in_a_second) == ((0,), 0)
