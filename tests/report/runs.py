# SPDX-License-Identifier: Apache-2.0
"""Results to draw: small ones made by hand, and a recorded run grown to many kernels."""

from __future__ import annotations

from collections.abc import Sequence

from harness.results import (
    SCHEMA,
    BootFacts,
    Cause,
    Cell,
    CheckResult,
    KernelFacts,
    Run,
    RunFacts,
    SubjectFacts,
    Verdict,
)  # fmt: skip

BOOT = BootFacts(
    backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", qemu="QEMU 10",
    vcpus=2, memory_mib=768, boot_s=3.21, libbpf="1.1",
)  # fmt: skip
FACTS = RunFacts(
    started="2026-11-22T12:00:00+00:00", duration_s=12.5, command="inv kernel-matrix",
    backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", host="Linux",
    harness="0.1.0", commit="abc", compiler="clang 14", lock_sha256="00",
)  # fmt: skip
SUBJECT = SubjectFacts(name="dns_monitor", path="dns_monitor.bpf.o", sha256="11")


def check(name: str, verdict: Verdict, cause: Cause = Cause.NONE, summary: str = "") -> CheckResult:
    """An answer."""
    return CheckResult(check=name, verdict=verdict, cause=cause, summary=summary, remedy="do this")


def cell(
    name: str, *checks: CheckResult, release: str = "5.10.0-30", boot: BootFacts | None = BOOT
) -> Cell:
    """A kernel with these answers; the series is the release's."""
    series = ".".join(release.split(".")[:2])
    kernel = KernelFacts(name=name, series=series, arch="x86_64", release=release)
    return Cell(kernel=kernel, boot=boot, checks=checks, console="kernels/x/console.log")


def run(*cells: Cell, checks: Sequence[CheckResult] = ()) -> Run:
    """A run of these kernels."""
    return Run(schema=SCHEMA, run=FACTS, subject=SUBJECT, checks=tuple(checks), cells=cells)


PASS = check("load", Verdict.PASS)
FAIL = check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED, "R1 invalid mem access")
UNKNOWN = check("load", Verdict.UNKNOWN, Cause.GUEST_LOST, "QEMU killed")
UNAVAILABLE = check("boot", Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, "no mirror")
