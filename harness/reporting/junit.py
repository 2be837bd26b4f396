# SPDX-License-Identifier: Apache-2.0
"""Results → JUnit XML: one suite a kernel, one case a check.

Keeps to what Ant's and Jenkins's schemas both allow. A case is a failure only when the kernel or
the subject failed: trouble of ours is an error; what was not asked or could not be had is skipped
with the reason, and so is a failure that is quarantined. The first word of every message is the verdict.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as Xml

from harness.reporting.words import figure, made, printable, quarantined, reproduce
from harness.results import Cause, Cell, CheckResult, Run, Verdict

OBJECT_SUITE: Final = "object"  # of the checks that are asked once, without a kernel
_TROUBLE: Final = frozenset(
    (Cause.INFRA, Cause.TIMEOUT, Cause.GUEST_LOST, Cause.HARNESS, Cause.PANIC, Cause.HANG,
     Cause.OUT_OF_MEMORY, Cause.LIMIT_EXCEEDED, Cause.FLAKY)
)  # fmt: skip
_TEXT_MAX: Final = 20_000  # characters of one piece of evidence


def junit(run: Run) -> bytes:
    """The whole document."""
    suites = Xml.Element("testsuites")
    _add_suite(suites, run, None, run.checks)
    for cell in run.cells:
        _add_suite(suites, run, cell, cell.checks)
    Xml.indent(suites)
    document: bytes = Xml.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _add_suite(
    suites: Xml.Element, run: Run, cell: Cell | None, checks: Sequence[CheckResult]
) -> None:
    name = cell.kernel.name if cell else OBJECT_SUITE
    kinds = [_kind(check) for check in checks]
    suite = Xml.SubElement(
        suites, "testsuite",
        {
            "id": str(len(suites)),
            "name": _token(name),
            "package": _token(run.subject.name),
            "timestamp": _timestamp(run.run.started),
            "hostname": "localhost",
            "tests": str(len(checks)),
            "failures": str(kinds.count("failure")),
            "errors": str(kinds.count("error")),
            "skipped": str(kinds.count("skipped")),
            "time": _seconds(sum(check.duration_s for check in checks)),
        },
    )  # fmt: skip
    properties = Xml.SubElement(suite, "properties")
    for key, value in _facts(run, cell):
        Xml.SubElement(properties, "property", {"name": key, "value": printable(value)})
    for check in checks:
        _add_case(suite, run, cell, check)
    # Ant's schema has no output in a case: the figures of all go here.
    figures = [f"{c.check}: {one.name}: {figure(one)}" for c in checks for one in c.figures]
    Xml.SubElement(suite, "system-out").text = printable("\n".join(figures))
    Xml.SubElement(suite, "system-err")


def _facts(run: Run, cell: Cell | None) -> list[tuple[str, str]]:
    if cell is None:
        return made(run)
    return [
        ("verdict", cell.verdict), ("release", cell.kernel.release), ("arch", cell.kernel.arch),
        ("btf", cell.kernel.btf), ("source", cell.kernel.source), ("console", cell.console),
    ]  # fmt: skip


def _add_case(suite: Xml.Element, run: Run, cell: Cell | None, check: CheckResult) -> None:
    where = cell.kernel.name if cell else OBJECT_SUITE
    case = Xml.SubElement(
        suite, "testcase",
        {
            "name": _token(check.check),
            "classname": _token(f"{run.subject.name}.{where}"),
            "time": _seconds(check.duration_s),
        },
    )  # fmt: skip
    kind = _kind(check)
    if kind:
        first = check.summary.partition("\n")[0]
        cause = f" ({check.cause})" if check.cause else ""
        message = f"{check.verdict}{cause}{f': {first}' if first else ''}"
        if check.quarantine:
            message = f"{message}; {quarantined(check)}"
        told = Xml.SubElement(case, kind, {"message": printable(message)})
        if kind != "skipped":
            told.set("type", check.cause or check.verdict)
        told.text = printable(_told(run, cell, check))


def _kind(check: CheckResult) -> str:
    """The element that says how a case ended, "" for a pass."""
    if check.quarantine:
        return "skipped"
    match check.verdict:
        case Verdict.PASS:
            return ""
        case Verdict.FAIL:
            return "failure"
        case Verdict.UNKNOWN if check.cause in _TROUBLE:
            return "error"
        case _:
            return "skipped"


def _told(run: Run, cell: Cell | None, check: CheckResult) -> str:
    parts = [check.summary]
    if check.remedy:
        parts.append(f"what to do: {check.remedy}")
    for item in check.evidence:
        words = item.text[-_TEXT_MAX:] if item.text else f"see {item.path}"
        parts.append(f"{item.title}:\n{words}")
    parts.append(f"again: {reproduce(run, cell, check.check)}")
    return "\n\n".join(part for part in parts if part)


def _token(words: str) -> str:
    """A name; the schemas want one of at least a letter."""
    return " ".join(printable(words).split()) or "unnamed"


def _seconds(duration_s: float) -> str:
    return f"{min(abs(duration_s), 1e9):.3f}"


def _timestamp(started: str) -> str:
    """In UTC and without a zone, as the schemas want it."""
    try:
        when = datetime.datetime.fromisoformat(started)
    except ValueError:  # results that somebody edited
        when = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
