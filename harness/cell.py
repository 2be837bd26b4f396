# SPDX-License-Identifier: Apache-2.0
"""One cell: a kernel × the subject → verdicts. Whatever goes wrong in it is a verdict too."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from harness import flaky, sitting, supply
from harness.catalogue import Kernel
from harness.checks.context import Check, Where
from harness.errors import HarnessError, UnavailableError
from harness.lost import BOOT, broken, trouble_of
from harness.progress import Phase
from harness.results import Cause, Cell, CheckResult, KernelFacts, Verdict, worst
from harness.sitting import Bench, SharedAccelerator, Sitting
from harness.supply import KernelFiles

Wanted = Kernel | KernelFiles
_MAY_BE_QEMUS = (Cause.PANIC, Cause.HANG)
_ENDED = (Cause.PANIC, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.GUEST_LOST)
_NEEDED_FIRST = ("load", "attach")  # without them another sitting could only say so again


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A kernel that could be had, or why not, and what was predicted for it."""

    facts: KernelFacts
    files: KernelFiles | None
    trouble: CheckResult | None = None
    predicted: CheckResult | None = None

    @property
    def name(self) -> str:
        return self.facts.name


def gather(bench: Bench, item: Wanted) -> Prepared:
    """Have the kernel's files; one that cannot be had is a verdict of its own."""
    facts = wanted_facts(item)
    try:
        files = _files(bench, item)
    except UnavailableError as error:
        # The same words for every kernel that lacks for the same reason: reports group them.
        bare = HarnessError(error.message.removeprefix(f"{item.name}: "), hint=error.hint)
        trouble = trouble_of(Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, bare)
    except HarnessError as error:
        trouble = trouble_of(Verdict.UNKNOWN, Cause.INFRA, error)
    except Exception as error:  # noqa: BLE001 - it costs this cell, not a night's run
        trouble = broken(BOOT, error)
    else:
        return Prepared(facts=replace(_kernel_facts(files), select=facts.select), files=files)
    return Prepared(facts=facts, files=None, trouble=trouble)


class _Hold(Protocol):
    def __call__(self, *, again: bool) -> Sitting: ...


class _Tried(NamedTuple):
    sitting: Sitting
    attempts: int
    earlier: tuple[str, ...]


def ready(bench: Bench, item: Prepared) -> KernelFiles | Cell:
    """The kernel's files, or the cell where no guest could tell anything."""
    if item.trouble is not None or item.files is None:
        lacking = HarnessError(f"no files of '{item.name}'")
        trouble = item.trouble or trouble_of(Verdict.UNKNOWN, Cause.INFRA, lacking)
        return Cell(kernel=item.facts, boot=None, checks=(trouble,))
    if bench.misfit is not None:
        trouble = trouble_of(Verdict.UNSUPPORTED, Cause.COMPILE, bench.misfit)
        return Cell(kernel=item.facts, boot=None, checks=(trouble,))
    return item.files


def answer(bench: Bench, item: Prepared, shared: SharedAccelerator) -> Cell:
    """One kernel's cell; whatever goes wrong in it is a verdict."""
    started = time.monotonic()
    try:
        files = ready(bench, item)
        return files if isinstance(files, Cell) else _answered(bench, item, files, shared)
    except Exception as error:  # noqa: BLE001 - it costs this cell, not a night's run
        trouble = broken(BOOT, error)
        spent_s = time.monotonic() - started
        return Cell(kernel=item.facts, boot=None, checks=(trouble,), duration_s=spent_s)


def _answered(bench: Bench, item: Prepared, files: KernelFiles, shared: SharedAccelerator) -> Cell:
    started = time.monotonic()
    asked = bench.request.checks
    ordinary = [check for check in asked if check.where is Where.ORDINARY]
    each_boot = [check for check in ordinary if check.each_boot]
    sittings: list[_Tried] = []
    answers: list[CheckResult] = []

    def hold(checks: Sequence[Check], where: Where) -> None:
        def once(*, again: bool) -> Sitting:
            try:
                return sitting.hold(bench, files, item.facts, checks, shared, where, again=again)
            except Exception as error:  # noqa: BLE001 - other sittings keep their answers
                return Sitting(checks=(broken(BOOT, error),))

        sittings.append(_tried(bench, item, shared, once))

    if ordinary or not asked:
        hold(ordinary, Where.ORDINARY)
    stopped = _stopped(sittings[0].sitting) if sittings else None
    for where in (Where.ALONE, Where.COUNTED):
        timed = [check for check in asked if check.where is where]
        unasked = [sitting.not_for(check, bench.built.subject) for check in timed]
        if None not in unasked:
            answers += [result for result in unasked if result is not None]
        elif stopped is None:
            hold([*timed, *each_boot], where)
        else:
            answers += [_not_reached(check, stopped) for check in timed]
    before = () if item.predicted is None else (item.predicted,)
    held = [tried.sitting for tried in sittings]
    return Cell(
        kernel=item.facts,
        boot=next((one.boot for one in held if one.boot), None),
        checks=(*before, *_in_order(asked, [*(c for one in held for c in one.checks), *answers])),
        console=held[0].console,
        consoles_alone=tuple(one.console for one in held[1:] if one.console),
        attempts=max(tried.attempts for tried in sittings),
        earlier=tuple(text for tried in sittings for text in tried.earlier),
        duration_s=time.monotonic() - started,
        phases_s=_summed([one.phases_s for one in held]),
    )


def _tried(bench: Bench, item: Prepared, shared: SharedAccelerator, hold: _Hold) -> _Tried:
    """A sitting; one that trouble of ours left `unknown` is tried once more, and no more.

    A check that could not offer the load it needs is such trouble. A kernel that panics or hangs, a
    command that never ends or does not start said something about themselves: another try is no
    better. But a panic or hang at boot under emulation may be the emulator's. The evidence of both
    tries is kept; a check that passed in one and failed in the other is flaky.
    """
    held = hold(again=False)
    troubled = to_try_again(held)
    if troubled is None or shared.cancelled.is_set():
        return _Tried(held, 1, ())
    why = troubled.summary.partition("\n")[0]
    bench.emit(Phase(kernel=item.name, phase="again", detail=why))
    again = hold(again=True)
    spent = {"earlier try": sum(held.phases_s.values()), **again.phases_s}
    checks = flaky.between_tries(held.checks, again.checks)
    return _Tried(replace(again, phases_s=spent, checks=checks), 2, (f"{troubled.cause}: {why}",))


def to_try_again(held: Sitting) -> CheckResult | None:
    """The trouble of ours that left a sitting `unknown`, None when there is no use in another."""
    if held.verdict is not Verdict.UNKNOWN:
        return None
    boot_in_doubt = held.boot is None and held.emulated
    for check in held.checks:
        if check.ours or (boot_in_doubt and check.cause in _MAY_BE_QEMUS):
            return check
    return None


def _stopped(first: Sitting) -> CheckResult | None:
    """What makes another sitting pointless: no guest, a lost one, or an object that is refused.

    `skipped` does not: what has to be attached by its own loader can still be timed.
    """
    for check in first.checks:
        decides = check.check in (BOOT, *_NEEDED_FIRST) and check.verdict not in (
            Verdict.PASS, Verdict.SKIPPED,
        )  # fmt: skip
        if decides or check.cause in _ENDED:
            return check
    return None


def _not_reached(check: Check, stopped: CheckResult) -> CheckResult:
    return CheckResult(
        check=check.name, verdict=Verdict.UNKNOWN, cause=Cause.NOT_REACHED,
        summary=f"not asked: {stopped.check} {stopped.verdict}",
    )  # fmt: skip


def _in_order(asked: Sequence[Check], answers: Sequence[CheckResult]) -> list[CheckResult]:
    """An answer for each check, in the order of asking; of two answers the worse."""
    found: dict[str, CheckResult] = {}
    for answer in answers:
        known = found.get(answer.check)
        if known is None or worst((known.verdict, answer.verdict)) is not known.verdict:
            found[answer.check] = answer
    names = [BOOT, *(check.name for check in asked)]
    return [found[name] for name in names if name in found]


def _summed(phases: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in phases:
        for name, seconds in one.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def _files(bench: Bench, item: Wanted) -> KernelFiles:
    if isinstance(item, KernelFiles):
        return item
    return supply.obtain(
        item, cache=bench.cache, lock=bench.lock,
        on_progress=lambda text: bench.emit(Phase(kernel=item.name, phase="kernel", detail=text)),
    )  # fmt: skip


def wanted_facts(item: Wanted) -> KernelFacts:
    if isinstance(item, KernelFiles):
        where = shlex.quote(item.source.removeprefix("directory "))
        return replace(_kernel_facts(item), select=f"--kernel-dir {where}")
    select = f"--kernels {item.name}"
    return KernelFacts(name=item.name, series=item.series, arch=item.arch, select=select)


def _kernel_facts(files: KernelFiles) -> KernelFacts:
    btf = "none" if files.btf is None else "detached" if files.btf_detached else "built-in"
    return KernelFacts(
        name=files.name, series=files.series, arch=files.arch, release=files.release,
        source=files.source, sha256=files.sha256, btf=btf, note=files.note,
    )  # fmt: skip
