# SPDX-License-Identifier: Apache-2.0
"""Relocations as a person reads them: one row for all places that read the same field."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.results import Relocation, RelocationOutcome

_IDS = re.compile(r"^<\w+> \[\d+\] ")  # of the kernel's BTF: they say nothing to a person


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a relocation becomes on some kernels."""

    value: str  # "968", "absent", "poison"
    resolved: bool
    kernels: tuple[str, ...]
    detail: str  # the kernel's field, or why there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A field or type of the kernel, with the places in the source that need it."""

    path: str
    kind: str
    places: tuple[str, ...]  # "dns_monitor.bpf.c:458"
    programs: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def moved(self) -> bool:
        return len(self.outcomes) > 1

    @property
    def gone(self) -> bool:
        """There is a kernel that does not have it."""
        return not all(outcome.resolved for outcome in self.outcomes)


def rows(relocations: Sequence[Relocation]) -> list[Row]:
    """Those with several outcomes first, each group in the object's order."""
    found: dict[tuple[object, ...], list[Relocation]] = {}
    for one in relocations:
        outcomes = tuple((o.status, o.value, o.kernels) for o in one.outcomes)
        found.setdefault((one.path, one.kind, outcomes), []).append(one)
    made = [_row(same) for same in found.values()]
    return sorted(made, key=lambda row: not row.moved)


def _row(same: list[Relocation]) -> Row:
    first = same[0]
    return Row(
        path=first.path, kind=first.kind,
        places=tuple(dict.fromkeys(_place(one) for one in same)),
        programs=tuple(dict.fromkeys(one.program for one in same)),
        outcomes=tuple(_outcome(one) for one in first.outcomes),
    )  # fmt: skip


def _place(one: Relocation) -> str:
    if not one.file:
        return f"{one.program}+{one.insn}"
    return f"{posixpath.normpath(one.file)}:{one.line}"


def _outcome(one: RelocationOutcome) -> Outcome:
    resolved = one.status == "resolved"
    width = f", {one.width} bytes wide" if one.width else ""
    return Outcome(
        value=f"{one.value:,}{width}" if resolved else one.status,
        resolved=resolved, kernels=one.kernels,
        detail=_IDS.sub("", one.target) if resolved else one.reason,
    )  # fmt: skip


def spans(kernels: Sequence[str], order: Sequence[str]) -> list[str]:
    """Names that follow each other in `order`, as one: "5.10-oldest … 6.1-newest (4)"."""
    position = {name: at for at, name in enumerate(order)}
    groups: list[list[str]] = []
    for name in sorted(kernels, key=lambda name: position.get(name, len(order))):
        if groups and position.get(name) == position.get(groups[-1][-1], -2) + 1:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [
        group[0] if len(group) == 1 else f"{group[0]} … {group[-1]} ({len(group)})"
        for group in groups
    ]
