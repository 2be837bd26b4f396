# SPDX-License-Identifier: Apache-2.0
"""Runs as a harness would have written them, to be judged, compared and merged."""

from __future__ import annotations

import datetime
from dataclasses import replace

from harness.results import (
    BootFacts,
    Cause,
    Cell,
    CheckResult,
    Evidence,
    Figure,
    KernelFacts,
    Program,
    Run,
    RunFacts,
    SubjectFacts,
    Verdict,
)

STARTED = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
SHA256 = "ab" * 32
_BOOT = BootFacts(
    backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", qemu="QEMU 10",
    vcpus=2, memory_mib=768, boot_s=3.2,
)  # fmt: skip


def check(
    name: str,
    verdict: Verdict = Verdict.PASS,
    cause: Cause = Cause.NONE,
    summary: str = "",
    *,
    figures: tuple[Figure, ...] = (),
    programs: tuple[Program, ...] = (),
) -> CheckResult:
    """An answer."""
    return CheckResult(
        check=name, verdict=verdict, cause=cause, summary=summary, figures=figures,
        programs=programs,
    )  # fmt: skip


def count(name: str, value: float, unit: str = "1", *, emulated: bool = False) -> Figure:
    """A figure without a limit."""
    return Figure(name=name, value=value, unit=unit, emulated=emulated)


def cell(name: str, *checks: CheckResult) -> Cell:
    """A kernel that booted."""
    kernel = KernelFacts(
        name=name, series=name.partition("-")[0], arch="x86_64", release=f"{name}-release"
    )
    return Cell(kernel=kernel, boot=_BOOT, checks=(check("boot"), *checks))


def unavailable(name: str) -> Cell:
    """A kernel that nobody has."""
    boot = check("boot", Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, "no mirror has it")
    return replace(cell(name), boot=None, checks=(boot,))


def run(*cells: Cell, checks: tuple[CheckResult, ...] = (), planned: tuple[str, ...] = ()) -> Run:
    """A whole run of one object."""
    facts = RunFacts(
        started=STARTED.isoformat(), duration_s=12.5, command="inv kernel-matrix",
        backend="local", accelerator="tcg", accelerator_reason="no /dev/kvm", host="Linux",
        harness="0.1.0", commit="abc", compiler="clang 14", lock_sha256="00", planned=planned,
    )  # fmt: skip
    subject = SubjectFacts(name="dns_monitor", path="dns_monitor.bpf.o", sha256=SHA256)
    return Run(schema=1, run=facts, subject=subject, checks=checks, cells=cells)


def evidence(name: str) -> Evidence:
    """A file of a kernel's."""
    return Evidence(title="log", path=f"kernels/{name}/load.jsonl")
