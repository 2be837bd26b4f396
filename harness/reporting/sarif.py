# SPDX-License-Identifier: Apache-2.0
"""Results → SARIF 2.1.0: what the checks say of lines of the subject's source.

Field names are those of the OASIS standard "Static Analysis Results Interchange Format (SARIF)
Version 2.1.0", sections 3.13-3.28.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from harness.results import Finding, Run

_SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_ROOT: Final = "SOURCES"

Level = Literal["error", "warning", "note"]


class _Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class _Message(_Struct, frozen=True):
    text: str


class _Configuration(_Struct, frozen=True):
    level: Level


class _Rule(_Struct, frozen=True):
    id: str
    name: str
    short_description: _Message
    help: _Message
    default_configuration: _Configuration


class _Driver(_Struct, frozen=True):
    name: str
    version: str
    rules: list[_Rule]


class _Tool(_Struct, frozen=True):
    driver: _Driver


class _Artifact(_Struct, frozen=True):
    uri: str
    uri_base_id: str | None = None


class _Region(_Struct, frozen=True):
    start_line: int
    snippet: _Message | None = None


class _Physical(_Struct, frozen=True):
    artifact_location: _Artifact
    region: _Region | None = None


class _Logical(_Struct, frozen=True):
    name: str
    kind: str


class _Location(_Struct, frozen=True):
    physical_location: _Physical
    logical_locations: list[_Logical]


class _Properties(_Struct, frozen=True):
    kernels: list[str]
    program: str
    insn: int


class _Result(_Struct, frozen=True):
    rule_id: str
    rule_index: int
    level: Level
    message: _Message
    locations: list[_Location]
    partial_fingerprints: dict[str, str]
    properties: _Properties


class _Invocation(_Struct, frozen=True):
    command_line: str
    execution_successful: bool


class _Base(_Struct, frozen=True):
    description: _Message


class _Run(_Struct, frozen=True):
    tool: _Tool
    invocations: list[_Invocation]
    original_uri_base_ids: dict[str, _Base]
    results: list[_Result]
    column_kind: Literal["utf16CodeUnits"]


class _Log(_Struct, frozen=True):
    version: Literal["2.1.0"]
    runs: list[_Run]
    schema: str = msgspec.field(name="$schema")


_RULES: Final = {
    "fixed-offset": _Rule(
        id="fixed-offset", name="FixedOffset",
        short_description=_Message(text="Kernel memory is read at a fixed offset"),
        help=_Message(
            text="Read it with BPF_CORE_READ(), or give the struct "
            "__attribute__((preserve_access_index)): the next kernel may move the field."
        ),
        default_configuration=_Configuration(level="error"),
    ),
    "perhaps-fixed-offset": _Rule(
        id="perhaps-fixed-offset", name="PerhapsFixedOffset",
        short_description=_Message(text="Kernel memory may be read at a fixed offset"),
        help=_Message(
            text="Behind a relocated offset: an element of an array is right, a field is not."
        ),
        default_configuration=_Configuration(level="note"),
    ),
    "unresolved-relocation": _Rule(
        id="unresolved-relocation", name="UnresolvedRelocation",
        short_description=_Message(text="A CO-RE relocation has no target on a kernel"),
        help=_Message(
            text="Guard the access with bpf_core_field_exists(), or add a flavour of the struct "
            "for that kernel's layout; inv resolve shows what each kernel has."
        ),
        default_configuration=_Configuration(level="error"),
    ),
}  # fmt: skip


def sarif(run: Run) -> bytes:
    """The whole document; findings that kernels share are one result that names them."""
    ids = list(_RULES)
    results = [
        _Result(
            rule_id=rule, rule_index=ids.index(rule), level=_level(finding),
            message=_Message(text=_message(finding, kernels)),
            locations=[_location(run, finding)],
            partial_fingerprints={
                "finding/v1": f"{finding.rule}:{finding.file}:{finding.program}:{finding.message}"
            },
            properties=_Properties(kernels=kernels, program=finding.program, insn=finding.insn),
        )
        for finding, kernels in _gathered(run)
        if (rule := finding.rule) in _RULES
    ]  # fmt: skip
    log = _Log(
        schema=_SCHEMA, version="2.1.0",
        runs=[
            _Run(
                tool=_Tool(
                    driver=_Driver(
                        name="kernel-matrix", version=run.run.harness, rules=list(_RULES.values())
                    )
                ),
                invocations=[_Invocation(command_line=run.run.command, execution_successful=True)],
                original_uri_base_ids={
                    _ROOT: _Base(
                        description=_Message(text="The directory that the run was started in.")
                    )
                },
                results=results, column_kind="utf16CodeUnits",
            )
        ],
    )  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(log), indent=1) + b"\n"


def _gathered(run: Run) -> Iterable[tuple[Finding, list[str]]]:
    """Each finding once, with the kernels that have it; none for one about the object itself."""
    found: dict[Finding, list[str]] = {}
    for check in run.checks:
        for finding in check.findings:
            found.setdefault(finding, [])
    for cell in run.cells:
        for check in cell.checks:
            for finding in check.findings:
                found.setdefault(finding, []).append(cell.kernel.name)
    return found.items()


def _level(finding: Finding) -> Level:
    if finding.rule == "perhaps-fixed-offset":
        return "note"
    return "error" if finding.certain else "warning"


def _message(finding: Finding, kernels: list[str]) -> str:
    where = f" on {', '.join(kernels)}" if kernels else ""
    return f"{finding.program}+{finding.insn}: {finding.message}{where}"


def _location(run: Run, finding: Finding) -> _Location:
    region = None
    if finding.file and finding.line > 0:
        snippet = _Message(text=finding.text) if finding.text else None
        region = _Region(start_line=finding.line, snippet=snippet)
    return _Location(
        physical_location=_Physical(
            artifact_location=_artifact(finding.file or run.subject.path, run.subject.sources),
            region=region,
        ),
        logical_locations=[_Logical(name=finding.program, kind="function")],
    )


def _artifact(file: str, sources: str) -> _Artifact:
    """Relative to where the run was started, as code hosts want it; absolute: of that machine."""
    path = posixpath.normpath(posixpath.join(sources, file))
    if path.startswith("/"):
        return _Artifact(uri=f"file://{quote(path)}")
    return _Artifact(uri=quote(path), uri_base_id=_ROOT)
