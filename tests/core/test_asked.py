# SPDX-License-Identifier: Apache-2.0
"""A check that is asked and cannot tell: what stopped it is the cause, and the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import objcheck, sitting, subject
from harness.checks.context import Check, Context
from harness.errors import HarnessError
from harness.guest import CommandResult, CommandTimeoutError, GuestLostError
from harness.results import Cause, CheckResult, KernelFacts, Verdict
from harness.transcript import Transcript
from tests.objcheck.answers import recorded


class _Guest:
    """Where `yes` writes more than is kept, `sleep` does not end, `gone` takes the guest along, and
    any other program is missing."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        if argv[0] == "sleep":
            raise CommandTimeoutError("'sleep' did not end within 5 s", hint="sleep less")
        if argv[0] == "gone":
            raise GuestLostError("the guest did not answer", reason="hang")
        if argv[0] != "yes":
            raise HarnessError(f"no '{argv[0]}' in the guest", hint="name another")
        return CommandResult(
            argv=tuple(argv), status=0, stdout=b"y\n" * 500, stderr=b"", truncated=True,
            duration_s=0.1,
        )  # fmt: skip

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        return b""

    def start(self, argv: Sequence[str]) -> int:
        return 7


def _asked(program: str, directory: Path) -> CheckResult:
    """The answer of a check that runs that program and passes if it can."""

    def ask(context: Context) -> CheckResult:
        context.guest.run([program], timeout_s=5)
        return CheckResult(check="deed", verdict=Verdict.PASS)

    context = Context(
        guest=Transcript(_Guest()), subject=subject.of_commands("commands"),
        kernel=KernelFacts(name="6.1-oldest", series="6.1", arch="x86_64", release="6.1.0"),
        features=objcheck.parse_features(recorded("7.3.4", "features")), types=None,
        detached_btf=False, emulated=True, evidence_dir=directory, report_dir=directory,
    )  # fmt: skip
    check = Check(name="deed", question="Does it?", ask=ask, estimate_s=1.0)
    return sitting._asked(check, context)


@pytest.mark.parametrize(
    ("program", "cause", "summary", "remedy"),
    [
        ("yes", Cause.LIMIT_EXCEEDED, "'yes' flooded its output: only 1,000 bytes of it were kept", ""),
        ("sleep", Cause.TIMEOUT, "'sleep' did not end within 5 s", "sleep less"),
        ("absent", Cause.INFRA, "no 'absent' in the guest", "name another"),
    ],
    ids=["flood", "timeout", "trouble"],
)  # fmt: skip
def test_what_stopped_a_check_is_the_cause_of_its_unknown(
    program: str, cause: Cause, summary: str, remedy: str, tmp_path: Path
) -> None:
    """Only trouble of ours is tried again: a flood and a deadline say something of the command."""
    answer = _asked(program, tmp_path)

    assert (answer.verdict, answer.cause) == (Verdict.UNKNOWN, cause)
    assert (answer.summary, answer.remedy) == (summary, remedy)
    assert answer.ours is (cause is Cause.INFRA)


def test_a_lost_guest_is_no_answer_of_one_check(tmp_path: Path) -> None:
    """It concerns every check that follows."""
    with pytest.raises(GuestLostError):
        _asked("gone", tmp_path)
