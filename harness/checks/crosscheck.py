# SPDX-License-Identifier: Apache-2.0
"""Did libbpf in the guest resolve each relocation as we predicted?

A difference is our own fault, never the subject's: the verdict is `unknown`, the cause `harness`.
"""

from __future__ import annotations

from dataclasses import replace

from harness import objcheck
from harness.btf import BpfObject, Plan, Rules
from harness.btf.crosscheck import Difference, compare_log, reached_relocations
from harness.btf.store import IndexStore
from harness.checks.context import OBJCHECK, Check, Context, Need
from harness.errors import HarnessError
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

_TIMEOUT_S = 120.0
_ANSWER = "/tmp/relos.jsonl"


def _ask(context: Context) -> CheckResult:
    types = context.types
    if types is None:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the kernel has no BTF: nothing was predicted",
        )  # fmt: skip
    if context.subject.object is None:
        raise HarnessError("the subject has no object")
    obj = BpfObject.from_file(context.subject.object)
    # What a plain load would load: optional twins have the same relocations once more.
    programs = tuple(program.name for program in obj.entry_programs() if program.autoload)
    ran = context.guest.run(
        ["/bin/sh", "-c", f'exec "$@" >{_ANSWER}', "relos", OBJCHECK,
         *objcheck.relos_argv(context.object, replace(context.options(), programs=programs))[1:]],
        timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    answer = context.guest.read_file(_ANSWER) if ran.status == 0 else ran.stdout
    logged = objcheck.parse_relos(answer.decode(errors="replace"))
    target = IndexStore(types.index_dir).open(types.kernel.btf)
    rules = Rules.of(context.features.libbpf)
    compared = 0
    differences: list[Difference] = []
    for program in logged:
        plan = Plan(obj, rules=rules, autoload=[program.name])
        text = "\n".join(line.text for line in program.lines)
        if not reached_relocations(text):
            continue  # it stopped before: an extern or a map, which the load check tells
        differences += compare_log(plan, plan.resolve(target), text)
        compared += len(plan.sites)
    figure = Figure(name="relocations as predicted", value=float(compared), unit="1")
    if differences:
        kept = context.keep("libbpf's log", "relos.jsonl", answer)
        first = differences[0]
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.HARNESS,
            summary=f"the harness predicted {first.program} #{first.index} {first.what} "
            f"'{first.predicted}', libbpf did '{first.actual}' "
            f"({len(differences)} differences in all)",
            remedy="report this with the object and the kernel's BTF: the resolver is wrong",
            evidence=(Evidence(title="differences", text=_lines(differences[:50])), kept),
        )  # fmt: skip
    if not compared:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="libbpf came to no relocation: nothing to compare",
        )  # fmt: skip
    return CheckResult(check=CHECK.name, verdict=Verdict.PASS, figures=(figure,))


def _lines(differences: list[Difference]) -> str:
    return "\n".join(
        f"{d.program} #{d.index} {d.what}: predicted {d.predicted}, libbpf {d.actual}"
        for d in differences
    )


CHECK = Check(
    name="cross-check", question="Did libbpf resolve each relocation as predicted?",
    ask=_ask, estimate_s=1.5, needs=(Need.OBJECT,),
)  # fmt: skip
