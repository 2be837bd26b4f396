# SPDX-License-Identifier: Apache-2.0
"""The release gate: each line of a policy ticked by the evidence in results, or not. Pure.

A policy is a TOML file (`gate.toml`): the kernels that must be there, the lines of the checklist,
and exceptions with a reason and a day on which they end. What was not measured is not ticked.
"""

from __future__ import annotations

import datetime
import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from harness import intake
from harness.errors import UsageError
from harness.results import Cell, CheckResult, Run, Verdict

_MOST_COVERAGE_BYTES = 256 << 20


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the checklist: these checks pass on every required kernel, or for the object."""

    title: str
    checks: tuple[str, ...] = ()
    figure: str = ""  # of the first of the checks; with one of the two bounds
    at_least: float | None = None
    below: float | None = None
    kernels: int = 0  # instead of checks: on so many series a kernel passed all
    coverage: float | None = None  # instead of checks: percent of the lines that tests reach


class Exemption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verdict that may be other than pass for a while."""

    check: str
    kernel: str  # a name, or a pattern of names: "5.4-*"; "*" also for checks of the object
    reason: str
    expires: datetime.date  # the last day on which it holds


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a release must show."""

    kernels: tuple[str, ...]  # series ("5.4") or names ("6.1-oldest"); each must be in the results
    lines: tuple[Line, ...]
    exceptions: tuple[Exemption, ...] = ()
    max_age_days: float = 14.0  # of results and coverage


class State(StrEnum):
    TICKED = "ticked"
    EXCEPTED = "ticked, with an exception"
    UNTOLD = "not measured"
    REFUSED = "refused"


_ANY = Line(title="any check")
_RANK = (State.REFUSED, State.UNTOLD, State.EXCEPTED, State.TICKED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One piece of evidence for or against a line."""

    state: State
    text: str
    check: str = ""
    kernel: str = ""  # or what the policy calls it


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A line and what decides it."""

    title: str
    findings: tuple[Finding, ...]  # those that decide; for a ticked line, what ticks it

    @property
    def state(self) -> State:
        states = {finding.state for finding in self.findings}
        return next((state for state in _RANK if state in states), State.UNTOLD)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The gate's answer."""

    lines: tuple[Judged, ...]
    notes: tuple[str, ...]  # exceptions that nothing needs any more

    @property
    def status(self) -> int:
        """0: open; 1: something is refused; 3: only something untold is in the way."""
        states = {line.state for line in self.lines}
        return 1 if State.REFUSED in states else 3 if State.UNTOLD in states else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What coverage.py measured."""

    percent: float
    measured: datetime.datetime


def read_policy(path: Path) -> Policy:
    """Parse a policy; UsageError names file and key."""
    try:
        content = intake.content(path, most_bytes=intake.SETTINGS_BYTES)
    except intake.NoFileError as error:
        raise UsageError(
            f"cannot read the policy '{path}': {error.why}",
            hint=error.hint or "name one with --policy",
        ) from error
    try:
        policy = msgspec.convert(intake.toml(content), type=Policy)
    except ValueError as error:  # of TOML, of UTF-8, of msgspec
        raise UsageError(f"{path}: {error}") from error
    if not policy.kernels or not policy.lines:
        raise UsageError(f"{path}: a policy that requires no kernels or has no lines lets all pass")
    for line in policy.lines:
        what = [bool(line.checks), line.kernels > 0, line.coverage is not None]
        bounds = [bound for bound in (line.at_least, line.below) if bound is not None]
        if sum(what) != 1 or len(bounds) != bool(line.figure) or (line.figure and not line.checks):
            raise UsageError(
                f"{path}: the line '{line.title}' must have checks (perhaps a figure of the first "
                "with one bound), or kernels, or coverage"
            )
    for exemption in policy.exceptions:
        if not exemption.reason.strip():
            raise UsageError(f"{path}: the exception for '{exemption.check}' gives no reason")
    return policy


def read_coverage(path: Path) -> Coverage | None:
    """What `coverage json` wrote, None when there is none; UsageError for something else."""
    if not path.exists():
        return None
    try:
        content = intake.content(path, most_bytes=_MOST_COVERAGE_BYTES)
        found = msgspec.json.decode(content, type=_CoverageJson)
        measured = datetime.datetime.fromisoformat(found.meta.timestamp).astimezone()
    except intake.NoFileError as error:
        raise UsageError(
            f"cannot read the coverage '{path}': {error.why}", hint=error.hint
        ) from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"'{path}' is no JSON report of coverage.py: {error}") from error
    return Coverage(percent=found.totals.percent_covered, measured=measured)


class _CoverageMeta(msgspec.Struct):
    timestamp: str


class _CoverageTotals(msgspec.Struct):
    percent_covered: float


class _CoverageJson(msgspec.Struct):
    meta: _CoverageMeta
    totals: _CoverageTotals


def decide(
    run: Run,
    policy: Policy,
    *,
    now: datetime.datetime,
    coverage: Coverage | None = None,
    object_sha256: str = "",
) -> Decision:
    """Judge results by a policy. `object_sha256`: of what is to be released, "" not to compare."""
    used: set[Exemption] = set()
    required = _required(run, policy)
    lines = [
        Judged(title="The results are of this object, and recent",
               findings=tuple(_of_the_release(run, policy, now, object_sha256))),
        *(_judged(line, run, policy, required, now, coverage, used) for line in policy.lines),
        Judged(title="No other kernel of the run fails",
               findings=tuple(_others(run, policy, required, now, used))),
        Judged(title="No exception has expired", findings=tuple(_expired(policy, now))),
    ]  # fmt: skip
    notes = [
        f"the exception for {one.check} on {one.kernel} is needed no more: remove it"
        for one in policy.exceptions
        if one not in used and one.expires >= now.date()
    ]
    return Decision(lines=tuple(lines), notes=tuple(notes))


def _required(run: Run, policy: Policy) -> dict[str, list[Cell]]:
    """The cells of each kernel that the policy names."""
    return {
        word: [cell for cell in run.cells if word in (cell.kernel.name, cell.kernel.series)]
        for word in policy.kernels
    }


def _of_the_release(
    run: Run, policy: Policy, now: datetime.datetime, object_sha256: str
) -> Iterator[Finding]:
    try:
        started = datetime.datetime.fromisoformat(run.run.started).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        yield _untold(f"the results do not say when the run was: '{run.run.started}'")
        return
    age = (now - started).total_seconds() / 86400
    what = f"{run.subject.name}, sha256 {run.subject.sha256[:16] or 'unknown'}, {run.run.started}"
    if object_sha256 and object_sha256 not in (run.subject.sha256, *run.subject.objects.values()):
        yield _refused(
            f"the results are of an object with sha256 {run.subject.sha256[:16]}, "
            f"the one to release has {object_sha256[:16]}"
        )
    elif age < -1:
        yield _untold(f"the results say that the run will be: {run.run.started}")
    elif age > policy.max_age_days:
        yield _untold(f"the run was {age:.0f} days ago, the policy allows {policy.max_age_days:g}")
    else:
        yield _ticked(what)


def _judged(
    line: Line, run: Run, policy: Policy, required: dict[str, list[Cell]],
    now: datetime.datetime, coverage: Coverage | None, used: set[Exemption],
) -> Judged:  # fmt: skip
    if line.kernels:
        findings = list(_enough_kernels(run, line.kernels))
    elif line.coverage is not None:
        findings = list(_covered(line.coverage, coverage, policy, now))
    else:
        findings = [
            finding
            for name in line.checks
            for finding in _check_findings(name, line, run, policy, required, now, used)
        ]
    against = [finding for finding in findings if finding.state is not State.TICKED]
    return Judged(title=line.title, findings=tuple(against or findings))


def _check_findings(
    name: str, line: Line, run: Run, policy: Policy, required: dict[str, list[Cell]],
    now: datetime.datetime, used: set[Exemption],
) -> Iterator[Finding]:  # fmt: skip
    ours = [check for check in run.checks if check.check == name]
    if ours:
        for check in ours:
            yield _verdict(check, "", line, policy, now, used)
        return
    for word, cells in required.items():
        if not cells:
            lacking = _untold("the results have no such kernel")
            yield replace(lacking, check=name, kernel=word)
        for cell in cells:
            found = [check for check in cell.checks if check.check == name]
            for check in found:
                yield _verdict(check, cell.kernel.name, line, policy, now, used)
            if not found:
                yield _absent(name, cell, policy, now, used)


def _verdict(
    check: CheckResult, kernel: str, line: Line, policy: Policy, now: datetime.datetime,
    used: set[Exemption],
) -> Finding:  # fmt: skip
    if check.verdict is Verdict.PASS:
        found = _figure(check, line)
    else:
        why = f"{check.verdict}{f' ({check.cause})' if check.cause else ''}"
        short = check.summary.partition("\n")[0]
        text = f"{why}: {short}" if short else why
        exempt = _exempt(check.check, kernel, policy, now, used)
        if exempt is not None:
            found = Finding(state=State.EXCEPTED, text=f"{text}; {_until(exempt)}")
        elif check.verdict in (Verdict.FAIL, Verdict.UNSUPPORTED):
            found = _refused(text)
        else:
            found = _untold(text)
    return replace(found, check=check.check, kernel=kernel)


def _figure(check: CheckResult, line: Line) -> Finding:
    if not line.figure or check.check != line.checks[0]:
        return _ticked("pass")
    figure = next((one for one in check.figures if one.name == line.figure), None)
    if figure is None:
        return _untold(f"passed, but did not measure '{line.figure}'")
    shown = f"{figure.name} {figure.value:,.6g}"
    if line.at_least is not None and not figure.value >= line.at_least:
        return _refused(f"{shown}, the policy asks for at least {line.at_least:,.6g}")
    if line.below is not None and not figure.value < line.below:
        return _refused(f"{shown}, the policy asks for less than {line.below:,.6g}")
    return _ticked(shown)


def _absent(
    name: str, cell: Cell, policy: Policy, now: datetime.datetime, used: set[Exemption]
) -> Finding:
    deciding = cell.deciding
    why = f": {deciding.verdict}: {deciding.summary.partition(chr(10))[0]}" if deciding else ""
    text = f"not asked{why if cell.boot is None else ''}"
    exempt = _exempt(name, cell.kernel.name, policy, now, used)
    found = _untold(text)
    if exempt is not None:
        found = Finding(state=State.EXCEPTED, text=f"{text}; {_until(exempt)}")
    return replace(found, check=name, kernel=cell.kernel.name)


def _enough_kernels(run: Run, wanted: int) -> Iterator[Finding]:
    passed = dict.fromkeys(c.kernel.series for c in run.cells if c.verdict is Verdict.PASS)
    said = f"{len(passed)} series passed: {', '.join(passed) or 'none'}"
    yield _ticked(said) if len(passed) >= wanted else _untold(f"{said}; {wanted} are asked for")


def _covered(
    wanted: float, coverage: Coverage | None, policy: Policy, now: datetime.datetime
) -> Iterator[Finding]:
    if coverage is None:
        yield _untold("no coverage was measured (inv test)")
        return
    age = (now - coverage.measured).total_seconds() / 86400
    said = f"{coverage.percent:.1f} % of the lines"
    if age > policy.max_age_days:
        yield _untold(f"{said}, but {age:.0f} days ago")
    elif coverage.percent < wanted:
        yield _refused(f"{said}, {wanted:g} % are asked for")
    else:
        yield _ticked(said)


def _others(
    run: Run, policy: Policy, required: dict[str, list[Cell]], now: datetime.datetime,
    used: set[Exemption],
) -> Iterator[Finding]:  # fmt: skip
    """A kernel that nobody requires may be unknown; it may not fail."""
    named = {cell.kernel.name for cells in required.values() for cell in cells}
    others = [cell for cell in run.cells if cell.kernel.name not in named]
    for cell in others:
        for check in cell.checks:
            if check.verdict is not Verdict.FAIL:
                continue
            yield _verdict(check, cell.kernel.name, _ANY, policy, now, used)
    yield _ticked(f"{len(others)} more kernels")


def _expired(policy: Policy, now: datetime.datetime) -> Iterator[Finding]:
    for one in policy.exceptions:
        if one.expires < now.date():
            yield _refused(
                f"the exception for {one.check} on {one.kernel} ended on {one.expires}: "
                f"'{one.reason}'"
            )
    yield _ticked(f"{len(policy.exceptions)} exceptions")


def _exempt(
    check: str, kernel: str, policy: Policy, now: datetime.datetime, used: set[Exemption]
) -> Exemption | None:
    for one in policy.exceptions:
        holds = one.expires >= now.date() and one.check == check
        if holds and fnmatch.fnmatchcase(kernel, one.kernel):
            used.add(one)
            return one
    return None


def _until(exemption: Exemption) -> str:
    return f"excepted until {exemption.expires}: {exemption.reason}"


def _ticked(text: str) -> Finding:
    return Finding(state=State.TICKED, text=text)


def _untold(text: str) -> Finding:
    return Finding(state=State.UNTOLD, text=text)


def _refused(text: str) -> Finding:
    return Finding(state=State.REFUSED, text=text)


_MARK = {State.TICKED: "x", State.EXCEPTED: "x", State.UNTOLD: "?", State.REFUSED: " "}
_SHOWN = 12  # pieces of evidence under a line


def text(decision: Decision) -> str:
    """The checklist, for a terminal and as Markdown."""
    lines: list[str] = []
    for judged in decision.lines:
        lines.append(f"- [{_MARK[judged.state]}] {judged.title}")
        against = [one for one in judged.findings if one.state is not State.TICKED]
        shown = sorted(against, key=lambda one: _RANK.index(one.state)) or list(judged.findings)
        under = _grouped(shown)
        lines += [f"      {one}" for one in under[:_SHOWN]]
        if under[_SHOWN:]:
            lines.append(f"      and {len(under) - _SHOWN} more")
    lines += [f"note: {note}" for note in decision.notes]
    states = [line.state for line in decision.lines]
    refused, untold = states.count(State.REFUSED), states.count(State.UNTOLD)
    if refused or untold:
        said = f"closed: {refused} of {len(states)} lines refused, {untold} not measured"
    else:
        excepted = states.count(State.EXCEPTED)
        said = f"open: {len(states)} lines ticked"
        said += f", {excepted} of them with an exception" if excepted else ""
    return "\n".join([*lines, "", f"gate {said}"])


def _grouped(findings: Sequence[Finding]) -> list[str]:
    """The same words once, with every check and kernel that they concern."""
    kernels: dict[tuple[str, str], list[str]] = {}
    for one in findings:
        kernels.setdefault((one.text, one.check), []).append(one.kernel)
    checks: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (said, check), places in kernels.items():
        checks.setdefault((said, tuple(filter(None, places))), []).append(check)
    lines = []
    for (said, where), names in checks.items():
        what = ", ".join(filter(None, names))
        on = f" on {', '.join(where)}" if where else ""
        lines.append(_plain(f"{what}{on}: {said}" if what else said))
    return lines


def _plain(words: str) -> str:
    """On one line, without HTML, links and images: a checklist is read as Markdown too."""
    return re.sub(r"[\\<\[\]`|]", r"\\\g<0>", intake.line(words))
