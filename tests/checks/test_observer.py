# SPDX-License-Identifier: Apache-2.0
"""An observer that does not start, end or speak as it must is told apart from one that is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.checks import function, observer
from harness.checks.observer import Event, Observed
from harness.results import Cause, Verdict
from tests.checks import recorded

_NAME = "dbe2ff3a00f8b80f.test"  # asked for when the lines were recorded


def _seen() -> Observed:
    return recorded.observed("7.3-newest-function")


def _with(**changes: object) -> Observed:
    """The recorded run with the query's fields changed."""
    seen = _seen()
    query: Event = {**seen.events[0], **changes}  # type: ignore[dict-item]
    return replace(seen, events=(query, *seen.events[1:]))


def test_recorded_lines_are_read_whole() -> None:
    """ready, two events, stats; nothing left over."""
    seen = _seen()

    assert seen.ready is not None
    assert (seen.ready.buffer, seen.ready.limiter) == ("ringbuf", "gcra")
    assert len(seen.events) == 2
    assert seen.stats is not None
    assert seen.stats.submitted == seen.stats.received == 2
    assert seen.unreadable == ()
    assert observer.wrong_with(seen) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ready": None, "observer_status": 1, "observer_error": "no BTF"},
         "the observer did not start (status 1): no BTF"),
        ({"observer_status": 137}, "had to be killed after SIGTERM"),
        ({"observer_status": 139, "observer_error": "oh"}, "the observer ended with status 139: oh"),
        ({"unreadable": ("{torn",)}, "a line that is none of the observer's: {torn"),
        ({"stats": None}, "the observer wrote no totals"),
    ],
    ids=["not started", "killed", "status", "unreadable", "no totals"],
)  # fmt: skip
def test_an_observer_that_misbehaves_fails_with_its_own_words(
    changes: dict[str, object], says: str
) -> None:
    """The verdict is the subject's, and a person reads why without a log."""
    result = observer.failed("sends", replace(_seen(), **changes))  # type: ignore[arg-type]

    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.BEHAVIOUR)
    assert says in result.summary


@pytest.mark.parametrize(
    "line",
    [b"{", b'{"type":"event","name":', b"[]", b'{"type":"hello"}', b'{"type":"stats","hits":1}',
     b"\xff\xfe"],
)  # fmt: skip
def test_a_line_that_is_none_is_kept_not_skipped(line: bytes) -> None:
    """A torn line may have been an event: silence would lose it."""
    *_, unreadable = observer.read_lines(line + b"\n")

    assert len(unreadable) == 1


def test_the_recorded_exchange_passes() -> None:
    """One question of dnsperf, one answer of nsd."""
    result = function.judged(_NAME, _seen())

    assert (result.verdict, result.summary) == (Verdict.PASS, "seen through the ringbuf")
    assert [figure.value for figure in result.figures] == [1.0]


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (_with(name="test.cluster.local.", name_wire="0474657374"), "was not seen; seen: test.cl"),
        (_with(qtype=28), "qtype is 28, not 1"),
        (_with(daddr="0.0.0.0"), "daddr is '0.0.0.0'"),
        (_with(process="sh"), "process is 'sh', not 'dnsperf'"),
        (_with(sport=1), "answer: dport is"),
        (_with(cpu_ring_full=1), "cpu_ring_full is 1, not 0"),
        (replace(_seen(), events=_seen().events[:1]), "2 events received, but 1 written"),
        (replace(_seen(), events=(*_seen().events, _seen().events[0])), "2 events received, but 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_exchange_that_was_seen_wrongly_fails(seen: Observed, says: str) -> None:
    """Name, type, addresses, sender and account: each of them alone decides."""
    result = function.judged(_NAME, seen)

    assert result.verdict is Verdict.FAIL
    assert says in result.summary


def test_an_observer_that_says_why_it_gave_up_is_taken_at_its_word() -> None:
    """A kernel without BTF is not a wrong behaviour of the observer; the reason is told whole."""
    line = (
        '{"type":"error","cause":"btf-missing","message":"this kernel has no BTF",'
        '"hint":"give one with --btf"}'
    )
    seen = replace(
        _seen(), ready=None, observer_status=1, observer_error=f"libbpf: noise\n{line}\n"
    )

    answer = observer.failed("sends", seen)

    assert (answer.verdict, answer.cause) == (Verdict.FAIL, Cause.BTF_MISSING)
    assert answer.summary == "the observer did not start (status 1): this kernel has no BTF"
    assert answer.remedy == "give one with --btf"
