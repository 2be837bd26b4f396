# SPDX-License-Identifier: Apache-2.0
"""Does each program that loads also attach?"""

from __future__ import annotations

from harness import objcheck
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.checks.loaded import unmet
from harness.objcheck import AttachedProgram
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_TIMEOUT_S = 60.0


def _ask(context: Context) -> CheckResult:
    answer = context.guest.run(
        [OBJCHECK, *objcheck.attach_argv(context.object, context.options())[1:]],
        timeout_s=_TIMEOUT_S,
    )
    kept = context.keep("objcheck's answer", "attach.jsonl", answer.stdout)
    found = objcheck.parse_attach(answer.text)
    if not found.together.ok:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="what does not load cannot be attached", evidence=(kept,),
        )  # fmt: skip
    attached = [program for program in found.programs if program.ok]
    failed = [p for p in found.programs if p.failed and not _excused(context, p)]
    figure = Figure(name="attached programs", value=float(len(attached)), unit="1")
    if failed:
        first = failed[0]
        said = first.message.strip().splitlines()[-1:] or [str(first.errno_name)]
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.ATTACH_FAILED,
            summary=f"{first.name} ({first.section}): {first.reason}: {said[0]}",
            remedy="probe for the target before attaching, or make the program optional in the "
            "manifest", figures=(figure,),
            evidence=(*(Evidence(title=p.name, text=p.message) for p in failed), kept),
        )  # fmt: skip
    left = [p.name for p in found.programs if not p.ok]
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=(figure,), evidence=(kept,),
        summary=f"not attached here: {', '.join(left)}" if left else "",
    )  # fmt: skip


def _excused(context: Context, program: AttachedProgram) -> bool:
    said = context.said_of(program.name)
    return said.optional or bool(unmet(context, said))


CHECK = Check(
    name="attach", question="Does each program that loads also attach?",
    ask=_ask, estimate_s=0.7, needs=(Need.OBJECT,),
)  # fmt: skip
