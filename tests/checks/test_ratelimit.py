# SPDX-License-Identifier: Apache-2.0
"""What a limiter did under load, judged by the time stamps of its events: each way to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.checks import offered, ratelimit
from harness.checks.observer import Ready
from harness.checks.offered import Load, Offered
from harness.checks.timeline import NS_PER_S, Sends, Span
from harness.errors import HarnessError
from harness.results import Cause, Verdict
from harness.subject import Traffic
from tests.checks import limiters
from tests.checks.limiters import ready, seen

_TRAFFIC = Traffic()
_SPAN = Span(start_ns=10 * NS_PER_S, end_ns=12 * NS_PER_S)
_DNSPERF = """cpus 2
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
Udp: 40 0 0 100 0 0
before 7.25
DNS Performance Testing Tool

  Queries sent:         9000
  Queries completed:    8900 (98.89%)
  Queries lost:         100 (1.11%)
  Run time (s):         2.500000
  Queries per second:   3560.000000
after 9.85
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
Udp: 17000 0 90 18048 90 2
"""


def sent(per_s: float = 20_000, span: Span | None = _SPAN) -> Offered:
    """One generator that sent all the time."""
    count = int(per_s * _SPAN.seconds)
    return Offered(cpus=2, loads=(Load(name="all CPUs", matched=count, per_s=per_s, span=span),))


def sending(at: Sequence[int]) -> Offered:
    """20,000 a second, of which the generator knows when it sent these."""
    (load,) = sent().loads
    return replace(sent(), loads=(replace(load, sends=limiters.sends(at)),))


def judged(
    at: Sequence[int], *, per_s: float = 20_000, says: Ready | None = None
) -> ratelimit.Judged:
    load = sent(per_s)
    return ratelimit.judge(seen(at, matched=load.matched, says=says), load, _TRAFFIC, "xadd")


def test_windows_that_are_full_pass() -> None:
    """1,000 a second and 1,100 in the worst second: what windows of 100 ms are designed to do."""
    early = limiters.windows(
        replace(_SPAN, start_ns=_SPAN.start_ns - limiters.WINDOW_NS), [0, *[100] * 20]
    )
    late = [_SPAN.start_ns - 1 - i for i in range(100)]  # the end of the window before

    said = judged(sorted(late + early))

    assert (said.verdict, said.says) == (Verdict.PASS, "")
    assert said.drawn is not None
    assert said.drawn.max_in_a_second == 1100


def test_one_event_over_the_bound_fails() -> None:
    """1,101 in a second: the bound has no tolerance."""
    at = limiters.windows(_SPAN, [100] * 20)

    said = judged(sorted(at + [_SPAN.start_ns - 1 - i for i in range(101)]))

    assert said.verdict is Verdict.FAIL
    assert said.says == "1101 events in one second, at most 1100 are agreed"


def test_a_limiter_for_each_cpu_fails() -> None:
    """3,900 a second of four CPUs, each of which keeps its own limit."""
    said = judged(limiters.even(_SPAN, 3900))

    assert said.verdict is Verdict.FAIL
    assert said.says.startswith("3900 events in one second")


@pytest.mark.parametrize("limiter", ["xadd", "gcra"])
def test_a_lost_remainder_fails_the_mean(limiter: str) -> None:
    """931 a second never exceeds anything: only the mean tells."""
    load = sent()
    observed = seen(limiters.even(_SPAN, 931), matched=load.matched, says=ready(limiter=limiter))

    said = ratelimit.judge(observed, load, _TRAFFIC, limiter)

    assert said.verdict is Verdict.FAIL
    assert "all CPUs: 93" in said.says
    assert "are promised" in said.says


def test_a_mean_over_the_limit_fails_though_no_second_is() -> None:
    """1,050 a second for ever is within the bound of any one second."""
    said = judged(limiters.windows(_SPAN, [105] * 20))

    assert said.verdict is Verdict.FAIL
    assert said.says == "all CPUs: 1050.0 events a second, at most 1000.0 are agreed"


def test_no_event_at_all_fails() -> None:
    """An observer that is silent keeps every limit."""
    said = judged([])

    assert (said.verdict, said.says) == (Verdict.FAIL, "40000 datagrams, no event")


def test_too_little_offered_is_unknown_and_says_how_much() -> None:
    """1,999 a second of a limit of 1,000: a passing verdict would be luck."""
    said = judged(limiters.windows(_SPAN, [100] * 20), per_s=1999)

    assert said.verdict is Verdict.UNKNOWN
    assert (
        said.says
        == "all CPUs: 1999 datagrams a second reached the limiter, 2000 are needed to judge it"
    )


@pytest.mark.parametrize(
    "span",
    [None, replace(_SPAN, end_ns=_SPAN.start_ns + 4 * limiters.WINDOW_NS)],
    ids=["none", "short"],
)
def test_a_generator_that_was_not_seen_sending_is_unknown(span: Span | None) -> None:
    """A mean over four windows is none."""
    load = sent(span=span)

    said = ratelimit.judge(
        seen(limiters.windows(_SPAN, [100] * 20), matched=load.matched), load, _TRAFFIC, "xadd"
    )

    assert said.verdict is Verdict.UNKNOWN
    assert "too short a time" in said.says


def test_a_machine_that_stood_still_is_unknown() -> None:
    """Two windows without anything: nobody knows whether something was offered."""
    said = judged(limiters.windows(_SPAN, [*[100] * 8, 0, 0, *[100] * 10]))

    assert said.verdict is Verdict.UNKNOWN
    assert said.says == (
        "all CPUs: 900.0 events a second, 990.0 are promised, but 1000.0 without silences"
    )


@pytest.mark.parametrize("limiter", ["xadd", "gcra"])
def test_a_limiter_that_loses_whole_windows_fails(limiter: str) -> None:
    """The generator was sending: the silence is nobody else's."""
    load = sending(limiters.offered(_SPAN))
    at = limiters.windows(_SPAN, [*[100] * 8, 0, 0, *[100] * 10])

    said = ratelimit.judge(
        seen(at, matched=load.matched, says=ready(limiter=limiter)), load, _TRAFFIC, limiter
    )

    assert said.verdict is Verdict.FAIL
    assert "events a second, 9" in said.says
    assert said.says.endswith("of what was sent for certain")


@pytest.mark.parametrize(
    "held", [[100] * 8 + [0, 0] + [100] * 10, [30] * 12 + [100] * 8, [0] * 15 + [100] * 5],
    ids=["two", "starved", "most"],
)  # fmt: skip
def test_a_generator_that_stood_still_too_is_unknown(held: list[int]) -> None:
    """What was not sent cannot come, in however many windows: a machine never fails."""
    at = limiters.windows(_SPAN, held)
    load = sending(at)

    said = ratelimit.judge(seen(at, matched=load.matched), load, _TRAFFIC, "xadd")

    assert said.verdict is Verdict.UNKNOWN
    assert said.says.endswith("of what was sent for certain")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"limiter": "gcra"}, "limiter 'gcra', not 'xadd'"),
        ({"rate_limit": 500}, "rate_limit 500, not 1000"),
        ({"rate_burst": 10}, "rate_burst 10, not 100"),
        ({"sample_n": 10}, "sample_n 10, not 1"),
        (
            {"max_events_any_second": 1101},
            "it announces 1101 for any second, 1100 events are agreed",
        ),
        ({"max_events_any_second": None}, "it announces no limit"),
    ],
    ids=["limiter", "limit", "burst", "sample", "bound", "no bound"],
)
def test_an_observer_cannot_excuse_itself_by_what_it_announces(
    changes: dict[str, object], says: str
) -> None:
    """Its own line is held against what was asked for, whatever its events are."""
    said = judged(limiters.windows(_SPAN, [100] * 20), says=ready(**changes))

    assert said.verdict is Verdict.FAIL
    assert says in said.says


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_datagram_that_was_not_counted_once_fails(difference: int) -> None:
    """The generator's count and the observer's are equal, not close."""
    load = sent()
    observed = seen(limiters.windows(_SPAN, [100] * 20), matched=load.matched + difference)

    said = ratelimit.judge(observed, load, _TRAFFIC, "xadd")

    assert said.verdict is Verdict.FAIL
    assert said.says.startswith(f"of 40000 datagrams it matched {40000 + difference}")


def test_sampling_that_was_not_switched_off_fails() -> None:
    """With a sample the limiter would not have been loaded as we say."""
    load = sent()
    observed = seen(limiters.windows(_SPAN, [100] * 20), matched=load.matched, sampled_out=1)

    assert ratelimit.judge(observed, load, _TRAFFIC, "xadd").verdict is Verdict.FAIL


def test_a_full_ring_is_unknown() -> None:
    """Events that were admitted and lost are missing from the time stamps."""
    load = sent()
    observed = seen(limiters.windows(_SPAN, [90] * 20), matched=load.matched, ring_full=200)

    said = ratelimit.judge(observed, load, _TRAFFIC, "xadd")

    assert said.verdict is Verdict.UNKNOWN
    assert said.says.startswith("200 admitted events found no room")


def test_an_observer_that_does_not_account_fails() -> None:
    """The conservation law comes before everything that is computed from the counters."""
    load = sent()
    observed = seen(limiters.windows(_SPAN, [100] * 20), matched=load.matched)

    said = ratelimit.judge(replace(observed, events=observed.events[1:]), load, _TRAFFIC, "xadd")

    assert said.verdict is Verdict.FAIL
    assert said.says == "2000 events received, but 1999 written"


def test_an_event_without_a_time_stamp_is_no_event() -> None:
    """Leaving it out would make every window smaller."""
    observed = seen([1, 2], matched=2)

    with pytest.raises(HarnessError, match="1 events carry no time stamp"):
        ratelimit.event_times(replace(observed, events=({"ts_ns": 1}, {"ts_ns": None})))


def test_the_answer_says_the_worst_second_and_every_mean() -> None:
    """The first figure is what the table shows."""
    good = judged(limiters.windows(_SPAN, [100] * 20))
    bad = judged(limiters.even(_SPAN, 3900))

    said = ratelimit.answer(
        {"xadd": good, "gcra": bad}, asked_per_s=10_000, emulated=True, evidence=()
    )

    assert (said.verdict, said.cause) == (Verdict.FAIL, Cause.BEHAVIOUR)
    assert said.summary == "gcra: 3900 events in one second, at most 1100 are agreed"
    first = said.figures[0]
    assert (first.name, first.value, first.limit) == ("events in any second", 3900.0, 1100.0)
    assert ("mean: xadd, all CPUs", 1000.0) in [(one.name, one.value) for one in said.figures]
    assert all(one.emulated for one in said.figures if one.unit == "1/s")
    passed = ratelimit.answer({"xadd": good}, asked_per_s=10_000, emulated=False, evidence=())
    assert (passed.verdict, passed.summary) == (
        Verdict.PASS,
        "1000 to 1000 events a second under xadd",
    )


def test_a_mean_stands_under_the_load_that_it_is_of() -> None:
    """The first load could not be judged: the figures are the second one's."""
    at = limiters.windows(_SPAN, [100] * 20)
    loads = (Load(name="all CPUs", matched=0, per_s=10, span=_SPAN), *sent().loads)
    both = Offered(cpus=2, loads=(loads[0], replace(loads[1], name="one CPU")))

    judged = ratelimit.judge(seen(at, matched=both.matched), both, _TRAFFIC, "xadd")
    said = ratelimit.answer({"xadd": judged}, asked_per_s=10_000, emulated=True, evidence=())

    figures = {one.name: one.value for one in said.figures}
    assert said.verdict is Verdict.UNKNOWN
    assert figures["mean: xadd, one CPU"] == 1000
    assert figures["offered: xadd, one CPU"] == 20_000
    assert "mean: xadd, all CPUs" not in figures


@pytest.mark.parametrize(
    ("per_s", "words"),
    [(3_524, "; dnsperf reached 3,524 of 10,000/s"), (9_600, "")], ids=["short", "near enough"],
)  # fmt: skip
def test_a_pass_says_which_rate_dnsperf_did_not_reach(per_s: float, words: str) -> None:
    """Twice the limit is enough to judge by, and not what the plan asks for."""
    slow = Offered(cpus=2, loads=(replace(sent().loads[0], name="dnsperf", per_s=per_s),))
    good = judged(limiters.windows(_SPAN, [100] * 20))
    runs = {"dnsperf": replace(good, sent=slow), "xadd": good}

    said = ratelimit.answer(runs, asked_per_s=10_000, emulated=True, evidence=())

    assert said.summary == f"1000 to 1000 events a second under dnsperf, xadd{words}"


def test_a_pass_at_the_second_try_says_what_was_wrong_at_first() -> None:
    """A limiter that sometimes loses a window would be green without a word."""
    good = replace(judged(limiters.windows(_SPAN, [100] * 20)), at_first="xadd: 900.0 of 990.0")

    said = ratelimit.answer({"xadd": good}, asked_per_s=10_000, emulated=True, evidence=())

    assert said.verdict is Verdict.PASS
    assert said.summary.endswith("; xadd at first: xadd: 900.0 of 990.0")


def test_a_limiter_that_could_not_be_asked_about_is_not_left_out() -> None:
    """Green would say that both limiters keep the limit."""
    good = judged(limiters.windows(_SPAN, [100] * 20))

    said = ratelimit.answer({"xadd": good, "gcra": ratelimit.NOT_ASKED}, asked_per_s=10_000,
                            emulated=True, evidence=())  # fmt: skip

    assert said.verdict is Verdict.UNKNOWN
    assert said.summary.startswith("gcra: not asked: whether the kernel has its instruction")


@pytest.mark.parametrize(
    ("first_ns", "start_ns"), [(7_300_000_000, 7_320_000_000), (8_000_000_000, 7_380_000_000)],
    ids=["first event", "end of the run"],
)  # fmt: skip
def test_dnsperf_is_accounted_for_in_both_directions(first_ns: int, start_ns: int) -> None:
    """Its queries and the server's answers, as the kernel counted them between the two copies."""
    read = offered.read_dnsperf(_DNSPERF, 2, first_ns)

    assert read.matched == 17950
    assert (read.cpus, read.queries_per_s) == (2, 3560.0)
    (load,) = read.loads
    assert load.per_s == 9000 / 2
    assert load.span == Span(start_ns=start_ns, end_ns=9_230_000_000)


@pytest.mark.parametrize(
    ("old", "new"),
    [("18048 90 2", "17900 90 0"), ("18048 90 2", "28048 90 2"), ("Queries sent", "Queries"),
     ("cpus 2\n", ""), ("after 9.85\n", ""), ("Udp: 40 0 0 100 0 0\n", "")],
    ids=["answers lost", "a stranger", "no count", "no CPUs", "no end", "one copy"],
)  # fmt: skip
def test_what_does_not_fit_together_is_no_measurement(old: str, new: str) -> None:
    """More received than sent, or more sent than asked and answered: we measured something else."""
    with pytest.raises(HarnessError):
        offered.read_dnsperf(_DNSPERF.replace(old, new), 2, 0)


_FLOODS = """cpus 4
before 5.00
{"type":"flood","label":"x","attempts":60000,"sent":0,"unroutable":60000,"duration_us":1000000}
after 6.10
beside {"type":"flood","attempts":7,"duration_us":1000000}
"""


def test_a_flood_that_says_when_it_sent_is_heard() -> None:
    """As bpf/README.md has it; one that does not is none the worse."""
    told = '"duration_us":1000000,"bin_ns":10000000,"first_bin":513,"bins":[0,7]'

    read = offered.read_floods(
        _FLOODS.replace('"duration_us":1000000', told, 1), ["all"], beside=True
    )

    assert read.loads[0].sends == Sends(bin_ns=10_000_000, first_bin=513, hits=(0, 7))
    assert offered.read_floods(_FLOODS, ["all"], beside=True).loads[0].sends is None


def test_floods_are_read_with_what_ran_beside_them() -> None:
    """Attempts are hits, those that failed for want of a route too."""
    read = offered.read_floods(_FLOODS, ["all"], beside=True)

    assert (read.cpus, read.matched, read.beside) == (4, 60000, 7)
    assert read.loads[0].per_s == 60000
    assert read.loads[0].span == Span(start_ns=5_130_000_000, end_ns=5_980_000_000)


@pytest.mark.parametrize(
    ("output", "names", "beside"),
    [(_FLOODS, ["all"], False), (_FLOODS, ["all", "one"], True), ("", ["all"], False),
     (_FLOODS.replace("attempts", "tries"), ["all"], True)],
    ids=["a stranger", "one is missing", "nothing", "no count"],
)  # fmt: skip
def test_a_flood_that_did_not_say_what_it_sent_is_none(
    output: str, names: list[str], beside: bool
) -> None:
    """Nothing is judged by a generator that did something else than it was told."""
    with pytest.raises(HarnessError):
        offered.read_floods(output, names, beside=beside)
