# SPDX-License-Identifier: Apache-2.0
"""Compare a prediction with what a libbpf did: its debug log, and the instructions it loaded.

Pure: the log comes from a guest (or from libbpf under a shim). libbpf stops at its first error, so
relocations behind it are not compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.btf.insn import Insn
from harness.btf.object import Program
from harness.btf.relo import Outcome, Plan, Status

# libbpf formats a path into 256 bytes; prefixes of this length are whole in any release.
_COMPARED_CHARS: Final = 200
_LINE: Final = re.compile(r"libbpf: prog '([^']*)': relo #(\d+): (.*)$", re.MULTILINE)
_PATCHED: Final = re.compile(r"patched insn #\d+ \(([^)]*)\) (imm|off|imm64|mem_sz) \d+ -> (\d+)")
_MATCHING: Final = re.compile(r"matching candidate #\d+ (<.*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedRelocation:
    """What a log says about one relocation."""

    program: str
    index: int  # the number in `relo #N`
    local: str  # the path on the object's BTF, "" when it could not be parsed
    status: Status | None  # None: the log breaks off
    value: int
    width: int  # bytes, 0 when not adjusted
    path: str  # the first matching candidate's
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Prediction and libbpf disagree."""

    program: str
    index: int  # `relo #N` of the program's section, -1 for a whole program
    what: str  # `status`, `value`, `width`, `path`, `local`, `order`, `missing`, `instruction`
    predicted: str
    actual: str


@dataclass(slots=True)
class _Row:
    program: str
    index: int
    local: str = ""
    status: Status | None = None
    value: int = 0
    width: int = 0
    path: str = ""
    error: str = ""

    def read(self, text: str) -> None:
        patched = _PATCHED.match(text)
        matching = _MATCHING.match(text)
        if patched is not None:
            if patched[2] == "mem_sz":
                self.width = int(patched[3])
            else:
                self.status, self.value = Status.RESOLVED, int(patched[3])
        elif matching is not None:
            self.path = self.path or matching[1]
        elif text.startswith("substituting insn"):
            self.status = Status.POISON
        elif text.startswith(("failed to", "target candidate search failed")):
            self.status, self.error = Status.ERROR, self.error or text
        elif text.startswith(
            (
                "parsing ",
                "unexpected insn",
                "insn #",
                "field offset",
                "relocation decision",
                "trying to",
                "error matching",
            )
        ):
            self.error = text

    def done(self) -> LoggedRelocation:
        return LoggedRelocation(
            program=self.program,
            index=self.index,
            local=self.local,
            status=self.status,
            value=self.value,
            width=self.width,
            path=self.path,
            error=self.error,
        )


def parse_log(text: str) -> tuple[LoggedRelocation, ...]:
    """The relocations in a libbpf debug log, in order; other lines are passed over."""
    rows: list[_Row] = []
    for line in text.splitlines():
        found = _LINE.search(line)
        if found is None:
            continue
        program, index, rest = found[1], int(found[2]), found[3]
        if rest.startswith("poisoning insn"):
            continue  # a map or kernel function that is not there: another numbering
        starts = rest.startswith("<") and "relocation doesn't support" not in rest
        if starts or not rows or (rows[-1].program, rows[-1].index) != (program, index):
            rows.append(_Row(program=program, index=index, local=rest if starts else ""))
        if not starts:
            rows[-1].read(rest)
    return tuple(row.done() for row in rows)


def reached_relocations(text: str) -> bool:
    """Whether libbpf got as far as CO-RE: maps and externs come first, and may end the load."""
    return " CO-RE relocations" in text or _LINE.search(text) is not None


def compare_log(plan: Plan, outcome: Outcome, text: str) -> tuple[Difference, ...]:
    """Where a libbpf debug log of loading `plan`'s object differs from `outcome`."""
    return compare_logged(plan, outcome, parse_log(text))


def compare_logged(
    plan: Plan, outcome: Outcome, logged: Sequence[LoggedRelocation]
) -> tuple[Difference, ...]:
    """As `compare_log`, on a log that was parsed already."""
    found: list[Difference] = []
    for number, (site, ours) in enumerate(zip(plan.sites, outcome.resolutions, strict=True)):
        name, index = site.program.name, site.record.index

        def differ(
            what: str, predicted: object, actual: object, name: str = name, index: int = index
        ) -> None:
            found.append(
                Difference(
                    program=name,
                    index=index,
                    what=what,
                    predicted=str(predicted),
                    actual=str(actual),
                )
            )

        if number >= len(logged):
            differ("missing", f"{site.text}: {ours.status}", "not in the log")
            break
        theirs = logged[number]
        if (theirs.program, theirs.index) != (name, index):
            differ("order", f"{name} #{index}", f"{theirs.program} #{theirs.index}")
            break
        status = Status.RESOLVED if ours.status is Status.ABSENT else ours.status
        if status is not theirs.status:
            differ("status", f"{ours.status} {ours.reason}", f"{theirs.status} {theirs.error}")
        elif status is not Status.ERROR:
            if status is Status.RESOLVED and ours.value != theirs.value:
                differ("value", ours.value, theirs.value)
            if status is Status.RESOLVED and ours.width != theirs.width:
                differ("width", ours.width, theirs.width)
            if ours.path[:_COMPARED_CHARS] != theirs.path[:_COMPARED_CHARS]:
                differ("path", ours.path, theirs.path)
            if site.text[:_COMPARED_CHARS] != theirs.local[:_COMPARED_CHARS]:
                differ("local", site.text, theirs.local)
        if theirs.status is Status.ERROR:
            break
    else:
        for theirs in logged[len(plan.sites) :]:
            found.append(
                Difference(
                    program=theirs.program,
                    index=theirs.index,
                    what="missing",
                    predicted="no such relocation",
                    actual=f"{theirs.local}: {theirs.status}",
                )
            )
    return tuple(found)


def compare_instructions(
    program: Program, predicted: Sequence[Insn], loaded: Sequence[Insn]
) -> tuple[Difference, ...]:
    """Where the loaded instructions of a program differ from the predicted ones.

    Only the program's own part is compared: subprograms follow it. What a loader fills in (map
    descriptors, BTF ids of kernel functions, call distances) is left out: pass `predicted` as the
    linker made it, instruction by instruction.
    """
    return tuple(
        Difference(
            program=program.name,
            index=-1,
            what="instruction",
            predicted=f"#{number} {ours}",
            actual=f"#{number} {theirs}",
        )
        for number, (ours, theirs) in enumerate(zip(predicted, loaded, strict=False))
        if ours != theirs
    )
