# SPDX-License-Identifier: Apache-2.0
"""The corpus check: the file is read whole, and each wrong answer to a datagram is named."""

from __future__ import annotations

from pathlib import Path

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checks import compare, corpus
from harness.checks.compare import Status
from harness.checks.corpus import Datagram, Parsed
from harness.checks.observer import CLASSES, Scalar
from harness.errors import HarnessError, UsageError
from tests.bpf import corpus as made


def _read() -> list[Datagram]:
    return corpus.read_corpus(made.PATH.read_text(), made.PATH)


def _seen(datagram: Datagram) -> dict[str, Scalar]:
    """The event of an observer that is right."""
    return dict(corpus.expected(datagram, len(datagram.octets)).events[0])


def _answer(datagram: Datagram) -> Parsed:
    """The answer of a parser program that is right."""
    if datagram.wanted != "event":
        return Parsed(verdict=datagram.wanted)
    return Parsed(
        verdict="plausible", status=datagram.status, name_wire=datagram.name_wire,
        id=int.from_bytes(datagram.octets[:2], "big"),
        flags=int.from_bytes(datagram.octets[2:4], "big"),
        qtype=datagram.qtype or 0, qclass=datagram.qclass or 0,
    )  # fmt: skip


def test_the_project_s_corpus_is_read_as_its_generator_made_it() -> None:
    """Every datagram, octet for octet; the shorthand for zeros must not lose any."""

    assert [(d.case, d.octets) for d in _read()] == made.datagrams()


def test_every_class_of_the_corpus_is_one_that_the_observer_counts() -> None:
    """A class that nobody counts could not move, and its datagrams would never fail."""

    assert {d.wanted for d in _read()} <= {"event", *CLASSES}


def test_the_right_answers_pass_and_no_two_datagrams_are_taken_for_each_other() -> None:
    """Matching is by id and name, over the whole corpus at once."""
    datagrams = _read()
    cases = [corpus.expected(d, len(d.octets)) for d in datagrams]
    events = [_seen(d) for d in reversed(datagrams) if d.wanted == "event"]

    outcomes = compare.judge(cases, {}, events)

    assert [o.case for o in outcomes if o.status is not Status.PASSED] == []
    assert len(outcomes) == len(datagrams)


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", "truncated"), ("name_wire", "00"), ("qtype", 0), ("payload", "00"), ("flags", 0),
     ("qdcount", 9), ("captured", 1), ("len", 1), ("direction", "response")],
)  # fmt: skip
def test_a_field_that_differs_from_the_reference_fails(field: str, value: Scalar) -> None:
    """Byte for byte: no field of an event may be off."""
    datagram = next(d for d in _read() if d.case == "mixed_case")
    event = _seen(datagram) | {field: value}

    (outcome,) = compare.judge([corpus.expected(datagram, 1)], {}, [event])

    assert outcome.status is Status.FAILED
    assert outcome.differences[0].startswith(f"{field} is {value!r}, not ")


@pytest.mark.parametrize("case", ["root", "name_256", "pointer_chain", "cut_11", "cut_17"])
def test_the_parser_program_is_held_to_the_same_answers(case: str) -> None:
    """Right passes; another verdict, status or name does not; no answer is a failure."""
    datagram = next(d for d in _read() if d.case == case)
    right = _answer(datagram)

    outcomes = [
        corpus.parse_outcome(datagram, answer).status
        for answer in (
            right,
            None,
            Parsed(verdict="malformed"),
            Parsed(verdict="plausible", status="bad_label", name_wire=right.name_wire,
                   id=right.id, flags=right.flags),
            Parsed(verdict=None),
        )
    ]  # fmt: skip

    assert outcomes == [Status.PASSED, *[Status.FAILED] * 4]


def test_a_datagram_beyond_a_page_is_not_asked_of_the_parser_program() -> None:
    """BPF_PROG_TEST_RUN takes one page; the hook is asked about it all the same."""
    large = next(d for d in _read() if d.case == "size_65507")

    assert corpus.parse_outcome(large, None).status is Status.UNSUPPORTED


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "a event ok 1 1 00\n", "a event ok x 1 00 00\n", "a event ok 1 1 00 zz\n",
     "a event ok 1 1 00 00*y\n", "a not_dns - - - - 00\n"],
    ids=["empty", "comment", "short", "type", "hex", "size", "no event"],
)  # fmt: skip
def test_a_corpus_that_is_none_is_refused_with_its_line(text: str) -> None:
    """A typing error in the corpus must not pass as fewer datagrams."""
    with pytest.raises(UsageError, match=r"somewhere\.txt"):
        corpus.read_corpus(text, Path("somewhere.txt"))


def test_counters_that_were_not_read_are_our_failure() -> None:
    """Each class's datagrams need the counters before and after them."""
    with pytest.raises(HarnessError, match="the counters were read 0 times, not 2"):
        corpus.read_output("", ["event"])


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=4).filter(
        lambda labels: sum(map(len, labels)) + len(labels) < 255
    )
)
def test_the_text_of_a_name_is_dnspython_s(labels: list[bytes]) -> None:
    """An independent writer of RFC 1035's escapes agrees on every octet."""
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"

    assert compare.presentation(wire) == dns.name.Name([*labels, b""]).to_text()
