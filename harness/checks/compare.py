# SPDX-License-Identifier: Apache-2.0
"""What was sent against what was seen, case by case. Pure: lines in, outcomes out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from harness.checks.observer import CLASSES, Event, Scalar

_SPECIAL = b'"().;\\@$'  # escaped in a master file (RFC 1035 section 5.1)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A case of the send driver: what it sent and what must be made of it."""

    case: str
    expect: str  # "event", "class", "nothing" or "unsupported"
    events: tuple[dict[str, Scalar], ...] = ()  # the fields that an event must have
    classes: dict[str, int] = {}  # every hook hit of the case
    result: int | None = None  # of the system call
    errno: str | None = None
    probe: str = ""  # of an unsupported case: what was asked


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"  # this kernel has no such way to send


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A case, and each difference in words."""

    case: str
    status: Status
    expected: str
    differences: tuple[str, ...] = ()


def judge(
    cases: Sequence[Case], moved: Mapping[str, Mapping[str, int]], events: Sequence[Event]
) -> list[Outcome]:
    """An outcome for each case, and one for events that no case accounts for.

    moved: by how much each class moved, by the case's name; cases that are not in it are judged
    by their events alone.
    """
    found = _assigned(cases, events)
    outcomes: list[Outcome] = []
    for case in cases:
        wrong: list[str] = []
        for number, fields in enumerate(case.events):
            which = f"event {number + 1}: " if len(case.events) > 1 else ""
            wrong += [which + text for text in _seen(fields, found.of[case.case, number])]
        if case.case in moved:
            wrong += class_differences(case.classes, moved[case.case])
        outcomes.append(
            Outcome(case=case.case, status=_status(case, wrong), expected=_expected(case),
                    differences=tuple(wrong))
        )  # fmt: skip
    if found.strays:
        words = tuple(f"an event that nobody sent: {_words(event)}" for event in found.strays)
        outcomes.append(
            Outcome(case="(nothing else)", status=Status.FAILED, expected="no other event",
                    differences=words)
        )  # fmt: skip
    return outcomes


def class_differences(expected: Mapping[str, int], moved: Mapping[str, int]) -> list[str]:
    """Classes that did not move by exactly what was expected; those not named by nothing."""
    wrong = [f"'{name}' is no class of the observer" for name in expected if name not in CLASSES]
    for name in CLASSES:
        want, got = expected.get(name, 0), moved.get(name, 0)
        if want != got:
            wrong.append(f"class {name} moved by {got}, not by {want}")
    return wrong


def own_account(events: Iterable[Event]) -> list[str]:
    """Where what the events say of themselves does not fit together.

    Holds with sampling and rate limit off and nothing lost: each CPU numbers its events from 0,
    in the order of their time stamps; the name's text is that of its octets.
    """
    wrong: list[str] = []
    counted: dict[Scalar, int] = defaultdict(int)
    last_ns: dict[Scalar, int] = defaultdict(int)
    for event in events:
        words, cpu, ts_ns = _words(event), event.get("cpu"), event.get("ts_ns")
        wanted: dict[str, Scalar] = {
            "sample_n": 1, "cpu_submitted": counted[cpu], "cpu_sampled_out": 0,
            "cpu_rate_limited": 0, "cpu_ring_full": 0, "segments_cut": False,
            "name": _name_text(event),
        }  # fmt: skip
        wrong += [f"{words}: {text}" for text in field_differences(wanted, event)]
        if not isinstance(ts_ns, int) or ts_ns < last_ns[cpu]:
            wrong.append(f"{words}: ts_ns {ts_ns} is before {last_ns[cpu]} of the event before it")
        else:
            last_ns[cpu] = ts_ns
        counted[cpu] += 1
    return wrong


def field_differences(expected: Mapping[str, Scalar], event: Event) -> list[str]:
    """Fields of `event` that are not as expected, in words."""
    wrong: list[str] = []
    for key, want in expected.items():
        if key not in event:
            wrong.append(f"no {key}")
        elif event[key] != want or type(event[key]) is not type(want):
            wrong.append(f"{key} is {event[key]!r}, not {want!r}")
    return wrong


def presentation(wire: bytes) -> str:
    """The text of a complete wire name, as RFC 1035 section 5.1 writes it, with its final dot."""
    labels: list[str] = []
    at = 0
    while at < len(wire) and wire[at]:
        label = wire[at + 1 : at + 1 + wire[at]]
        labels.append("".join(_octet_text(octet) for octet in label))
        at += 1 + wire[at]
    return ".".join([*labels, ""]) if labels else "."


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes for a person: a line a case, its differences under it."""
    width = max((len(outcome.case) for outcome in outcomes), default=0)
    lines: list[str] = []
    for outcome in outcomes:
        lines.append(f"{outcome.case:<{width}}  {outcome.status:<11}  {outcome.expected}")
        lines += [f"{'':<{width}}    {text}" for text in outcome.differences]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Assigned:
    of: dict[tuple[str, int], list[Event]]  # by case and number of the expected event
    strays: list[Event]


def _assigned(cases: Sequence[Case], events: Sequence[Event]) -> _Assigned:
    """Events to those expected: by id and name, then what is left by its id, to say what is wrong."""
    left = list(events)
    of: dict[tuple[str, int], list[Event]] = defaultdict(list)
    expected = [((c.case, n), fields) for c in cases for n, fields in enumerate(c.events)]
    for keys in (("id", "name_wire"), ("id",)):
        for place, fields in expected:
            if of[place]:
                continue
            mine = [e for e in left if all(e.get(key) == fields.get(key) for key in keys)]
            of[place] = mine
            left = [e for e in left if not any(e is other for other in mine)]
    return _Assigned(of=of, strays=left)


def _seen(fields: Mapping[str, Scalar], events: Sequence[Event]) -> list[str]:
    if not events:
        return ["not seen"]
    if len(events) > 1:
        return [f"seen {len(events)} times"]
    return field_differences(fields, events[0])


def _status(case: Case, wrong: Sequence[str]) -> Status:
    if wrong:
        return Status.FAILED
    return Status.UNSUPPORTED if case.expect == "unsupported" else Status.PASSED


def _expected(case: Case) -> str:
    if case.expect == "unsupported":
        return f"{case.probe}{f': {case.errno}' if case.errno else ''}"
    said = ", ".join(f"{name} {count}" for name, count in case.classes.items()) or "no hit"
    return f"{said}; send: {case.errno or case.result}"


def _words(event: Event) -> str:
    return (
        f"{event.get('direction')} for '{event.get('name') or event.get('name_wire')}' "
        f"id {event.get('id')} from {event.get('process')}"
    )


def _name_text(event: Event) -> Scalar:
    wire = event.get("name_wire")
    if event.get("status") != "ok" or not isinstance(wire, str):
        return None
    try:
        return presentation(bytes.fromhex(wire))
    except ValueError:
        return None


def _octet_text(octet: int) -> str:
    if octet in _SPECIAL:
        return f"\\{octet:c}"
    return chr(octet) if 0x20 < octet < 0x7F else f"\\{octet:03d}"
