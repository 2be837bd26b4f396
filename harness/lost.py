# SPDX-License-Identifier: Apache-2.0
"""Answers where no guest gives them: one that was lost, one that never was. And its console."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness import results, vm
from harness.checks.context import Check
from harness.checks.splat import MARK
from harness.console import Finding, find_splats
from harness.errors import HarnessError
from harness.guest import GuestLostError
from harness.results import BootFacts, Cause, CheckResult, Evidence, Verdict

logger = logging.getLogger(__name__)

BOOT = "boot"  # the check that comes before all others
_CONSOLE_TAIL_LINES = 80  # an oops, its panic and their traces
_LOST_CAUSE = {
    "panic": Cause.PANIC, "out-of-memory": Cause.OUT_OF_MEMORY, "soft-lockup": Cause.HANG,
    "rcu-stall": Cause.HANG, "hang": Cause.HANG, "infra": Cause.INFRA,
}  # fmt: skip


def trouble_of(verdict: Verdict, cause: Cause, error: HarnessError) -> CheckResult:
    """The answer of a cell that never booted."""
    return CheckResult(
        check=BOOT, verdict=verdict, cause=cause, summary=error.message, remedy=error.hint
    )


def broken(check: str, error: Exception) -> CheckResult:
    """The answer of a check that a bug of ours broke: it costs this answer, not a night's run."""
    return CheckResult(
        check=check, verdict=Verdict.UNKNOWN, cause=Cause.HARNESS,
        summary=f"a bug of ours: {type(error).__name__}: {error}",
        remedy="the harness is wrong, not the subject: report it with its traceback",
        evidence=(
            Evidence(title="traceback", text="".join(traceback.format_exception(error))),
        ),
    )  # fmt: skip


def left_open(
    asked: Sequence[Check],
    answers: Sequence[CheckResult],
    error: HarnessError,
    log: Path,
    boot: BootFacts | None,
) -> list[CheckResult]:
    """Answers for the checks that a lost guest left open.

    A kernel that panics or hangs while a check had the subject in it fails that check, and so does
    one that floods its console with complaints. One that never came up, a guest that was killed
    from outside, one that had too little memory: they tell nothing of the subject, unknown.
    """
    reason = error.reason if isinstance(error, GuestLostError) else "infra"
    cause = _LOST_CAUSE.get(reason, Cause.GUEST_LOST)
    done = {answer.check for answer in answers}
    open_names = [name for name in (BOOT, *(check.name for check in asked)) if name not in done]
    excerpt = error.excerpt if isinstance(error, GuestLostError) else ""
    summary = error.message
    subject_did_it = boot is not None and cause in (Cause.PANIC, Cause.HANG) and reason != "hang"
    if reason == "console-flood" and boot is not None and (splat := _first_splat(log)):
        cause, subject_did_it, excerpt = Cause.KERNEL_SPLAT, True, splat.excerpt
        summary = f"{summary}, which began with: {splat.line}"
    evidence = (
        *((Evidence(title="what decided", text=excerpt),) if excerpt else ()),
        Evidence(title="end of the console", text=_tail(log)),
    )
    when = "" if boot is not None else "at boot, before the subject was loaded: "
    found: list[CheckResult] = []
    for index, name in enumerate(open_names):
        decides = index == 0
        found.append(
            CheckResult(
                check=name,
                verdict=Verdict.FAIL if decides and subject_did_it else Verdict.UNKNOWN,
                cause=cause if decides else Cause.NOT_REACHED,
                summary=f"{when}{summary}" if decides else "",
                remedy=error.hint if decides else "",
                evidence=evidence if decides else (),
            )
        )
    return found


def _first_splat(log: Path) -> Finding | None:
    """The first complaint of the kernel since the subject was there."""
    try:
        content = vm.kept_console(log)
    except OSError:  # then it is a guest that was lost, no more
        return None
    _, mark, ours = content.decode(errors="replace").partition(MARK)
    return next(iter(find_splats(ours)), None) if mark else None


def keep_console(log: Path, evidence_dir: Path) -> None:
    """Copy a guest's console to its evidence, as far as it is kept."""
    if not log.exists():
        return
    try:
        results.write_atomically(evidence_dir / "console.log", vm.kept_console(log))
    except (HarnessError, OSError) as error:  # what the guest answered counts all the same
        logger.warning("a console is not kept: %s", error)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_CONSOLE_TAIL_LINES:])
