# SPDX-License-Identifier: Apache-2.0
"""Was the kernel's log clean while the subject was loaded?"""

from __future__ import annotations

from harness import console
from harness.checks.context import Check, Context
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict

MARK = "km: subject phase begins"  # written to /dev/kmsg before the first check
_TIMEOUT_S = 20.0


def _ask(context: Context) -> CheckResult:
    answer = context.guest.run(["/bin/busybox", "dmesg"], timeout_s=_TIMEOUT_S)
    kept = context.keep("kernel log", "dmesg.txt", answer.stdout)
    _, mark, ours = answer.text.rpartition(MARK)
    if answer.status != 0 or not mark:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.UNKNOWN, cause=Cause.INFRA,
            summary="the kernel log does not reach back to where the subject was loaded",
            remedy="boot with a larger log: --append log_buf_len=16M", evidence=(kept,),
        )  # fmt: skip
    found = console.find_splats(ours)
    lines = Figure(name="kernel log lines", value=float(len(ours.splitlines())), unit="1")
    if found:
        return CheckResult(
            check=CHECK.name, verdict=Verdict.FAIL, cause=Cause.KERNEL_SPLAT,
            summary=f"{len(found)} in the kernel log while the subject was loaded: {found[0].line}",
            remedy="read the trace: a WARN in a BPF path is a kernel bug that the object provokes",
            figures=(lines,),
            evidence=(*(Evidence(title="kernel log", text=f.excerpt) for f in found[:3]), kept),
        )  # fmt: skip
    return CheckResult(check=CHECK.name, verdict=Verdict.PASS, evidence=(kept,))


CHECK = Check(
    name="splat", question="Was the kernel's log clean while the subject was loaded?",
    ask=_ask, estimate_s=0.3, each_boot=True,
)  # fmt: skip
