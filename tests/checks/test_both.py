# SPDX-License-Identifier: Apache-2.0
"""Sample and limit together: each order but the right one is told from the counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.checks import binomial, both
from harness.checks.observer import Ready
from harness.checks.offered import Load, Offered
from harness.checks.timeline import NS_PER_S, Span
from harness.results import Cause, Verdict
from harness.subject import Traffic
from tests.checks import limiters
from tests.checks.limiters import ready, seen

_TRAFFIC = Traffic()
_PLANNED = Span(start_ns=10 * NS_PER_S, end_ns=11 * NS_PER_S)
_FAST = Span(start_ns=11 * NS_PER_S, end_ns=12 * NS_PER_S)
_MATCHED = 70_000  # 10,000 as planned, 60,000 as fast as possible
_BESIDE = 20_000
_READY: Ready = ready(sample_n=10, sample_threshold=1000)
_PASSED = [*limiters.windows(_PLANNED, [96] * 10), *limiters.windows(_FAST, [100] * 10)]


def _sent(fast_per_s: float = 60_000) -> Offered:
    loads = (
        Load(name="as planned", matched=10_000, per_s=10_000, span=_PLANNED),
        Load(name="as fast as possible", matched=60_000, per_s=fast_per_s, span=_FAST),
    )
    return Offered(cpus=2, loads=loads, beside=_BESIDE)


def _judged(
    at: list[int] = _PASSED, *, kept: int = 7_100, matched: int = _MATCHED, says: Ready = _READY,
    beside: int = _BESIDE, ring_full: int = 0, sent: Offered | None = None,
) -> both.Judged:  # fmt: skip
    run = seen(at, matched=matched, says=says, sampled_out=matched - kept, other_port=beside,
               ring_full=ring_full)  # fmt: skip
    return both.judge(run, sent or _sent(), _TRAFFIC)


def test_a_sample_that_is_limited_passes() -> None:
    """A tenth is kept, and of that what the limit lets through."""
    said = _judged()

    assert (said.verdict, said.says) == (Verdict.PASS, "")
    assert said.kept is not None
    assert said.kept.low < 7_000 < 7_100 < said.kept.high


def test_the_interval_is_narrow_enough_to_mean_something() -> None:
    """7,000 expected: 5 % less is refused, and 10 % more."""
    kept = _judged().kept

    assert kept is not None
    assert kept.low > 6_650
    assert kept.high < 7_800


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize(("beyond", "verdict"), [(0, Verdict.PASS), (1, Verdict.FAIL)])
def test_the_sample_may_stray_as_far_as_its_interval(
    side: str, beyond: int, verdict: Verdict
) -> None:
    """A biased sampler is told at the edge, not somewhere near it."""
    kept = _judged().kept
    assert kept is not None
    count = kept.low - beyond if side == "low" else kept.high + beyond

    said = _judged(kept=count)

    assert said.verdict is verdict
    if beyond:
        assert f"{count} questions are in the sample, 1 in 10 are {kept.low} to" in said.says


def test_a_sample_taken_after_the_limit_fails() -> None:
    """The limit lets 2,100 through, the sample a tenth of them: 100 a second."""
    at = [*limiters.even(_PLANNED, 100), *limiters.even(_FAST, 100)]
    run = seen(at, matched=_MATCHED, says=_READY, sampled_out=1_900, other_port=_BESIDE)

    said = both.judge(run, _sent(), _TRAFFIC)

    assert said.verdict is Verdict.FAIL
    assert "68100 questions are in the sample" in said.says


@pytest.mark.parametrize(
    "at",
    [[*limiters.even(_PLANNED, 100), *limiters.even(_FAST, 100)],
     [*limiters.even(_PLANNED, 960), *limiters.even(_FAST, 500)],
     [*limiters.even(_PLANNED, 480), *limiters.windows(_FAST, [100] * 10)],
     [*limiters.windows(_PLANNED, [40, 40, 40, 0, 0, 40, 40, 40, 40, 40]),
      *limiters.windows(_FAST, [100] * 10)]],
    ids=["a hundred", "half of the limit", "too few of the planned", "too few without silences"],
)  # fmt: skip
def test_too_few_events_fail_whatever_the_counters_say(at: list[int]) -> None:
    """Counters may be right where the tokens went to somebody else."""
    said = _judged(at)

    assert said.verdict is Verdict.FAIL
    assert "events a second" in said.says


def test_traffic_that_is_not_dns_must_be_counted_as_such() -> None:
    """Whoever takes the token before looking at the port refuses what is none of its business."""
    said = _judged(beside=_BESIDE - 5)

    assert said.verdict is Verdict.FAIL
    assert said.says == "of 20000 datagrams to other ports it counted 19995"


def test_more_questions_than_were_sent_fail() -> None:
    """Other traffic that is counted as rate_limited has matched."""
    said = _judged(matched=_MATCHED + 1)

    assert (said.verdict, said.says) == (Verdict.FAIL, "of 70000 questions it matched 70001")


def test_no_event_fails() -> None:
    """Nothing is within every limit."""
    assert _judged([]).says == "70000 questions, no event"


def test_one_event_over_the_bound_fails() -> None:
    """1,101 in a second."""
    at = sorted(
        [*limiters.windows(_FAST, [100] * 10), *(_FAST.start_ns - 1 - i for i in range(101))]
    )

    assert _judged(at).says == "1101 events in one second, at most 1100 are agreed"


def test_more_in_all_than_the_time_allows_fails() -> None:
    """1,100 in every second is within the bound of each, and 10 % over the limit for ever."""
    long = Span(start_ns=_PLANNED.start_ns, end_ns=_PLANNED.start_ns + 5 * NS_PER_S)

    said = _judged(limiters.even(long, 1099))

    assert said.verdict is Verdict.FAIL
    assert said.says.endswith("at most 5200 are agreed")


@pytest.mark.parametrize(
    "changes", [{"sample_n": 1}, {"sample_threshold": 0}, {"rate_limit": 0},
                {"max_events_any_second": 4400}], ids=str,
)  # fmt: skip
def test_other_settings_than_those_asked_for_fail(changes: dict[str, int]) -> None:
    """An observer that is ready with something else is judged for that."""
    said = _judged(says=ready(**{"sample_n": 10, "sample_threshold": 1000, **changes}))

    assert said.verdict is Verdict.FAIL
    assert said.says.startswith("it ")


def test_a_machine_too_slow_for_the_limiter_is_unknown() -> None:
    """19,990 a second leave 1,999 for a limit of 1,000: the sample was judged, the limit not."""
    said = _judged(sent=_sent(fast_per_s=19_990))

    assert said.verdict is Verdict.UNKNOWN
    assert said.says.startswith("as fast as possible: 1999 datagrams a second reached the limiter")


def test_a_planned_load_that_was_not_reached_is_unknown() -> None:
    """Below twice the threshold the sample may have been off."""
    sent = _sent()
    slow = replace(sent, loads=(replace(sent.loads[0], per_s=1_500), sent.loads[1]))

    said = _judged(sent=slow)

    assert said.verdict is Verdict.UNKNOWN
    assert "1500 datagrams a second were sent" in said.says


def test_a_full_ring_is_unknown() -> None:
    """What was admitted and lost has no time stamp."""
    assert _judged(ring_full=3).verdict is Verdict.UNKNOWN


def test_a_pause_lets_the_sample_start_late_again() -> None:
    """Each 100 ms without load lets the next hundred datagrams through unsampled."""
    paused = [
        *limiters.windows(_PLANNED, [96] * 10),
        *limiters.windows(_FAST, [0, 0, 0, *[100] * 7]),
    ]
    usual, late = _judged().kept, _judged(paused).kept

    assert usual is not None
    assert late is not None
    assert 2 * 250 < late.high - usual.high < 2 * 310
    assert late.low == usual.low


@pytest.mark.parametrize("empty", [6, 8, 9])
def test_a_flood_that_catches_up_after_a_stall_is_no_failure(empty: int) -> None:
    """10,000 were sent on the average, all of them in the windows that were left."""
    held = [0] * empty + [96] * (10 - empty)
    at = [*limiters.windows(_PLANNED, held), *limiters.windows(_FAST, [100] * 10)]

    said = _judged(at)

    assert said.verdict is Verdict.UNKNOWN
    assert said.says.startswith(f"as planned: {sum(held)} events a second of 1000 in the sample")
    assert "but it is silent for 0." in said.says


def test_a_planned_load_that_was_never_seen_sending_is_unknown() -> None:
    """Green would be without evidence."""
    sent = _sent()

    said = _judged(sent=replace(sent, loads=(replace(sent.loads[0], span=None), sent.loads[1])))

    assert (said.verdict, said.says) == (
        Verdict.UNKNOWN, "as planned: the generator sent for too short a time",
    )  # fmt: skip


def _planned_at(at: list[int]) -> Offered:
    """The planned load was sent at these times for certain."""
    sent = _sent()
    return replace(sent, loads=(replace(sent.loads[0], sends=limiters.sends(at)), sent.loads[1]))


def test_a_silence_that_the_flood_did_not_have_fails() -> None:
    """It sent evenly, and six of ten windows are empty."""
    at = [*limiters.windows(_PLANNED, [0] * 6 + [96] * 4), *limiters.windows(_FAST, [100] * 10)]

    said = _judged(at, sent=_planned_at(limiters.even(_PLANNED, 10_000)))

    assert said.verdict is Verdict.FAIL
    assert said.says.endswith("of what was sent for certain")


@pytest.mark.parametrize("empty", [6, 8, 9, 10])
def test_a_flood_that_caught_up_for_certain_is_no_failure(empty: int) -> None:
    """It sent nothing at first, then all in the windows that were left."""
    held = [0] * empty + [96] * (10 - empty)
    at = [*limiters.windows(_PLANNED, held), *limiters.windows(_FAST, [100] * 10)]
    late = replace(_PLANNED, start_ns=_PLANNED.start_ns + empty * limiters.WINDOW_NS)

    said = _judged(at, sent=_planned_at(limiters.even(late, 10_000)))

    assert said.verdict is Verdict.UNKNOWN
    assert said.says.startswith("as planned: ")


def test_a_start_may_cost_two_windows() -> None:
    """A hundred at the very end of one window, and the next hundred: none of them is sampled.

    The start, and the empty bin after the end; two CPUs.
    """
    unsampled = 2 * 2 * 102
    by_chance = binomial.interval(_MATCHED - unsampled, 1 / 10, 1e-5)[1]

    kept = _judged().kept

    assert kept is not None
    assert kept.high == by_chance + unsampled


def test_the_answer_names_sample_and_worst_second() -> None:
    """The first figure is what the table shows."""
    said = both.answer(_judged(), asked_per_s=10_000, emulated=True, evidence=())

    assert said.verdict is Verdict.PASS
    assert said.summary.startswith("7100 of 70000 in the sample (")
    assert (said.figures[0].name, said.figures[0].limit) == ("events in any second", 1100.0)
    failed = both.answer(_judged([]), asked_per_s=10_000, emulated=True, evidence=())
    assert (failed.verdict, failed.cause) == (Verdict.FAIL, Cause.BEHAVIOUR)
    doubtful = both.answer(_judged(ring_full=3), asked_per_s=10_000, emulated=True, evidence=())
    assert (doubtful.verdict, doubtful.cause) == (Verdict.UNKNOWN, Cause.INFRA)


def test_a_pass_says_what_was_not_reached_and_what_was_wrong_at_first() -> None:
    """What a green cell rests on is not to be looked for in the figures."""
    judged = replace(_judged(), at_first="as planned: 1500 datagrams a second were sent")

    said = both.answer(judged, asked_per_s=12_000, emulated=True, evidence=())

    assert said.summary.endswith(
        "; as planned reached 10,000 of 12,000/s"
        "; at first: as planned: 1500 datagrams a second were sent"
    )
