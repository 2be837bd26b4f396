# SPDX-License-Identifier: Apache-2.0
"""The `core-access` check: does the object ask each kernel what it has, and never suppose it?

Every read of kernel memory is at a relocated offset, and nothing asks for the kernel's version: a
back-port makes that answer wrong. An object that others compiled may ask; it is told so.
"""

from __future__ import annotations

import time

from harness.btf import BpfObject
from harness.btf.access import Finding, audit
from harness.btf.version import VersionQuestion, version_questions
from harness.results import Cause, CheckResult, Evidence, Figure, Verdict
from harness.results import Finding as Told
from harness.subject import Subject

NAME = "core-access"


def check(subject: Subject) -> CheckResult:
    """Asked once for the object; a fixed offset or a question for the version is a finding.

    Raises BtfError for an object that cannot be read.
    """
    started = time.monotonic()
    if subject.object is None:
        return CheckResult(
            check=NAME, verdict=Verdict.SKIPPED, cause=Cause.NOT_ASKED,
            summary="the subject has no object",
        )  # fmt: skip
    obj = BpfObject.from_file(subject.object)
    findings = audit(obj)
    certain = [finding for finding in findings if finding.certain]
    doubtful = [finding for finding in findings if not finding.certain]
    figures = (
        Figure(name="fixed offsets", value=float(len(certain)), unit="1", limit=0.0),
        Figure(name="relocations", value=float(len(obj.ext.relocations)), unit="1"),
    )
    evidence = tuple(
        Evidence(title=title, text="\n".join(_line(finding) for finding in found))
        for title, found in (("fixed offsets", certain), ("perhaps an array element", doubtful))
        if found
    )
    asking = version_questions(obj)
    if asking:
        lines = "\n".join(_question(one) for one in asking)
        evidence = (*evidence, Evidence(title="asks for the kernel's version", text=lines))
    told = (
        *(_told(finding) for finding in (*certain, *doubtful)),
        *(_told_question(one) for one in asking),
    )
    duration_s = time.monotonic() - started
    if certain:
        return CheckResult(
            check=NAME, verdict=Verdict.FAIL, cause=Cause.CORE_RELOCATION,
            summary=f"{len(certain)} reads of kernel memory at a fixed offset: {_line(certain[0])}",
            remedy="read it with BPF_CORE_READ(), or give the struct "
            "__attribute__((preserve_access_index))",
            figures=figures, evidence=evidence, findings=told, duration_s=duration_s,
        )  # fmt: skip
    if asking and subject.manifest.subject.source:
        return CheckResult(
            check=NAME, verdict=Verdict.FAIL, cause=Cause.CORE_RELOCATION,
            summary=f"it asks for the kernel's version: {_question(asking[0])}",
            remedy="ask for the thing itself: bpf_core_field_exists(), "
            "bpf_core_enum_value_exists(), a probe",
            figures=figures, evidence=evidence, findings=told, duration_s=duration_s,
        )  # fmt: skip
    notes = [f"{len(doubtful)} reads may be of array elements"] if doubtful else []
    notes += [f"it asks for the kernel's version: {_question(asking[0])}"] if asking else []
    return CheckResult(
        check=NAME, verdict=Verdict.PASS, figures=figures, evidence=evidence, findings=told,
        summary="; ".join(notes), duration_s=duration_s,
    )  # fmt: skip


def _told_question(one: VersionQuestion) -> Told:
    return Told(
        rule="kernel-version", certain=True, message=f"asks for the kernel's version ({one.what})",
        program=one.program, insn=one.insn, file=one.file, line=one.line, text=one.text,
    )  # fmt: skip


def _question(one: VersionQuestion) -> str:
    place = f"{one.file}:{one.line}" if one.file else "no line information"
    return f"{one.program}+{one.insn}: {one.what}  {place}  {one.text}".rstrip()


def _told(finding: Finding) -> Told:
    return Told(
        rule="fixed-offset" if finding.certain else "perhaps-fixed-offset",
        certain=finding.certain,
        message=f"{finding.how} reads kernel memory at fixed offset {finding.offset}",
        program=finding.program,
        insn=finding.insn,
        file=finding.file,
        line=finding.line,
        text=finding.text.strip(),
    )


def _line(finding: Finding) -> str:
    place = f"{finding.file}:{finding.line}" if finding.file else "no line information"
    text = f"  {finding.text.strip()}" if finding.text else ""
    return f"{finding.program}+{finding.insn}: {finding.how} at {finding.offset}  {place}{text}"
