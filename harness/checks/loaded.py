# SPDX-License-Identifier: Apache-2.0
"""What the guest's kernel said of each program, asked once for all checks that read it.

The answer is a file of the guest: it lives as long as the boot that it is about, and each check
gets it whether another one asked before or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness import objcheck, results
from harness.checks.context import OBJCHECK, Context
from harness.objcheck import LoadAnswer, ProgramAnswer, Reason, Stage
from harness.results import Cause, Evidence, Verdict
from harness.subject import Program

_TIMEOUT_S = 300.0
_LOAD_TIMEOUT_S = 60  # one program; a verifier that needs longer is a finding, not a hang of ours
_ANSWER = "/tmp/load.jsonl"
# A file that is there is whole: an objcheck that was killed (status over 3) leaves a part.
_SCRIPT = '[ -s "$0" ] || { "$@" >"$0.part" || [ $? -le 3 ] && mv "$0.part" "$0"; }'

UNKNOWN_CAUSES = (Cause.INFRA, Cause.TIMEOUT)
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
REMEDY = {
    Cause.BTF_MISSING: "give the kernel's BTF beside its image (vmlinux.btf), or make it with "
    "pahole from the distribution's debug package",
    Cause.CORE_RELOCATION: "guard the access with bpf_core_field_exists() or add a flavour for "
    "this kernel's layout; inv resolve shows what each kernel has",
    Cause.MAP_UNSUPPORTED: "say in the manifest what the map becomes on such a kernel "
    "([maps.NAME] fallback), or what a map of maps holds ([maps.NAME] inner)",
    Cause.FEATURE_MISSING: "make the program optional in the manifest, or need a newer kernel",
    Cause.VERIFIER_REJECTED: "read the end of the verifier's log below",
    Cause.LIMIT_EXCEEDED: "make the program cheaper to verify: fewer branches in loops",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """objcheck's answer, and the file beside the report that holds it."""

    answer: LoadAnswer
    kept: Evidence


def ask(context: Context) -> Loaded:
    """Every program alone, then all together; the first check of a boot loads, the others read."""
    options = replace(context.options(), load_timeout_s=_LOAD_TIMEOUT_S)
    argv = [OBJCHECK, *objcheck.load_argv(context.object, options)[1:]]
    ran = context.guest.run(["/bin/sh", "-c", _SCRIPT, _ANSWER, *argv], timeout_s=_TIMEOUT_S)
    whole = context.guest.read_file(_ANSWER if ran.status == 0 else f"{_ANSWER}.part")
    kept = context.keep("objcheck's answer", "load.jsonl", whole)
    return Loaded(answer=objcheck.parse_load(whole.decode(errors="replace")), kept=kept)


def excused(context: Context, program: ProgramAnswer) -> bool:
    """Whether it may be refused here without failing the subject."""
    said = context.said_of(program.name)
    return program.optional or said.optional or impossible(context, program)


def impossible(context: Context, program: ProgramAnswer) -> bool:
    """Whether a refusal is not the kernel's doing: a need unmet, or its own loader's business."""
    unset = program.reason is Reason.ATTACH_TARGET_UNSET
    return unset or bool(unmet(context, context.said_of(program.name)))


def unmet(context: Context, program: Program) -> list[str]:
    """The probes a program needs and this kernel fails."""
    return [need for need in program.needs if context.features.has(need) is False]


def cause_of(reason: Reason | None, stage: Stage | None) -> Cause:
    """A refusal's cause in the report's taxonomy."""
    if reason in _CAUSE:
        return _CAUSE[reason]
    return Cause.MAP_UNSUPPORTED if stage is Stage.MAP else Cause.VERIFIER_REJECTED


def facts_of(context: Context, answer: LoadAnswer) -> tuple[results.Program, ...]:
    """Each program as the report tells it. Figures that the kernel did not print stay None."""
    return tuple(_fact(context, program) for program in answer.programs)


def _fact(context: Context, program: ProgramAnswer) -> results.Program:
    cause = cause_of(program.reason, program.stage)
    verdict = (
        Verdict.PASS if program.ok
        else Verdict.UNSUPPORTED if excused(context, program)
        else Verdict.UNKNOWN if cause in UNKNOWN_CAUSES
        else Verdict.FAIL
    )  # fmt: skip
    stats = program.stats
    return results.Program(
        name=program.name, verdict=verdict, why=program.why,
        insns_processed=stats.processed if stats else None,
        insns_limit=context.said_of(program.name).max_insns_processed,
        states_total=stats.total_states if stats else None,
        states_peak=stats.peak_states if stats else None,
        states_per_insn=stats.max_states_per_insn if stats else None,
        marks_read=stats.mark_read if stats else None,
        stack_bytes=stack_bytes(program), stack=stats.stack if stats else (),
        verification_us=stats.verification_us if stats else None,
        jited_bytes=program.jited_bytes,
    )  # fmt: skip


def stack_bytes(program: ProgramAnswer) -> int | None:
    """Along the deepest chain: the kernel's own figure (since v7.2, each subprogram rounded up), or
    the sum of what it prints, whichever is larger. None: it prints neither."""
    # Of a program that is refused the kernel's own is 0, not a measurement.
    said = program.stats.stack_max if program.ok and program.stats else None
    return max((n for n in (said, program.stack_chain) if n is not None), default=None)
