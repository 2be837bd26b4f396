# SPDX-License-Identifier: Apache-2.0
"""Which source lines cost the verifier most? Asked only by name: it is a question, not a promise.

Every processed instruction is one line of a full trace; the guest counts them by instruction and
only the counts travel. They are believed as a whole only if they add up to the kernel's own figure.
A trace that did not fit (ENOSPC) was counted in part: the verdict is `unknown`, the table says of
how much it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import hotlines, objcheck
from harness.btf import BpfObject
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.errors import HarnessError
from harness.hotlines import HotLine
from harness.objcheck import HotProgram, Reason
from harness.results import Cause, CheckResult, Figure, Verdict

_TIMEOUT_S = 600.0
_LOAD_TIMEOUT_S = (
    60  # of each of a program's loads: with a trace, and where it does not fit without
)
_ANSWER = "/tmp/hot.jsonl"


def _ask(context: Context) -> CheckResult:
    options = replace(context.options(), load_timeout_s=_LOAD_TIMEOUT_S)
    context.guest.run(
        ["/bin/sh", "-c", f'exec "$@" >{_ANSWER}', "hot", OBJCHECK,
         *objcheck.hot_argv(context.object, options)[1:]],
        timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    answer = context.guest.read_file(_ANSWER)
    counted = objcheck.parse_hot(answer.decode(errors="replace"))
    obj = _object(context)
    by_program = [(hot, hotlines.hot_lines(obj, hot)) for hot in counted if _reached(hot)]
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
        Figure(name=f"{hot.name} {line.place}", value=float(line.processed), unit="1")
        for hot, line in tops
    )
    partly = [(hot, why) for hot, lines in by_program if (why := _doubt(hot, lines))]
    if partly:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=_cause(partly[0][0]), figures=figures,
            summary="\n".join(f"{hot.name}: {why}" for hot, why in partly),
            remedy="hot-lines.txt has the lines of what was counted", evidence=kept,
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=figures, evidence=kept,
        summary="\n".join(
            f"{hot.name}: {line.place}, {100 * line.processed / hot.counted:.0f} % of "
            f"{hot.counted:,}: {line.text}"
            for hot, line in tops
        ),
    )  # fmt: skip


def _object(context: Context) -> BpfObject:
    if context.subject.object is None:
        raise HarnessError("the subject has no object")
    return BpfObject.from_file(context.subject.object)


def _reached(hot: HotProgram) -> bool:
    """Whether the verifier went to work on it, as opposed to a refusal before."""
    return hot.reason is Reason.TIMEOUT or (hot.stats is not None and hot.stats.processed > 0)


def _doubt(hot: HotProgram, lines: Sequence[HotLine]) -> str:
    """Why the table of a program is not the whole truth, "" where it is."""
    if hot.reason is Reason.TIMEOUT:
        return f"the verifier did not end within {_LOAD_TIMEOUT_S} s, writing its trace"
    if not hot.whole:
        return hotlines.coverage(hot)
    return "" if lines else f"its {hot.insns} instructions are not those of the object's functions"


def _cause(hot: HotProgram) -> Cause:
    """Too long a trace is the program's own doing; a sum that differs is our misreading."""
    if hot.reason is Reason.TIMEOUT:
        return Cause.TIMEOUT
    return Cause.LIMIT_EXCEEDED if hot.truncated else Cause.HARNESS


CHECK = Check(
    name="hot-lines", question="Which source lines cost the verifier most?",
    ask=_ask, estimate_s=3.0, needs=(Need.OBJECT,), thorough=True,
)  # fmt: skip
