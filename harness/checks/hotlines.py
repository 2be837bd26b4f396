# SPDX-License-Identifier: Apache-2.0
"""Which source lines cost the verifier most? Asked only by name: it is a question, not a promise.

Every processed instruction is one line of a full trace; the guest counts them by instruction and
only the counts travel. They are believed as a whole only if they add up to the kernel's own figure.
A trace that did not fit (ENOSPC) was counted in part: the verdict is `unknown`, the table says of
how much it is.
"""

from __future__ import annotations

from dataclasses import replace

from harness import hotlines, objcheck
from harness.btf import BpfObject
from harness.checks.context import OBJCHECK, Check, Context
from harness.errors import HarnessError
from harness.objcheck import HotProgram
from harness.results import Cause, CheckResult, Figure, Verdict

_TIMEOUT_S = 600.0
_LOAD_TIMEOUT_S = 120
_ANSWER = "/tmp/hot.jsonl"


def _ask(context: Context) -> CheckResult:
    options = replace(context.options(), load_timeout_s=_LOAD_TIMEOUT_S)
    ran = context.guest.run(
        ["/bin/sh", "-c", f'exec "$@" >{_ANSWER}', "hot", OBJCHECK,
         *objcheck.hot_argv(context.object, options)[1:]],
        timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    answer = context.guest.read_file(_ANSWER) if ran.status == 0 else ran.stdout
    counted = objcheck.parse_hot(answer.decode(errors="replace"))
    obj = _object(context)
    by_program = [(hot, hotlines.hot_lines(obj, hot)) for hot in counted if hot.stats is not None]
    text = "\n".join(hotlines.render(hot, lines) for hot, lines in by_program)
    kept = (
        context.keep("source lines by processed instructions", "hot-lines.txt", text.encode()),
        context.keep("objcheck's answer", "hot.jsonl", answer),
    )
    if not by_program:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED, evidence=kept,
            summary="the verifier came to no program",
        )  # fmt: skip
    tops = [(hot, lines[0]) for hot, lines in by_program if lines]
    tops.sort(key=lambda top: -top[1].processed)
    figures = tuple(
        Figure(name=f"{hot.name} {line.file}:{line.line}", value=float(line.processed), unit="1")
        for hot, line in tops
    )
    partly = [hot for hot, lines in by_program if not (hot.whole and lines)]
    if partly:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=_cause(partly[0]), figures=figures,
            summary="\n".join(f"{hot.name}: {hotlines.coverage(hot)}" for hot in partly),
            remedy="the lines below are of the part that was counted", evidence=kept,
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=figures, evidence=kept,
        summary="\n".join(
            f"{hot.name}: {line.file}:{line.line}, {100 * line.processed / hot.counted:.0f} % of "
            f"{hot.counted:,}: {line.text}"
            for hot, line in tops
        ),
    )  # fmt: skip


def _object(context: Context) -> BpfObject:
    if context.subject.object is None:
        raise HarnessError("the subject has no object")
    return BpfObject.from_file(context.subject.object)


def _cause(hot: HotProgram) -> Cause:
    """Too long a trace is the program's own doing; a sum that differs is our misreading."""
    return Cause.LIMIT_EXCEEDED if hot.truncated else Cause.HARNESS


CHECK = Check(
    name="hot-lines", question="Which source lines cost the verifier most?",
    ask=_ask, estimate_s=3.0, thorough=True,
)  # fmt: skip
