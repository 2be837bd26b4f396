# SPDX-License-Identifier: Apache-2.0
"""What a subject's programs cost each kernel's verifier when somebody last looked and agreed.

A committed JSON file that the manifest names. `from_run` makes it out of a run's results,
`compare` holds a later answer against it. Pure, apart from reading the file.

The same object costs the same kernel the same count each time, so a difference is a change of the
object, of the kernel or of the compiler, never noise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from harness import intake
from harness.errors import UsageError
from harness.results import Cell, Program, Run, Verdict

SCHEMA = 1
_MOST_BYTES = 64 << 20
CHECK = "verifier"  # whose answer a baseline is made of
# Another compiler makes another object of the same source: clang 16 and 19 gave -5 % to +115 % of
# clang 14's processed instructions (five programs, 5.10 to 7.3). Up to this many times the
# baseline is no finding then; the absolute limit holds as ever.
OTHER_COMPILER = 2.5


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one program costs. None: the kernel did not say."""

    processed: int
    states_total: int | None = None
    states_peak: int | None = None
    stack_bytes: int | None = None  # bytes of the deepest call chain


class KernelCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kernel's answer."""

    kernel: str  # the catalogue's name, or the directory's: replaced when it is asked again
    series: str
    arch: str
    release: str
    compiler: str  # of the object; "" where somebody else compiled it
    programs: dict[str, Cost | None]  # None: refused


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    schema: int
    subject: str
    kernels: tuple[KernelCosts, ...]


class Kind(StrEnum):
    """How an answer differs from the baseline."""

    GROWN = "grown"  # beyond what is allowed
    NEWLY_REFUSED = "newly refused"
    NEWLY_ACCEPTED = "newly accepted"
    NEW = "new"  # a program that the baseline does not have
    GONE = "gone"  # a program that only the baseline has


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One difference that is said, whatever the verdict."""

    kind: Kind
    program: str
    was: int | None = None  # processed instructions
    now: int | None = None
    allowed: int | None = None

    @property
    def text(self) -> str:
        """The difference in words."""
        if self.kind is not Kind.GROWN or self.was is None or self.now is None:
            return f"{self.program} is {self.kind}"
        return (
            f"{self.program}: {self.now:,} processed instructions, {change(self.was, self.now)} "
            f"over the baseline's {self.was:,}; {self.allowed:,} are allowed"
        )


def read(path: Path) -> Baseline:
    """Parse a baseline. UsageError names the file and what is wrong in it."""
    try:
        content = intake.content(path, most_bytes=_MOST_BYTES)
    except intake.NoFileError as error:
        raise UsageError(
            f"cannot read the baseline '{path}': {error.why}", hint=error.hint
        ) from error
    try:
        found = msgspec.json.decode(content, type=Baseline)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"'{path}' is no baseline: {error}", hint="delete it, then: inv baseline"
        ) from error
    if found.schema != SCHEMA:
        raise UsageError(
            f"the baseline '{path}' has schema {found.schema}, this version reads {SCHEMA}",
            hint="delete it, then: inv baseline",
        )
    return found


def encoded(found: Baseline) -> bytes:
    """The file's content: a kernel's facts in a line, then a program a line, as a diff wants it."""
    kernels = ",\n".join(_encoded_kernel(one) for one in found.kernels)
    head = f'"schema": {found.schema},\n"subject": {_json(found.subject)}'
    return f'{{{head},\n"kernels": [\n{kernels}\n]}}\n'.encode()


def _encoded_kernel(one: KernelCosts) -> str:
    facts = ", ".join(
        f'"{name}": {_json(getattr(one, name))}'
        for name in ("kernel", "series", "arch", "release", "compiler")
    )
    programs = ",\n".join(
        f"  {_json(name)}: {_json(cost)}" for name, cost in sorted(one.programs.items())
    )
    return f' {{{facts}, "programs": {{\n{programs}\n }}}}'


def _json(value: str | Cost | None) -> str:
    return msgspec.json.encode(value).decode()


def nearest(known: Baseline, *, series: str, arch: str, release: str) -> KernelCosts | None:
    """The kernel to compare with: this release, else the newest older one of its series, else the
    oldest newer one. None where the baseline has no kernel of the series."""
    same = [one for one in known.kernels if (one.series, one.arch) == (series, arch)]
    exact = [one for one in same if one.release == release]
    if exact:
        return exact[0]
    key = _release_key(release)
    older = [one for one in same if _release_key(one.release) <= key]
    newer = [one for one in same if _release_key(one.release) > key]
    if older:
        return max(older, key=lambda one: _release_key(one.release))
    return min(newer, key=lambda one: _release_key(one.release), default=None)


def other_compiler(known: KernelCosts, compiler: str) -> bool:
    """Whether the baseline's object is known to be another compiler's."""
    return bool(known.compiler) and bool(compiler) and known.compiler != compiler


def compare(
    now: Mapping[str, Cost | None], known: KernelCosts, *, growth: float | None, compiler: str
) -> Iterator[Event]:
    """Every difference that matters, in the order of the programs; None in `now`: refused."""
    floor = OTHER_COMPILER if other_compiler(known, compiler) else 1.0
    for name, cost in now.items():
        if name not in known.programs:
            yield Event(kind=Kind.NEW, program=name, now=cost.processed if cost else None)
            continue
        before = known.programs[name]
        if before is None and cost is not None:
            yield Event(kind=Kind.NEWLY_ACCEPTED, program=name, now=cost.processed)
        elif before is not None and cost is None:
            yield Event(kind=Kind.NEWLY_REFUSED, program=name, was=before.processed)
        elif before is not None and cost is not None and growth is not None:
            allowed = int(before.processed * max(1 + growth, floor))
            if cost.processed > allowed:
                yield Event(
                    kind=Kind.GROWN, program=name, was=before.processed, now=cost.processed,
                    allowed=allowed,
                )  # fmt: skip
    for name, before in known.programs.items():
        if name not in now:
            was = before.processed if before else None
            yield Event(kind=Kind.GONE, program=name, was=was)


def change(was: int, now: int) -> str:
    """ "+2.1 %"."""
    return f"{100 * (now - was) / was:+.1f} %" if was else f"{now - was:+,}"


# ---- a run → a baseline ----


def from_run(run: Run, old: Baseline | None) -> tuple[Baseline, list[str]]:
    """The baseline with what a run found, and what that changes, a line each.

    Kernels that the run did not ask stay as they are.
    """
    kernels = {one.kernel: one for one in old.kernels} if old else {}
    lines: list[str] = []
    for cell in run.cells:
        costs = _costs(cell)
        if costs is None:
            lines.append(f"{cell.kernel.name}: not recorded: {_why_not(cell)}")
            continue
        new = KernelCosts(
            kernel=cell.kernel.name, series=cell.kernel.series, arch=cell.kernel.arch,
            release=cell.kernel.release, compiler=run.subject.compiler, programs=costs,
        )  # fmt: skip
        lines += _changes(kernels.get(new.kernel), new)
        kernels[new.kernel] = new
    ordered = sorted(kernels.values(), key=lambda one: (_release_key(one.release), one.kernel))
    return Baseline(schema=SCHEMA, subject=run.subject.name, kernels=tuple(ordered)), lines


def _costs(cell: Cell) -> dict[str, Cost | None] | None:
    """Each program's cost as the check tells it; None where the check could not tell."""
    check = next((one for one in cell.checks if one.check == CHECK), None)
    if check is None or check.verdict not in (Verdict.PASS, Verdict.FAIL):
        return None
    return {one.name: cost_of(one) for one in check.programs}


def cost_of(program: Program) -> Cost | None:
    """What a baseline keeps of a program; None: refused."""
    if program.verdict is not Verdict.PASS or program.insns_processed is None:
        return None
    return Cost(
        processed=program.insns_processed, states_total=program.states_total,
        states_peak=program.states_peak, stack_bytes=program.stack_bytes,
    )  # fmt: skip


def _why_not(cell: Cell) -> str:
    check = next((one for one in cell.checks if one.check == CHECK), None)
    if check is not None:
        return f"{check.verdict}: {check.summary}"
    deciding = cell.deciding
    said = f" ({deciding.summary})" if deciding and deciding.summary else ""
    return f"the check '{CHECK}' was not asked, its cell is {cell.verdict}{said}"


def _changes(old: KernelCosts | None, new: KernelCosts) -> Iterator[str]:
    if old is None:
        yield f"{new.kernel} ({new.release}): new, {len(new.programs)} programs"
        return
    if old.release != new.release:
        yield f"{new.kernel}: {old.release} → {new.release}"
    if old.compiler != new.compiler:
        yield f"{new.kernel}: compiler '{old.compiler}' → '{new.compiler}'"
    for name in dict.fromkeys((*old.programs, *new.programs)):
        was, now = old.programs.get(name), new.programs.get(name)
        if name not in new.programs:
            yield f"{new.kernel}: {name} is {Kind.GONE}"
        elif name not in old.programs:
            yield f"{new.kernel}: {name} is {Kind.NEW}"
        elif was is None and now is not None:
            yield f"{new.kernel}: {name} is {Kind.NEWLY_ACCEPTED}"
        elif was is not None and now is None:
            yield f"{new.kernel}: {name} is {Kind.NEWLY_REFUSED}"
        elif was is not None and now is not None and was != now:
            yield (
                f"{new.kernel}: {name}: {was.processed:,} → {now.processed:,} processed "
                f"({change(was.processed, now.processed)})"
            )


def _release_key(release: str) -> tuple[int, ...]:
    """6.1.0-47-cloud-amd64 → 6, 1, 0, 47; digits of words (amd64, +deb13) say no version."""
    return tuple(int(number) for number in re.findall(r"(?<![A-Za-z\d])\d+", release))
