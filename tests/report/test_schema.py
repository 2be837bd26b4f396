# SPDX-License-Identifier: Apache-2.0
"""results.json against its published schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from harness import project, results
from harness.errors import UsageError
from harness.results import (
    Cause,
    Evidence,
    Figure,
    Finding,
    Program,
    Ran,
    Relocation,
    RelocationOutcome,
    Series,
    Verdict,
)
from tests.report.runs import FAIL, PASS, UNAVAILABLE, cell, check, run


def _full() -> results.Run:
    """A run in which every kind of field holds something."""
    answer = replace(
        check("verifier", Verdict.FAIL, Cause.LIMIT_EXCEEDED, "too dear"),
        figures=(Figure(name="a", value=1.5, unit="s", emulated=True, limit=2.0),),
        evidence=(Evidence(title="log", text="x"), Evidence(title="file", path="kernels/a/x")),
        programs=(Program(name="p", verdict=Verdict.PASS, insns_processed=5),),
        findings=(
            Finding(rule="fixed-offset", certain=True, message="m", program="p", insn=1, line=3),
        ),
        series=(Series(name="events", unit="1/s", step_s=0.1, values=(1.0, 2.0), limit=3.0),),
        commands=(Ran(command="true", status=0, duration_s=0.1),),
    )
    outcome = RelocationOutcome(kernels=("a",), status="resolved", value=8)
    relocation = Relocation(
        program="p", insn=1, kind="byte_off", path="struct a.b", file="a.c", line=3,
        outcomes=(outcome,),
    )  # fmt: skip
    made = run(cell("a", answer, FAIL), cell("b", UNAVAILABLE, boot=None), checks=[PASS])
    return replace(made, relocations=(relocation,))


def _published() -> dict[str, object]:
    document = json.loads(project.SCHEMA.read_text())
    assert isinstance(document, dict)
    return document


def test_the_published_schema_is_that_of_the_code() -> None:
    """`inv schema` writes it; forgotten, the two drift apart."""
    assert project.SCHEMA.read_bytes() == results.json_schema()


def test_the_published_schema_is_one() -> None:
    """Other people's validators must take it."""
    jsonschema.Draft202012Validator.check_schema(_published())


@pytest.mark.parametrize("made", [_full(), run()], ids=["everything", "nothing"])
def test_what_is_written_keeps_to_the_schema(made: results.Run, tmp_path: Path) -> None:
    """On write, and after a read and another write."""
    path = tmp_path / "results.json"
    for _ in range(2):
        results.write(made, path)
        jsonschema.Draft202012Validator(_published()).validate(json.loads(path.read_text()))
        made = results.read(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cells", 0, "checks", 0, "verdict"), "green"),
        (("cells", 0, "checks", 0, "cause"), "bad luck"),
        (("cells", 0, "kernel", "name"), 5),
        (("cells", 0, "checks", 0, "figures", 0, "value"), "many"),
        (("schema",), 2),
        (("run",), None),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_the_schema_and_the_reader_refuse_the_same(
    place: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    """A closed set stays closed whoever reads."""
    path = tmp_path / "results.json"
    results.write(_full(), path)
    document = json.loads(path.read_text())
    at = document
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    path.write_text(json.dumps(document))

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(_published()).validate(document)
    with pytest.raises(UsageError):
        results.read(path)
