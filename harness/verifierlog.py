# SPDX-License-Identifier: Apache-2.0
"""The verifier's figures out of its log, in every form from Linux v4.15 to v7.3.

Kernels print them last, on success and on failure, whenever any log level is set; "stack depth" and
"verification time" only with level 4 (BPF_LOG_STATS), apart from v5.1 and before::

    up to 5.1  processed 42 insns (limit 131072), stack depth 8+96
    5.2-7.0    verification time 17 usec
               stack depth 8+96
               processed 42 insns (limit 1000000) max_states_per_insn 0 total_states 4
                 peak_states 4 mark_read 3                                      (one line)
    7.2        stack depth 8+96 max 112
               insns processed 34+8
    7.3        stack depth max 112
               subprog 1 (f) static insns_self 8 insns_total 8 stack 96         (one a subprogram)
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_PROCESSED = re.compile(
    r"^processed (?P<processed>\d+) insns(?: \(limit (?P<limit>\d+)\))?"
    r"(?:, stack depth (?P<stack>\d+(?:\+\d+)*))?"
    r"(?: max_states_per_insn (?P<max_states>\d+))?(?: total_states (?P<total>\d+))?"
    r"(?: peak_states (?P<peak>\d+))?(?: mark_read (?P<mark_read>\d+))?",
    re.MULTILINE,
)
_TIME = re.compile(r"^verification time (\d+) usec$", re.MULTILINE)
_STACK = re.compile(r"^stack depth (\d+(?:\+\d+)*)?(?: ?max (\d+))?$", re.MULTILINE)
_PARTS = re.compile(r"^insns processed (\d+(?:\+\d+)*)$", re.MULTILINE)
_SUBPROGRAM = re.compile(
    r"^subprog (\d+) \((.*)\) (\w+) insns_self (\d+) insns_total (\d+) stack (\d+)$", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierStats:
    """What the verifier says that a program cost. None: this kernel does not say."""

    processed: int  # instructions followed, over all paths
    limit: int | None = None
    max_states_per_insn: int | None = None
    total_states: int | None = None
    peak_states: int | None = None
    mark_read: int | None = None  # always 0 since v6.18
    verification_us: int | None = None
    stack: tuple[int, ...] = ()  # bytes of each subprogram, the main one first
    # the deepest chain, each subprogram rounded up; since v7.2; 0 of a program that is refused
    stack_max: int | None = None
    parts: tuple[int, ...] = ()  # of `processed`: main and each global function; since v7.2


@dataclass(frozen=True, kw_only=True, slots=True)
class SubprogramStats:
    """One subprogram's share, as v7.3 tells it."""

    name: str
    kind: str  # "main", "static", "global"
    insns_self: int
    insns_total: int  # with what it calls
    stack: int


def parse_verifier_stats(log: str) -> VerifierStats | None:
    """The figures of the last program in `log`; None when it ends before them."""
    found = _last(_PROCESSED, log)
    if found is None:
        return None
    time, stack, parts = _last(_TIME, log), _last(_STACK, log), _last(_PARTS, log)
    subprograms = parse_subprograms(log)
    depths = _numbers(found["stack"] or (stack[1] if stack else None))
    return VerifierStats(
        processed=int(found["processed"]),
        limit=_number(found["limit"]),
        max_states_per_insn=_number(found["max_states"]),
        total_states=_number(found["total"]),
        peak_states=_number(found["peak"]),
        mark_read=_number(found["mark_read"]),
        verification_us=_number(time[1] if time else None),
        stack=depths or tuple(subprogram.stack for subprogram in subprograms),
        stack_max=_number(stack[2] if stack else None),
        parts=_numbers(parts[1] if parts else None)
        or tuple(each.insns_total for each in subprograms if each.kind != "static"),
    )


def parse_subprograms(log: str) -> tuple[SubprogramStats, ...]:
    """Each subprogram of the last program in `log`; empty before v7.3."""
    start = _last(_STACK, log)
    return tuple(
        SubprogramStats(
            name=name,
            kind=kind,
            insns_self=int(insns_self),
            insns_total=int(insns_total),
            stack=int(stack),
        )
        for _, name, kind, insns_self, insns_total, stack in _SUBPROGRAM.findall(
            log, start.end() if start else 0
        )
    )


def last_words(log: str) -> str:
    """Why the verifier refused: the last line before the figures; "" where it says nothing.

    Ask it of a log without trace (level 4): v7.3 ends a trace with advice of several lines.
    """
    lines = log[: min((figure.start() for figure in _figures(log)), default=len(log))].splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _figures(log: str) -> Iterator[re.Match[str]]:
    for pattern in (_TIME, _PROCESSED):
        found = _last(pattern, log)
        if found is not None:
            yield found


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("+")) if text else ()
