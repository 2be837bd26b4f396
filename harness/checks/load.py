# SPDX-License-Identifier: Apache-2.0
"""Does the kernel's verifier accept each program, alone and all together?"""

from __future__ import annotations

from dataclasses import replace

from harness.checks import loaded
from harness.checks.context import Check, Context, Need
from harness.checks.loaded import REMEDY, UNKNOWN_CAUSES, Loaded, cause_of
from harness.objcheck import ProgramAnswer, TogetherAnswer
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict


def _ask(context: Context) -> CheckResult:
    found = loaded.ask(context)
    return replace(_judged(context, found), programs=loaded.facts_of(context, found.answer))


def _judged(context: Context, found: Loaded) -> CheckResult:
    programs, kept = found.answer.programs, found.kept
    accepted = [program for program in programs if program.ok]
    figures = (Figure(name="programs accepted", value=float(len(accepted)), unit="1"),)
    refused = [p for p in programs if not p.ok and not loaded.excused(context, p)]
    if refused:
        return _refusal(context, refused, figures, kept)
    if not found.answer.together.ok:
        return _together_refusal(found.answer.together, figures, kept)
    excused = [program.name for program in programs if not program.ok]
    if not accepted:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNSUPPORTED, cause=Cause.FEATURE_MISSING,
            summary=f"none of its programs loads here; all are excused: {', '.join(excused)}",
            remedy=REMEDY[Cause.FEATURE_MISSING], evidence=(kept,),
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=figures, evidence=(kept,),
        summary=f"not loaded: {', '.join(excused)}: optional, or its loader's business"
        if excused else "",
    )  # fmt: skip


def _refusal(
    context: Context, refused: list[ProgramAnswer], figures: tuple[Figure, ...], kept: Evidence
) -> CheckResult:
    # What a kernel lacks, a loader may do without; what is wrong with a program it may not.
    refused = sorted(refused, key=lambda p: cause_of(p.reason, p.stage) is Cause.FEATURE_MISSING)
    first = refused[0]
    cause = cause_of(first.reason, first.stage)
    alike = [p.name for p in refused[1:] if p.reason is first.reason]
    differ = [f"{p.name}: {p.reason}" for p in refused[1:] if p.reason is not first.reason]
    others = f" (and {', '.join(alike)})" if alike else ""
    more = f"; {', '.join(differ)}" if differ else ""
    return CheckResult(
        check=CHECK.name,
        verdict=Verdict.UNKNOWN if cause in UNKNOWN_CAUSES else Verdict.FAIL,
        cause=cause,
        summary=f"{first.name}{others}: {first.reason}: {first.why}{more}",
        remedy=_remedy(context, cause, refused),
        figures=figures,
        evidence=(*(_log(context, program) for program in refused if program.log), kept),
    )


def _remedy(context: Context, cause: Cause, refused: list[ProgramAnswer]) -> str:
    if cause is not Cause.FEATURE_MISSING:
        return REMEDY.get(cause, "")
    names = [p.name for p in refused if cause_of(p.reason, p.stage) is cause]
    return f"{context.optional_words(names)}; or need a kernel that has it"


def _together_refusal(
    together: TogetherAnswer, figures: tuple[Figure, ...], kept: Evidence
) -> CheckResult:
    cause = cause_of(together.reason, together.stage)
    return CheckResult(
        check=CHECK.name,
        verdict=Verdict.UNKNOWN if cause in UNKNOWN_CAUSES else Verdict.FAIL,
        cause=cause,
        summary=f"each program loads alone, all together do not: {together.reason}: "
        f"{together.why}",
        remedy=REMEDY.get(cause, ""), figures=figures,
        evidence=(Evidence(title="libbpf", text=together.message), kept),
    )  # fmt: skip


def _log(context: Context, program: ProgramAnswer) -> Evidence:
    tail = "\n".join(program.log.splitlines()[-30:])
    kept = context.keep("", f"verifier-{program.name}.log", program.log.encode())
    return Evidence(title=f"verifier log of {program.name}", text=tail, path=kept.path)


CHECK = Check(
    name="load", question="Does the verifier accept each program, alone and all together?",
    ask=_ask, estimate_s=2.0, needs=(Need.OBJECT,),
)  # fmt: skip
