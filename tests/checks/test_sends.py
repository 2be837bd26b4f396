# SPDX-License-Identifier: Apache-2.0
"""The send matrix is judged case by case: recorded runs pass, and each way to be wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from harness.checks import sends
from harness.checks.compare import Outcome, Status
from harness.checks.observer import Event, Observed
from harness.checks.sends import Matrix
from harness.errors import HarnessError
from tests.checks import recorded

Tamper = Callable[[Observed, Matrix], tuple[Observed, Matrix]]


def _judge(seen: Observed, matrix: Matrix) -> tuple[list[Outcome], list[str]]:
    return sends.judge(matrix, seen, recorded.label(matrix))


def _each(seen: Observed, change: Callable[[int, Event], list[Event]]) -> Observed:
    """The events, each replaced by what `change` makes of it."""
    return replace(
        seen, events=tuple(e for n, old in enumerate(seen.events) for e in change(n, old))
    )


def _first(change: Callable[[Event], list[Event]]) -> Tamper:
    return lambda seen, matrix: (_each(seen, lambda n, e: change(e) if n == 0 else [e]), matrix)


def _set(key: str, value: object) -> Tamper:
    return _first(lambda event: [{**event, key: value}])  # type: ignore[dict-item]


def _moved(case: str, **classes: int) -> Tamper:
    def change(seen: Observed, matrix: Matrix) -> tuple[Observed, Matrix]:
        moved = {**matrix.moved, case: {**matrix.moved[case], **classes}}
        return seen, replace(matrix, moved=moved)

    return change


def _totals(**values: int) -> Tamper:
    def change(seen: Observed, matrix: Matrix) -> tuple[Observed, Matrix]:
        assert seen.stats is not None
        return replace(seen, stats=msgspec.structs.replace(seen.stats, **values)), matrix

    return change


@pytest.mark.parametrize("kernel", recorded.KERNELS)
def test_a_recorded_run_passes_in_every_case(kernel: str) -> None:
    """Oldest and newest kernel: what real observers said equals what real sends were."""
    matrix = recorded.matrix(kernel)

    outcomes, account = _judge(recorded.observed(f"{kernel}-sends"), matrix)

    assert account == []
    assert [o.case for o in outcomes if o.status is Status.FAILED] == []
    assert [o.case for o in outcomes] == [case.case for case in matrix.cases]
    assert sum(o.status is Status.PASSED for o in outcomes) >= 48


def test_a_case_that_the_kernel_has_not_keeps_the_words_of_the_probe() -> None:
    """ "unsupported" is only believed with what was asked and what the kernel answered."""
    outcomes, _ = _judge(recorded.observed("7.3-newest-sends"), recorded.matrix("7.3-newest"))

    said = {o.case: o.expected for o in outcomes if o.status is Status.UNSUPPORTED}
    assert said == {"udp_lite": "socket(IPPROTO_UDPLITE): EPROTONOSUPPORT"}


@pytest.mark.parametrize(
    ("tamper", "case", "says"),
    [
        (_first(lambda event: []), "sendto_v4", "not seen"),
        (_first(lambda event: [event, event]), "sendto_v4", "seen 2 times"),
        (_set("name_wire", "0474657374" + "00"), "sendto_v4", "name_wire is '047465737400', not"),
        (_set("daddr", "0.0.0.0"), "sendto_v4", "daddr is '0.0.0.0', not '127.0.0.1'"),
        (_set("dport", 0), "sendto_v4", "dport is 0, not 53"),
        (_set("qtype", 1), "sendto_v4", "qtype is 1, not 28"),
        (_set("connected", True), "sendto_v4", "connected is True, not False"),
        (_set("connected", 0), "sendto_v4", "connected is 0, not False"),
        (_set("pid", 1), "sendto_v4", "pid is 1, not"),
        (_set("comm", "sh"), "sendto_v4", "comm is 'sh', not 'senddrv'"),
        (_set("netns", 0), "sendto_v4", "netns is 0, not"),
        (_set("captured", 0), "sendto_v4", "captured is 0, not 42"),
        (_set("id", 1), "(nothing else)", "an event that nobody sent: query for"),
        (_moved("splice", kernel_pages=0, fault=1), "splice", "class fault moved by 1, not by 0"),
        (_moved("raw_socket", other_port=1), "raw_socket", "class other_port moved by 1, not by 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_with_its_case(tamper: Tamper, case: str, says: str) -> None:
    """A person must see at once which way of sending is read wrongly, and how."""
    seen, matrix = tamper(recorded.observed("7.3-newest-sends"), recorded.matrix("7.3-newest"))

    outcomes, _ = _judge(seen, matrix)

    failed = {o.case: o.differences for o in outcomes if o.status is Status.FAILED}
    assert any(text.startswith(says) for text in failed[case])


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (_totals(hits=1), "1 hits, but"),
        (_totals(received=1), "events submitted, but 1 received"),
        (_totals(perf_lost=1), "1 events reported lost, but 0 counted so"),
        (_totals(short_records=1), "1 records shorter than they say"),
        (_totals(corked=0, other_port=99), "in all: class other_port moved by 99, not by"),
        (_first(lambda event: []), "events received, but"),
        (_set("cpu_submitted", 7), "cpu_submitted is 7, not 0"),
        (_set("sample_n", 10), "sample_n is 10, not 1"),
        (_set("name", "test.cluster.local."), "name is 'test.cluster.local.', not"),
        (_set("ts_ns", 2**63), "ts_ns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_account_that_does_not_add_up_fails(tamper: Tamper, says: str) -> None:
    """Every hit ends in one class and every submitted event arrives: nothing lost in silence."""
    seen, matrix = tamper(recorded.observed("7.3-newest-sends"), recorded.matrix("7.3-newest"))

    _, account = _judge(seen, matrix)

    assert any(says in text for text in account)


def test_an_observer_that_calls_everything_by_one_name_fails_every_event() -> None:
    """As the observer before this one did: the names are of this run, and no constant is."""
    seen = _each(
        recorded.observed("5.10-oldest-sends"),
        lambda n, e: [{**e, "name_wire": "047465737400", "name": "test."}],
    )
    matrix = recorded.matrix("5.10-oldest")

    outcomes, _ = _judge(seen, matrix)

    failed = {o.case for o in outcomes if o.status is Status.FAILED}
    assert failed == {case.case for case in matrix.cases if case.events}


def test_only_io_uring_may_send_from_another_thread() -> None:
    """Its polling thread has the driver's pid and a name and an id of its own."""
    seen = recorded.observed("7.3-newest-sends")
    polled = [e for e in seen.events if str(e["comm"]).startswith("iou-")]

    assert polled
    assert all(e["process"] == "senddrv" and e["tid"] != e["pid"] for e in polled)


def test_names_without_the_run_s_label_are_no_evidence() -> None:
    """A driver that sent constants would let an observer pass that knows them."""
    matrix = recorded.matrix("7.3-newest")

    with pytest.raises(HarnessError, match="does not use the label given"):
        sends.judge(matrix, recorded.observed("7.3-newest-sends"), "0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "sent nothing that must be seen"),
        ('{"type":"netns","inode":1}\n', "sent nothing that must be seen"),
        ("Segmentation fault\n", "the driver's line 'Segmentation fault' is none"),
        ('{"type":"flood"}\n', "a line that the driver must not write"),
        ('{"type":"case","case":"a"}\n', "is none"),
        (2 * '{"type":"case","case":"a","expect":"event"}\n', "two cases 'a'"),
    ],
    ids=["nothing", "no case", "torn", "another line", "half a case", "twice"],
)
def test_a_driver_that_did_not_do_its_part_is_our_failure(text: str, says: str) -> None:
    """It tells nothing of the subject: unknown, never a pass and never its fault."""
    with pytest.raises(HarnessError, match=says):
        sends.read_matrix(text)


def test_a_case_without_counters_after_it_is_our_failure() -> None:
    """Counters that were not read would make a class look right."""
    lines = (recorded.RECORDED / "7.3-newest-sends-cases.jsonl").read_text().splitlines()

    with pytest.raises(HarnessError, match="no counters were read after the case 'msg_zerocopy'"):
        sends.read_matrix("\n".join(lines[:-1]))
