# SPDX-License-Identifier: Apache-2.0
"""Two runs side by side: verdicts that changed, figures that moved beyond noise, what is new or gone.

A figure moved when it changed by more than its noise, as a share of the larger of the two, or of
its limit where that is larger:
processed instructions, states and stack: none (a verifier counts the same each time); other
counts, sizes and shares: 10 %; times and rates: 25 %; anything measured under emulation: 50 %
(two runs of one object on one machine differed by up to a third). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tabulate import tabulate

from harness import intake
from harness.results import Cause, Cell, CheckResult, Figure, Program, Run, Verdict

EXACT_NOISE, COUNT_NOISE, TIME_NOISE, EMULATED_NOISE = 0.0, 0.10, 0.25, 0.50
INSNS_GROWTH = 0.10  # more processed instructions than this is a regression
_TIMES = ("s", "ms", "us", "ns")
OBJECT = "the object"


class Kind(StrEnum):
    """What a change means for whoever decides."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One difference. Of something that one run lacks, that side is "absent"."""

    kind: Kind
    kernel: str
    what: str  # the check; the program or figure with it
    before: str
    after: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that differs between two runs."""

    before: Run
    after: Run
    verdicts: tuple[Change, ...]
    figures: tuple[Change, ...]
    remarks: tuple[str, ...]  # differences of the machines that explain others

    @property
    def regressions(self) -> int:
        """How many changes are for the worse."""
        return sum(c.kind is Kind.REGRESSION for c in (*self.verdicts, *self.figures))


def compare(before: Run, after: Run) -> Comparison:
    """What `after` has that `before` has not, and the other way round."""
    old = {cell.kernel.name: cell for cell in before.cells}
    new = {cell.kernel.name: cell for cell in after.cells}
    same = before.subject.sha256 == after.subject.sha256
    verdicts = [*_verdicts(OBJECT, before.checks, after.checks, same=same)]
    figures: list[Change] = []
    for name in dict.fromkeys([*old, *new]):
        one, other = old.get(name), new.get(name)
        if one is None or other is None:
            verdicts.append(_one_sided(name, one, other))
            continue
        verdicts += _verdicts(name, one.checks, other.checks, same=same)
        figures += _programs(name, one, other)
        figures += _figures(name, one, other)
    return Comparison(
        before=before, after=after, verdicts=tuple(verdicts), figures=tuple(figures),
        remarks=tuple(_remarks(before, after)),
    )  # fmt: skip


def _one_sided(name: str, one: Cell | None, other: Cell | None) -> Change:
    if other is None:
        assert one is not None
        gone = one.verdict is Verdict.PASS
        return Change(
            kind=Kind.REGRESSION if gone else Kind.OTHER, kernel=name, what="kernel",
            before=one.verdict, after="absent",
        )  # fmt: skip
    bad = other.verdict is Verdict.FAIL
    return Change(
        kind=Kind.REGRESSION if bad else Kind.OTHER, kernel=name, what="kernel", before="absent",
        after=other.verdict, note=_why(other.deciding) if bad else "",
    )  # fmt: skip


def _verdicts(
    kernel: str, before: tuple[CheckResult, ...], after: tuple[CheckResult, ...], *, same: bool
) -> Iterator[Change]:
    old = {check.check: check for check in before}
    new = {check.check: check for check in after}
    for name in dict.fromkeys([*old, *new]):
        one, other = old.get(name), new.get(name)
        was = one.verdict if one else None
        now = other.verdict if other else None
        if was is now and (one is None or other is None or _said(one) == _said(other)):
            continue
        yield Change(
            kind=_of_two(one, other, same=same), kernel=kernel, what=name, before=_said(one),
            after=_said(other), note=_why(other) if now is not Verdict.PASS else "",
        )  # fmt: skip


def _of_two(one: CheckResult | None, other: CheckResult | None, *, same: bool) -> Kind:
    """Like `_kind`; but what is quarantined is known, and what is flaky shows nothing either way.

    same: of one object. A check that is flaky on another object than the one it passed with is a
    regression.
    """
    flaky = [check for check in (one, other) if check is not None and check.cause is Cause.FLAKY]
    if other is not None and other.quarantine is not None:
        return Kind.OTHER
    was_steady = one is not None and one.verdict is Verdict.PASS
    if flaky and (same or not was_steady):
        return Kind.OTHER
    return _kind(one.verdict if one else None, other.verdict if other else None)


def _kind(was: Verdict | None, now: Verdict | None) -> Kind:
    if was is Verdict.PASS or (now is Verdict.FAIL and was is not Verdict.FAIL):
        return Kind.REGRESSION
    return Kind.IMPROVEMENT if now is Verdict.PASS and was is not None else Kind.OTHER


def _said(check: CheckResult | None) -> str:
    if check is None:
        return "absent"
    said = f"{check.verdict} ({check.cause})" if check.cause else str(check.verdict)
    return f"{said}, quarantined" if check.quarantine else said


def _why(check: CheckResult | None) -> str:
    return check.summary.partition("\n")[0] if check else ""


def _programs(kernel: str, one: Cell, other: Cell) -> Iterator[Change]:
    """What the verifier counted of each program, program by program; none is dropped."""
    old, new = _by_name(one), _by_name(other)
    if not old or not new:  # a run without these checks; `_verdicts` says so
        return
    for name in dict.fromkeys([*old, *new]):
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            side = was or now
            assert side is not None
            gone = was is not None and was.verdict is Verdict.PASS
            yield Change(
                kind=Kind.REGRESSION if gone else Kind.OTHER, kernel=kernel,
                what=f"program {name}", before=_accepted(was), after=_accepted(now),
            )  # fmt: skip
            continue
        if was.verdict is not now.verdict:
            yield Change(
                kind=_kind(was.verdict, now.verdict), kernel=kernel, what=f"program {name}",
                before=_accepted(was), after=_accepted(now), note=now.why,
            )  # fmt: skip
        for what, a, b in (
            ("processed instructions", was.insns_processed, now.insns_processed),
            ("states", was.states_total, now.states_total),
            ("stack bytes", was.stack_bytes, now.stack_bytes),
        ):
            if a is None or b is None or a == b:
                continue
            dearer = what == "processed instructions" and b > a * (1 + INSNS_GROWTH)
            yield Change(
                kind=Kind.REGRESSION if dearer else Kind.OTHER, kernel=kernel,
                what=f"{name}: {what}", before=f"{a:,}", after=f"{b:,}", note=_share(a, b),
            )  # fmt: skip


def _by_name(cell: Cell) -> dict[str, Program]:
    return {program.name: program for check in cell.checks for program in check.programs}


def _accepted(program: Program | None) -> str:
    if program is None:
        return "absent"
    return "accepted" if program.verdict is Verdict.PASS else "refused"


def _figures(kernel: str, one: Cell, other: Cell) -> Iterator[Change]:
    programs = {*_by_name(one), *_by_name(other)}
    old = {(c.check, f.name): f for c in one.checks for f in c.figures if f.name not in programs}
    new = {(c.check, f.name): f for c in other.checks for f in c.figures}
    for key, was in old.items():
        now = new.get(key)
        if now is None or now.unit != was.unit:
            continue
        noise = noise_of(was, now)
        # Of a figure that is nearly nothing, noise is a share of what it may be.
        whole = max(abs(was.value), abs(now.value), now.limit or 0.0)
        if abs(now.value - was.value) <= noise * whole:
            continue
        yield Change(
            kind=Kind.OTHER, kernel=kernel, what=f"{key[0]}: {key[1]}", before=_shown(was),
            after=_shown(now), note=_share(was.value, now.value),
        )  # fmt: skip


def noise_of(was: Figure, now: Figure) -> float:
    """How much of the larger value a figure may differ by chance."""
    if was.emulated or now.emulated:
        return EMULATED_NOISE
    return TIME_NOISE if was.unit in _TIMES or was.unit.endswith("/s") else COUNT_NOISE


def _shown(figure: Figure) -> str:
    unit = "" if figure.unit == "1" else f" {figure.unit}"
    return f"{'~' if figure.emulated else ''}{figure.value:,.6g}{unit}"


def _share(before: float, after: float) -> str:
    return f"{(after - before) / before:+.1%}" if before else ""


def _remarks(before: Run, after: Run) -> Iterator[str]:
    """What else changed: a verdict may have its reason there."""
    for what, a, b in (
        ("object's sha256", before.subject.sha256[:16], after.subject.sha256[:16]),
        ("compiler", before.run.compiler, after.run.compiler),
        ("accelerator", before.run.accelerator, after.run.accelerator),
        ("host", before.run.host, after.run.host),
        ("kernels.lock", before.run.lock_sha256[:16], after.run.lock_sha256[:16]),
    ):
        if a != b:
            yield f"{what}: {a or 'none'} → {b or 'none'}"
    old = {cell.kernel.name: cell.kernel.release for cell in before.cells}
    for cell in after.cells:
        was = old.get(cell.kernel.name, "")
        if was and cell.kernel.release and was != cell.kernel.release:
            yield f"{cell.kernel.name}: {was} → {cell.kernel.release}"


def markdown(comparison: Comparison) -> str:
    """For a pull request and for a terminal."""
    before, after = comparison.before, comparison.after
    count = comparison.regressions
    parts = [
        f"# {_safe(f'{before.subject.name}: {before.run.started} → {after.run.started}')}",
        f"**{count or 'no'} regression{'' if count == 1 else 's'}**, "
        f"{len(comparison.verdicts)} verdicts and {len(comparison.figures)} figures changed.",
    ]
    for title, changes in (
        ("Verdicts", comparison.verdicts),
        ("Figures that moved beyond noise", comparison.figures),
    ):
        if changes:
            parts.append(f"## {title}\n\n{_table(changes)}")
    if comparison.remarks:
        parts.append(
            "## Also different\n\n" + "\n".join(f"- {_safe(r)}" for r in comparison.remarks)
        )
    parts.append(
        f"Noise: instructions, states and stack none; other counts {COUNT_NOISE:.0%}; times and "
        f"rates {TIME_NOISE:.0%}; emulated figures (~) {EMULATED_NOISE:.0%}. A pass that is none "
        f"any more, a new fail, a program or a passing kernel that is gone, and more than "
        f"{INSNS_GROWTH:.0%} more processed instructions are regressions. A quarantined failure is "
        "none, nor is a flaky answer of the same object: it shows nothing either way."
    )
    return "\n\n".join(parts) + "\n"


def _table(changes: tuple[Change, ...]) -> str:
    order = list(Kind)
    rows = [
        [
            "✘ regression" if c.kind is Kind.REGRESSION
            else "✔ improvement" if c.kind is Kind.IMPROVEMENT else "",
            *(_safe(text) for text in (c.kernel, c.what, c.before, c.after, c.note)),
        ]
        for c in sorted(changes, key=lambda change: order.index(change.kind))
    ]  # fmt: skip
    headers = ["", "kernel", "what", "before", "after", ""]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _safe(text: str) -> str:
    """Text from outside, safe in a Markdown table."""
    return intake.markdown(text).replace("\\~", "~")  # which marks emulated figures
