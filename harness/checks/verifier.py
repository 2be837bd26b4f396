# SPDX-License-Identifier: Apache-2.0
"""What does each program cost the kernel's verifier, and is that within what was agreed?

The figures come from the log of each program's own load (level 4, see `verifierlog`). They are
exact: the same object costs the same kernel the same count each time, so limits need no tolerance.
`bpf_prog_info.verified_insns` (since v5.16) is a second witness of the count; where the two differ
we misread one of them, which is our fault and never the subject's.
"""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from harness import baseline
from harness.baseline import KernelCosts, Kind
from harness.checks import loaded
from harness.checks.context import Check, Context, Need
from harness.checks.loaded import REMEDY, UNKNOWN_CAUSES, cause_of
from harness.objcheck import ProgramAnswer
from harness.results import Cause, CheckResult, Figure, Program, Verdict, worst

_LIMIT_REMEDY = {
    "count": "make the program cheaper to verify (inv kernel-matrix --checks hot-lines names the "
    "source lines that cost most), or raise max_insns_processed in the manifest",
    "growth": "undo what made it dearer (--checks hot-lines names the source lines), or agree to "
    "it: inv baseline, and commit the file",
    "stack": "use less stack: smaller locals, a per-CPU array as scratch space",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finding:
    """Something to say; of several the worst verdict decides."""

    verdict: Verdict
    text: str
    cause: Cause = Cause.NONE
    remedy: str = ""


def _ask(context: Context) -> CheckResult:
    found = loaded.ask(context)
    programs = found.answer.programs
    facts = loaded.facts_of(context, found.answer)
    accepted = [program for program in programs if program.ok]
    known, notes = _baseline(context)
    findings = [
        *(finding for program in programs for finding in _of_program(context, program)),
        *_against_baseline(context, programs, facts, known),
        *(_Finding(verdict=Verdict.PASS, text=note) for note in notes),
    ]
    table = context.keep("figures", "verifier.txt", _table(programs, facts, known).encode())
    evidence = (table, found.kept)
    verdict = worst(finding.verdict for finding in findings) if findings else Verdict.PASS
    if not accepted and verdict is Verdict.PASS:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNSUPPORTED, cause=Cause.FEATURE_MISSING,
            summary="none of its programs loads here, which the manifest excuses",
            remedy=REMEDY[Cause.FEATURE_MISSING], programs=facts, evidence=evidence,
        )  # fmt: skip
    deciding = [finding for finding in findings if finding.verdict is verdict]
    said = deciding + [finding for finding in findings if finding.verdict is not verdict]
    return CheckResult(
        check=CHECK.name,
        verdict=verdict,
        cause=deciding[0].cause if deciding else Cause.NONE,
        summary="\n".join(finding.text for finding in said),
        remedy=deciding[0].remedy if deciding else "",
        figures=_figures(context, programs),
        programs=facts,
        evidence=evidence,
    )


# ---- one program ----


def _of_program(context: Context, program: ProgramAnswer) -> list[_Finding]:
    """What one program breaks by itself."""
    if not program.ok:
        if loaded.excused(context, program):
            return []
        cause = cause_of(program.reason, program.stage)
        verdict = Verdict.UNKNOWN if cause in UNKNOWN_CAUSES else Verdict.FAIL
        text = f"{program.name} is refused, there is nothing to judge: {program.why}"
        return [_Finding(verdict=verdict, cause=cause, text=text, remedy=REMEDY.get(cause, ""))]
    findings: list[_Finding] = []
    stats = program.stats
    if stats is None:
        findings.append(_unknown(f"the kernel printed no figures of {program.name}"))
    else:
        limit = context.said_of(program.name).max_insns_processed
        if stats.processed > limit:
            findings.append(
                _exceeded(
                    f"{program.name}: {stats.processed:,} processed instructions, the manifest "
                    f"allows {limit:,}", "count",
                )
            )  # fmt: skip
        if program.verified_insns not in (None, stats.processed):
            findings.append(
                _Finding(
                    verdict=Verdict.UNKNOWN, cause=Cause.HARNESS,
                    text=f"{program.name}: the verifier's log says {stats.processed:,} processed "
                    f"instructions, bpf_prog_info says {program.verified_insns:,}",
                    remedy="report this with the kernel and load.jsonl: the harness misreads one",
                )
            )  # fmt: skip
    return [*findings, *_stack(context, program)]


def _stack(context: Context, program: ProgramAnswer) -> list[_Finding]:
    limit, used = context.subject.manifest.limits.stack_bytes, loaded.stack_bytes(program)
    if limit is None:
        return []
    if used is None:
        return [_unknown(f"the kernel does not say how much stack {program.name} uses")]
    if used <= limit:
        return []
    text = f"{program.name}: {used} bytes of stack along its deepest calls, {limit} are allowed"
    return [_exceeded(text, "stack")]


def _exceeded(text: str, which: str) -> _Finding:
    return _Finding(
        verdict=Verdict.FAIL, cause=Cause.LIMIT_EXCEEDED, text=text, remedy=_LIMIT_REMEDY[which]
    )


def _unknown(text: str) -> _Finding:
    return _Finding(verdict=Verdict.UNKNOWN, cause=Cause.INFRA, text=text)


# ---- all programs against the baseline ----


def _baseline(context: Context) -> tuple[KernelCosts | None, list[str]]:
    """The kernel of the baseline to compare with, and what must be said of it."""
    subject, kernel = context.subject, context.kernel
    if subject.baseline is None:
        return None, []
    if not subject.baseline.exists():
        return None, [f"no baseline yet: '{subject.baseline.name}' (inv baseline makes it)"]
    known = baseline.nearest(
        baseline.read(subject.baseline),
        series=kernel.series, arch=kernel.arch, release=kernel.release,
    )  # fmt: skip
    if known is None:
        return None, [f"the baseline has no kernel of series {kernel.series}: growth not judged"]
    notes: list[str] = []
    if known.release != kernel.release:
        notes.append(f"compared with {known.release}, the nearest of the baseline's {known.series}")
    if baseline.other_compiler(known, subject.compiler):
        notes.append(
            f"the baseline is of another compiler ('{known.compiler}', now '{subject.compiler}'): "
            f"up to {baseline.OTHER_COMPILER:g} times as many instructions are allowed"
        )
    return known, notes


def _against_baseline(
    context: Context,
    programs: tuple[ProgramAnswer, ...],
    facts: tuple[Program, ...],
    known: KernelCosts | None,
) -> list[_Finding]:
    if known is None:
        return []
    answers = {program.name: program for program in programs}
    events = baseline.compare(
        {fact.name: baseline.cost_of(fact) for fact in facts}, known,
        growth=context.subject.manifest.limits.insns_growth, compiler=context.subject.compiler,
    )  # fmt: skip
    findings: list[_Finding] = []
    for event in events:
        if event.kind is Kind.GROWN:
            findings.append(_exceeded(event.text, "growth"))
        elif event.kind is Kind.NEWLY_REFUSED:
            findings.append(_newly_refused(context, answers[event.program], event.text))
        else:
            findings.append(_Finding(verdict=Verdict.PASS, text=event.text))
    return findings


def _newly_refused(context: Context, program: ProgramAnswer, text: str) -> _Finding:
    """A refusal that the manifest excuses is none if the same series took the program before."""
    cause = cause_of(program.reason, program.stage)
    if program.ok:  # its figures are missing, which is said already
        return _Finding(verdict=Verdict.PASS, text=f"{program.name}: not compared")
    if loaded.impossible(context, program):
        return _Finding(verdict=Verdict.PASS, text=f"{text}: this kernel cannot have it")
    verdict = Verdict.UNKNOWN if cause in UNKNOWN_CAUSES else Verdict.FAIL
    return _Finding(
        verdict=verdict, cause=cause, text=f"{text}: {program.why}",
        remedy=REMEDY.get(cause, "") or "the baseline's kernel of this series took it",
    )  # fmt: skip


# ---- figures ----


def _figures(context: Context, programs: tuple[ProgramAnswer, ...]) -> tuple[Figure, ...]:
    """Processed instructions of each program, the dearest first, then what is largest of all."""
    counted = sorted(
        ((p, p.stats) for p in programs if p.ok and p.stats is not None),
        key=lambda pair: -pair[1].processed,
    )
    figures = [
        Figure(
            name=program.name, value=float(stats.processed), unit="1",
            limit=float(context.said_of(program.name).max_insns_processed),
        )
        for program, stats in counted
    ]  # fmt: skip
    shares = [100 * stats.processed / stats.limit for _, stats in counted if stats.limit]
    if shares:
        figures.append(Figure(name="share of the kernel's limit", value=max(shares), unit="%"))
    stacks = [used for p, _ in counted if (used := loaded.stack_bytes(p)) is not None]
    if stacks:
        limit = context.subject.manifest.limits.stack_bytes
        figures.append(
            Figure(
                name="deepest stack", value=float(max(stacks)), unit="B",
                limit=None if limit is None else float(limit),
            )
        )  # fmt: skip
    times = [stats.verification_us for _, stats in counted if stats.verification_us is not None]
    if times:
        figures.append(
            Figure(
                name="verification time", value=sum(times) / 1000, unit="ms",
                emulated=context.emulated,
            )
        )  # fmt: skip
    return tuple(figures)


_HEADERS = (
    "program", "processed", "of the limit", "baseline", "change", "states", "peak", "per insn",
    "marks read", "stack of each", "deepest", "kernel's", "time µs", "verified_insns",
)  # fmt: skip


def _table(
    programs: tuple[ProgramAnswer, ...], facts: tuple[Program, ...], known: KernelCosts | None
) -> str:
    """Every figure; "–" is one that this kernel does not print."""
    rows: list[list[str]] = []
    for program, fact in zip(programs, facts, strict=True):
        stats = program.stats
        before = known.programs.get(program.name) if known else None
        if stats is None or not program.ok:
            rows.append([program.name, "refused" if not program.ok else "–", "", ""])
            continue
        rows.append(
            [
                program.name,
                f"{stats.processed:,}",
                f"{100 * stats.processed / stats.limit:.2f} %" if stats.limit else "–",
                f"{before.processed:,}" if before else "–",
                baseline.change(before.processed, stats.processed) if before else "–",
                *map(_shown, (fact.states_total, fact.states_peak, fact.states_per_insn)),
                _shown(fact.marks_read),
                "+".join(map(str, stats.stack)) or "–",
                *map(_shown, (program.stack_chain, stats.stack_max, stats.verification_us)),
                _shown(program.verified_insns),
            ]
        )
    return tabulate(rows, headers=_HEADERS, tablefmt="simple", disable_numparse=True) + "\n"


def _shown(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


CHECK = Check(
    name="verifier", question="Does each program cost the verifier no more than was agreed?",
    ask=_ask, estimate_s=0.1, needs=(Need.OBJECT,),
)  # fmt: skip
