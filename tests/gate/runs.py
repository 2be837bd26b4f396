# SPDX-License-Identifier: Apache-2.0
"""Runs as a harness would have written them, to be judged, compared and merged."""

from __future__ import annotations

import datetime
from dataclasses import replace

from harness.results import (
    SCHEMA,
    Cause,
    Cell,
    CheckResult,
    Evidence,
    Figure,
    KernelFacts,
    Program,
    Run,
    Verdict,
)
from tests.report.runs import BOOT, FACTS, SUBJECT

STARTED = datetime.datetime.fromisoformat(FACTS.started)
SHA256 = "ab" * 32


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
    return Cell(kernel=kernel, boot=BOOT, checks=(check("boot"), *checks))


def unavailable(name: str) -> Cell:
    """A kernel that nobody has."""
    boot = check("boot", Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, "no mirror has it")
    return replace(cell(name), boot=None, checks=(boot,))


def run(*cells: Cell, checks: tuple[CheckResult, ...] = (), planned: tuple[str, ...] = ()) -> Run:
    """A whole run of one object."""
    return Run(
        schema=SCHEMA, run=replace(FACTS, planned=planned),
        subject=replace(SUBJECT, sha256=SHA256), checks=checks, cells=cells,
    )  # fmt: skip


def evidence(name: str) -> Evidence:
    """A file of a kernel's."""
    return Evidence(title="log", path=f"kernels/{name}/load.jsonl")
