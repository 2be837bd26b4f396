# SPDX-License-Identifier: Apache-2.0
"""What past runs measured, one JSON line a run, appended and never rewritten.

`reports/history/runs.jsonl` holds the few figures that are worth following over months: processed
instructions, events per second, boot time, for each kernel. Reports draw trends from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from harness import flaky, intake
from harness.errors import HarnessError, UsageError
from harness.results import Cause, Cell, CheckResult, Run, Verdict

_MOST_BYTES = 256 << 20
FILE = Path("history") / "runs.jsonl"  # in the directory of all reports
SCHEMA = 1
# check, figure: what of a cell is followed
FOLLOWED = (
    ("boot", "guest ready"),
    ("rate-limit", "events in any second"),
    ("memory", "memory"),
    ("overhead", "CPU share"),
    ("overhead", "CPU share (estimated)"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel of one run."""

    name: str
    release: str
    verdict: str
    accelerator: str
    insns: dict[str, int]  # program → instructions that the verifier processed
    figures: dict[str, float]  # "check: figure" → value
    inputs: str = ""  # of the cell but for which checks were asked; "" in older entries
    passed: tuple[str, ...] = ()  # checks
    failed: dict[str, str] = field(default_factory=dict)  # check → what it said, in a few words
    flaky: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One run."""

    schema: int
    started: str  # ISO 8601, UTC
    subject: str
    sha256: str
    commit: str
    verdict: str
    kernels: tuple[Kernel, ...]
    id: str = ""  # of the run; one that was resumed has a line for each time, the last counts


def entry_of(run: Run) -> Entry:
    """What of a run is kept."""
    return Entry(
        schema=SCHEMA, started=run.run.started, subject=run.subject.name,
        sha256=run.subject.sha256, commit=run.run.commit, verdict=run.verdict, id=run.run.id,
        kernels=tuple(_kernel(cell) for cell in run.cells if cell.boot is not None),
    )  # fmt: skip


def _kernel(cell: Cell) -> Kernel:
    figures = {(c.check, f.name): f.value for c in cell.checks for f in c.figures}
    return Kernel(
        name=cell.kernel.name, release=cell.kernel.release, verdict=cell.verdict,
        accelerator=cell.boot.accelerator if cell.boot else "",
        insns={
            program.name: program.insns_processed
            for check in cell.checks
            for program in check.programs
            if program.insns_processed is not None
        },
        figures={
            f"{check}: {name}": figures[check, name]
            for check, name in FOLLOWED
            if (check, name) in figures
        },
        inputs=_inputs(cell),
        passed=tuple(c.check for c in cell.checks if c.verdict is Verdict.PASS),
        failed={c.check: flaky.said(c) for c in cell.checks if c.verdict is Verdict.FAIL},
        flaky={c.check: c.summary for c in cell.checks if c.cause is Cause.FLAKY},
    )  # fmt: skip


def _inputs(cell: Cell) -> str:
    """A digest of what the cell's answers depend on; another list of checks is no matter."""
    if not cell.inputs:
        return ""
    words = [f"{name}={digest}" for name, digest in sorted(cell.inputs.items()) if name != "checks"]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def contradicted(run: Run, past: Sequence[Entry]) -> Run:
    """The run, with those answers flaky that an earlier run of the same inputs contradicts."""
    earlier = [entry for entry in past if entry.id != run.run.id or not entry.id]
    return replace(run, cells=tuple(_steady(cell, earlier) for cell in run.cells))


def _steady(cell: Cell, past: Sequence[Entry]) -> Cell:
    inputs, accelerator = _inputs(cell), cell.boot.accelerator if cell.boot else ""
    if not inputs:
        return cell
    seen = [
        (entry, kernel)
        for entry in past
        for kernel in entry.kernels
        if (kernel.name, kernel.inputs, kernel.accelerator)
        == (cell.kernel.name, inputs, accelerator)
    ]
    return replace(cell, checks=tuple(_judged(check, seen) for check in cell.checks))


def _judged(check: CheckResult, seen: Sequence[tuple[Entry, Kernel]]) -> CheckResult:
    if check.verdict not in (Verdict.PASS, Verdict.FAIL):
        return check
    for entry, kernel in reversed(seen):  # the latest first
        if check.verdict is Verdict.PASS:
            then = kernel.failed.get(check.check, "")
        else:
            then = "pass" if check.check in kernel.passed else ""
        then = then or (
            f"flaky: {kernel.flaky[check.check]}" if check.check in kernel.flaky else ""
        )
        if then:
            return flaky.answer(check, f"now {flaky.said(check)}", f"{entry.started[:16]} {then}")
    return check


def append(run: Run, reports: Path) -> Path:
    """Add a run to the history in the directory of all reports; the same run only once."""
    path = reports / FILE
    entry = entry_of(run)
    line = msgspec.json.encode(entry) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write(2) to a file opened for appending, under a lock: runs may end together.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            known = intake.content(path, most_bytes=_MOST_BYTES)
            if line in known.splitlines(keepends=True):
                return path
            # A line that a full disk cut short is ended, so that it spoils no other.
            os.write(descriptor, line if not known or known.endswith(b"\n") else b"\n" + line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HarnessError(
            f"cannot write '{path}': {error.strerror}", hint="free some space there"
        ) from error
    return path


def read(reports: Path) -> list[Entry]:
    """Every run, oldest first; lines that are cut short or of another schema are left out.

    Raises UsageError when the file itself cannot be read.
    """
    path = reports / FILE
    try:
        known = intake.content(path, most_bytes=_MOST_BYTES) if path.exists() else b""
    except intake.NoFileError as error:
        raise UsageError(error.message, hint=error.hint) from error
    lines: Sequence[bytes] = known.splitlines()
    found: list[Entry] = []
    for line in lines:
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except (ValueError, RecursionError):
            continue
        if entry.schema == SCHEMA:
            found.append(entry)
    last = {entry.id: entry for entry in found if entry.id}
    kept = [entry for entry in found if not entry.id or last[entry.id] is entry]
    return sorted(kept, key=lambda one: one.started)


def quantities(entry: Entry) -> dict[str, dict[str, float]]:
    """What a run measured, each quantity by kernel: of the programs, the dearest."""
    found: dict[str, dict[str, float]] = {}
    for kernel in entry.kernels:
        if kernel.insns:
            dearest = float(max(kernel.insns.values()))
            found.setdefault("instructions of the dearest program", {})[kernel.name] = dearest
        for name, value in kernel.figures.items():
            found.setdefault(name, {})[kernel.name] = value
    return found
