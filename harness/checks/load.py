# SPDX-License-Identifier: Apache-2.0
"""Does the kernel's verifier accept each program, alone and all together?"""

from __future__ import annotations

from dataclasses import replace

from harness import objcheck
from harness.checks.context import OBJCHECK, Check, Context
from harness.objcheck import ProgramAnswer, Reason, Stage, TogetherAnswer
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict
from harness.subject import Program

_TIMEOUT_S = 300.0
_LOAD_TIMEOUT_S = 60  # one program; a verifier that needs longer is a finding, not a hang of ours
_UNKNOWN = (Cause.INFRA, Cause.TIMEOUT)
_CAUSE = {
    Reason.KERNEL_BTF_MISSING: Cause.BTF_MISSING,
    Reason.KERNEL_BTF_UNREADABLE: Cause.BTF_MISSING,
    Reason.CORE_RELOCATION: Cause.CORE_RELOCATION,
    Reason.MAP_UNSUPPORTED: Cause.MAP_UNSUPPORTED,
    Reason.MAP_REFUSED: Cause.MAP_UNSUPPORTED,
    Reason.MAP_NOT_CREATED: Cause.MAP_UNSUPPORTED,
    Reason.PROGRAM_TYPE_UNSUPPORTED: Cause.FEATURE_MISSING,
    Reason.ATTACH_TARGET_MISSING: Cause.FEATURE_MISSING,
    Reason.BPF_UNAVAILABLE: Cause.FEATURE_MISSING,
    Reason.HELPER_UNSUPPORTED: Cause.FEATURE_MISSING,
    Reason.INSTRUCTION_UNSUPPORTED: Cause.FEATURE_MISSING,
    Reason.EXTERN_UNRESOLVED: Cause.FEATURE_MISSING,
    Reason.PROGRAM_TOO_COMPLEX: Cause.LIMIT_EXCEEDED,
    Reason.PROGRAM_TOO_LONG: Cause.LIMIT_EXCEEDED,
    Reason.ATTACH_TARGET_UNSET: Cause.NOT_ASKED,
    Reason.PERMISSION: Cause.INFRA,
    Reason.TIMEOUT: Cause.TIMEOUT,
    Reason.OUT_OF_MEMORY: Cause.INFRA,
}
_REMEDY = {
    Cause.BTF_MISSING: "give the kernel's BTF beside its image (vmlinux.btf), or make it with "
    "pahole from the distribution's debug package",
    Cause.CORE_RELOCATION: "guard the access with bpf_core_field_exists() or add a flavour for "
    "this kernel's layout; inv resolve shows what each kernel has",
    Cause.MAP_UNSUPPORTED: "say in the manifest what the map becomes on such a kernel "
    "([maps.NAME] fallback)",
    Cause.FEATURE_MISSING: "make the program optional in the manifest, or need a newer kernel",
    Cause.VERIFIER_REJECTED: "read the end of the verifier's log below",
    Cause.LIMIT_EXCEEDED: "make the program cheaper to verify: fewer branches in loops",
}


def _ask(context: Context) -> CheckResult:
    options = replace(context.options(), load_timeout_s=_LOAD_TIMEOUT_S)
    answer = context.guest.run(
        [OBJCHECK, *objcheck.load_argv(context.object, options)[1:]],
        timeout_s=_TIMEOUT_S,
    )
    kept = context.keep("objcheck's answer", "load.jsonl", answer.stdout)
    loaded = objcheck.parse_load(answer.text)
    figures = _figures(context, loaded.programs)
    refused = [p for p in loaded.programs if not p.ok and not _excused(context, p)]
    if refused:
        return _refusal(context, refused, figures, kept)
    if not loaded.together.ok:
        return _together_refusal(loaded.together, figures, kept)
    dear = [f for f in figures if f.limit is not None and f.value > f.limit]
    if dear:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.LIMIT_EXCEEDED,
            summary=f"{dear[0].name}: {dear[0].value:,.0f} processed instructions, "
            f"the manifest allows {dear[0].limit:,.0f}",
            remedy=_REMEDY[Cause.LIMIT_EXCEEDED], figures=figures, evidence=(kept,),
        )  # fmt: skip
    excused = [p.name for p in loaded.programs if not p.ok]
    if len(excused) == len(loaded.programs):
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNSUPPORTED, cause=Cause.FEATURE_MISSING,
            summary=f"none of its programs loads here; all are excused: {', '.join(excused)}",
            remedy=_REMEDY[Cause.FEATURE_MISSING], evidence=(kept,),
        )  # fmt: skip
    return CheckResult(
        check=CHECK.name, verdict=Verdict.PASS, figures=figures, evidence=(kept,),
        summary=f"without {', '.join(excused)}, which the manifest excuses" if excused else "",
    )  # fmt: skip


def _figures(context: Context, programs: tuple[ProgramAnswer, ...]) -> tuple[Figure, ...]:
    """Processed instructions of each program, the dearest first."""
    figures = [
        Figure(
            name=program.name, value=float(program.stats.processed), unit="1",
            limit=float(context.said_of(program.name).max_insns_processed),
        )
        for program in programs
        if program.ok and program.stats is not None
    ]  # fmt: skip
    return tuple(sorted(figures, key=lambda figure: -figure.value))


def _excused(context: Context, program: ProgramAnswer) -> bool:
    said = context.said_of(program.name)
    # What only its own loader can attach is not the kernel's fault.
    unset = program.reason is Reason.ATTACH_TARGET_UNSET
    return program.optional or said.optional or unset or bool(unmet(context, said))


def unmet(context: Context, program: Program) -> list[str]:
    """The probes a program needs and this kernel fails."""
    return [need for need in program.needs if context.features.has(need) is False]


def _refusal(
    context: Context, refused: list[ProgramAnswer], figures: tuple[Figure, ...], kept: Evidence
) -> CheckResult:
    first = refused[0]
    cause = _cause(first.reason, first.stage)
    others = f" (and {', '.join(p.name for p in refused[1:])})" if refused[1:] else ""
    return CheckResult(
        check=CHECK.name,
        verdict=Verdict.UNKNOWN if cause in _UNKNOWN else Verdict.FAIL,
        cause=cause,
        summary=f"{first.name}{others}: {first.reason}: {first.why}",
        remedy=_REMEDY.get(cause, ""),
        figures=figures,
        evidence=(*(_log(context, program) for program in refused if program.log), kept),
    )


def _together_refusal(
    together: TogetherAnswer, figures: tuple[Figure, ...], kept: Evidence
) -> CheckResult:
    cause = _cause(together.reason, together.stage)
    return CheckResult(
        check=CHECK.name,
        verdict=Verdict.UNKNOWN if cause in _UNKNOWN else Verdict.FAIL,
        cause=cause,
        summary=f"each program loads alone, all together do not: {together.reason}: "
        f"{together.why}",
        remedy=_REMEDY.get(cause, ""), figures=figures,
        evidence=(Evidence(title="libbpf", text=together.message), kept),
    )  # fmt: skip


def _cause(reason: Reason | None, stage: Stage | None) -> Cause:
    if reason in _CAUSE:
        return _CAUSE[reason]
    return Cause.MAP_UNSUPPORTED if stage is Stage.MAP else Cause.VERIFIER_REJECTED


def _log(context: Context, program: ProgramAnswer) -> Evidence:
    tail = "\n".join(program.log.splitlines()[-30:])
    kept = context.keep("", f"verifier-{program.name}.log", program.log.encode())
    return Evidence(title=f"verifier log of {program.name}", text=tail, path=kept.path)


CHECK = Check(
    name="load", question="Does the verifier accept each program, alone and all together?",
    ask=_ask, estimate_s=1.0,
)  # fmt: skip
