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
            summary=f"{first.name} ({first.section}){_others(failed)}: {first.reason}: "
            f"{said[0].removeprefix('libbpf: ')}",
            remedy=context.optional_words([p.name for p in failed]), figures=(figure,),
            evidence=(*(Evidence(title=p.name, text=p.message) for p in failed), kept),
        )  # fmt: skip
    left = [p.name for p in found.programs if not p.ok]
    if not attached:
        return _nothing(found.programs, figure, kept)
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=(figure,), evidence=(kept,),
        summary=f"not attached here: {', '.join(left)}" if left else "",
    )  # fmt: skip


def _others(failed: list[AttachedProgram]) -> str:
    return f" (and {', '.join(p.name for p in failed[1:])})" if failed[1:] else ""


def _nothing(programs: tuple[AttachedProgram, ...], figure: Figure, kept: Evidence) -> CheckResult:
    """Nothing was refused, and nothing is attached: no pass."""
    refused = [program.name for program in programs if program.failed]
    if refused:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNSUPPORTED, cause=Cause.ATTACH_FAILED,
            summary=f"none of its programs attaches here; all are excused: {', '.join(refused)}",
            remedy="need a kernel that has what they attach to, or, if its loader chooses that, "
            "run the loader: --command './LOADER …' --file LOADER",
            figures=(figure,), evidence=(kept,),
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED, figures=(figure,),
        summary="no section names all of what its program goes to: only its own loader can "
        "attach it",
        remedy="run that loader: --command './LOADER …' --file LOADER", evidence=(kept,),
    )  # fmt: skip


def _excused(context: Context, program: AttachedProgram) -> bool:
    said = context.said_of(program.name)
    return said.optional or bool(unmet(context, said))


CHECK = Check(
    name="attach", question="Does each program that loads also attach?",
    ask=_ask, estimate_s=0.7, needs=(Need.OBJECT,),
)  # fmt: skip
