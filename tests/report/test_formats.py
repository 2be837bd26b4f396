# SPDX-License-Identifier: Apache-2.0
"""Every form of the report: they agree, they are fast, and no text from outside breaks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Xml

import jsonschema
import pytest
import xmlschema

from harness import reporting, results
from harness.reporting import badge, html, junit, markdown, sarif, terminal
from harness.reporting.words import SYMBOL
from harness.results import Cause, Evidence, Run, Verdict
from tests.report.runs import FAIL, PASS, UNAVAILABLE, UNKNOWN, cell, check, matrix, run

_ROOT = Path(__file__).parents[2]


class _Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.kernels: list[str] = []
        self.scripts: list[str | None] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    # typing.override is of Python 3.12.
    def handle_starttag(  # type: ignore[explicit-override]
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        found = dict(attrs)
        classes = (found.get("class") or "").split()
        if tag == "a" and "c" in classes:
            self.cells += [name.removeprefix("v-") for name in classes if name.startswith("v-")]
        if tag == "tr" and found.get("data-verdict"):
            self.kernels.append(found["data-verdict"] or "")
        if tag == "script":
            self.scripts.append(found.get("type"))
        self.handlers += [name for name in found if name.startswith("on")]
        self.links += [value for name in ("href", "src") if (value := found.get(name))]


def _verdicts(made: Run) -> Counter[str]:
    return Counter(str(one.verdict) for c in made.cells for one in c.checks)


def _symbols(text: str) -> Counter[str]:
    """Verdicts by the symbols that begin the checks' columns of a table."""
    words = {symbol: str(verdict) for verdict, symbol in SYMBOL.items()}
    return Counter(words[symbol] for symbol in text if symbol in words)


def test_every_form_counts_the_same_verdicts() -> None:
    """Whoever decides by one of them decides as the others do."""
    made = matrix(20)
    expected = _verdicts(made)
    kernels = Counter(str(one.verdict) for one in made.cells)
    assert set(expected) == {str(verdict) for verdict in Verdict}

    page = _Page(html.html(made, None))
    assert Counter(page.cells) == expected
    assert Counter(page.kernels) == kernels

    for table in (terminal.rows(made), _markdown_rows(markdown.short(made))):
        inner = [word for row in table for word in row[3:]]
        assert _symbols("".join(word[:1] for word in inner)) == expected
        assert _symbols("".join(row[2][:1] for row in table)) == kernels

    suites = Xml.fromstring(junit.junit(made))
    cases = [case for suite in suites[1:] for case in suite.iter("testcase")]
    assert Counter(_junit_verdict(case) for case in cases) == expected
    assert all(
        f"{count} {verdict}" in reporting.verdict_line(made) for verdict, count in kernels.items()
    )


def _markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[word.strip() for word in line.strip("|").split("|")] for line in lines]


def _junit_verdict(case: Xml.Element) -> str:
    return case[0].get("message", "").replace(":", " ").split()[0] if len(case) else "pass"


@pytest.mark.parametrize(
    ("verdict", "cause", "element"),
    [
        (Verdict.PASS, Cause.NONE, None),
        (Verdict.FAIL, Cause.BEHAVIOUR, "failure"),
        (Verdict.FAIL, Cause.PANIC, "failure"),
        (Verdict.UNKNOWN, Cause.INFRA, "error"),
        (Verdict.UNKNOWN, Cause.GUEST_LOST, "error"),
        (Verdict.UNKNOWN, Cause.TIMEOUT, "error"),
        (Verdict.UNKNOWN, Cause.HARNESS, "error"),
        (Verdict.UNKNOWN, Cause.HANG, "error"),
        (Verdict.UNKNOWN, Cause.OUT_OF_MEMORY, "error"),
        (Verdict.UNKNOWN, Cause.NONE, "skipped"),
        (Verdict.UNKNOWN, Cause.NOT_REACHED, "skipped"),
        (Verdict.UNAVAILABLE, Cause.KERNEL_UNAVAILABLE, "skipped"),
        (Verdict.UNSUPPORTED, Cause.FEATURE_MISSING, "skipped"),
        (Verdict.SKIPPED, Cause.NOT_ASKED, "skipped"),
    ],
)
def test_junit_fails_only_what_failed(verdict: Verdict, cause: Cause, element: str | None) -> None:
    """Trouble of ours is an error, what was not asked is skipped, with the reason."""
    suites = Xml.fromstring(junit.junit(run(cell("a", check("load", verdict, cause, "because")))))
    suite = suites[1]
    (case,) = suite.iter("testcase")

    assert [child.tag for child in case] == ([element] if element else [])
    counts = {name: int(suite.get(name, "")) for name in ("failures", "errors", "skipped")}
    wanted = {"failure": "failures", "error": "errors", "skipped": "skipped"}.get(element or "")
    assert counts == {name: int(name == wanted) for name in counts}
    assert element is None or "because" in case[0].get("message", "")


@pytest.mark.parametrize(
    "made", [matrix(12), run(), run(checks=[FAIL])], ids=["all", "none", "not compiled"]
)
def test_junit_keeps_to_the_common_schema(made: Run) -> None:
    """Jenkins, GitLab and the rest refuse a file that does not."""
    schema = xmlschema.XMLSchema(Path(__file__).parent / "junit.xsd")

    schema.validate(junit.junit(made).decode())


def test_a_time_with_a_zone_is_told_in_utc() -> None:
    """JUnit's moments have no zone."""
    facts = replace(run().run, started="2026-11-22T12:00:00+02:00")
    suites = Xml.fromstring(junit.junit(replace(run(checks=[PASS]), run=facts)))

    assert suites[0].get("timestamp") == "2026-11-22T10:00:00"


# Of the standard's schema, what a viewer needs of such results.
_SARIF = {
    "type": "object",
    "required": ["$schema", "version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"items": {"$ref": "#/$defs/run"}, "minItems": 1, "maxItems": 1},
    },
    "$defs": {
        "text": {"required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
        "rule": {
            "required": ["id", "shortDescription", "help"],
            "properties": {
                "shortDescription": {"$ref": "#/$defs/text"},
                "help": {"$ref": "#/$defs/text"},
            },
        },
        "run": {
            "required": ["tool", "results", "originalUriBaseIds"],
            "properties": {
                "tool": {
                    "required": ["driver"],
                    "properties": {
                        "driver": {
                            "required": ["name", "rules"],
                            "properties": {"rules": {"items": {"$ref": "#/$defs/rule"}}},
                        }
                    },
                },
                "results": {"items": {"$ref": "#/$defs/result"}},
            },
        },
        "result": {
            "required": ["ruleId", "ruleIndex", "level", "message", "locations"],
            "properties": {
                "level": {"enum": ["error", "warning", "note"]},
                "message": {"$ref": "#/$defs/text"},
                "locations": {"items": {"$ref": "#/$defs/location"}, "minItems": 1},
            },
        },
        "location": {
            "required": ["physicalLocation"],
            "properties": {
                "physicalLocation": {
                    "required": ["artifactLocation"],
                    "properties": {
                        "artifactLocation": {
                            "required": ["uri"],
                            "properties": {"uri": {"type": "string", "pattern": "^[^ ]+$"}},
                        },
                        "region": {"properties": {"startLine": {"minimum": 1}}},
                    },
                }
            },
        },
    },
}


def test_sarif_points_to_file_and_line() -> None:
    """A code host draws the finding beside the line."""
    made = matrix(4)
    log = json.loads(sarif.sarif(replace(made, subject=replace(made.subject, sources="bpf"))))
    jsonschema.Draft202012Validator(_SARIF).validate(log)
    (result,) = log["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]

    assert result["ruleId"] == log["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]["id"]
    assert place["artifactLocation"] == {"uri": "bpf/dns_monitor.bpf.c", "uriBaseId": "SOURCES"}
    assert place["region"]["startLine"] == 458
    assert result["level"] == "error"


def test_sarif_names_the_kernels_of_a_relocation_once() -> None:
    """Sixty kernels without a field are one finding, not sixty."""
    made = matrix(4)
    finding = replace(
        made.checks[1].findings[0], rule="unresolved-relocation", certain=False, file="", line=0
    )
    answer = replace(check("resolve", Verdict.FAIL, Cause.CORE_RELOCATION), findings=(finding,))
    log = json.loads(sarif.sarif(run(cell("a", answer), cell("b", answer))))
    jsonschema.Draft202012Validator(_SARIF).validate(log)
    (result,) = log["runs"][0]["results"]

    assert result["properties"]["kernels"] == ["a", "b"]
    assert result["level"] == "warning"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith(".bpf.o")


def test_all_forms_of_sixty_kernels_take_less_than_two_seconds() -> None:
    """A report nobody waits for; processor time, for other tests share the machine."""
    made = matrix(60)
    started = time.process_time()
    drawn = reporting.draw(made, None)

    assert time.process_time() - started < 2.0
    assert sum(map(len, drawn.values())) < 6_000_000


_EVIL = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> ]]>|`\n```\n# \x00\x1b[31m"
)


def _poisoned(value: object) -> object:
    """Every text of a result replaced by a hostile one."""
    if isinstance(value, StrEnum):
        return value
    if isinstance(value, str):
        return _EVIL
    if isinstance(value, tuple):
        return tuple(_poisoned(item) for item in value)
    if isinstance(value, dict):
        return dict.fromkeys([_EVIL], _poisoned(next(iter(value.values())))) if value else {}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _poisoned(getattr(value, f.name)) for f in fields(value)})
    return value


def test_no_text_of_a_result_can_become_code() -> None:
    """Logs, names and paths come from kernels and from other people's objects."""
    evil = _poisoned(matrix(10))
    assert isinstance(evil, Run)
    clean, dirty = _Page(html.html(matrix(10), None)), _Page(html.html(evil, None))

    assert dirty.scripts == clean.scripts == [None]
    assert not dirty.handlers
    assert not [link for link in dirty.links if not link.startswith(("#", "data:,", "%"))]
    assert "<img" not in markdown.short(evil)
    Xml.fromstring(badge.badge(evil))
    xmlschema.XMLSchema(Path(__file__).parent / "junit.xsd").validate(junit.junit(evil).decode())
    jsonschema.Draft202012Validator(_SARIF).validate(json.loads(sarif.sarif(evil)))
    # A terminal would obey an escape sequence.
    assert "\x1b" not in reporting.table(evil) + reporting.problems_text(evil)


def test_the_page_asks_the_network_for_nothing() -> None:
    """It is opened from a mail, from an artifact, on a machine without network."""
    page = html.html(matrix(10), None)

    outside = [link for link in _Page(page).links if ":" in link and not link.startswith("data:")]
    assert outside == []
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page


def test_a_link_that_is_none_of_ours_is_not_made(tmp_path: Path) -> None:
    """A path in results must lead nowhere but below the report."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "report" / "kernels").mkdir(parents=True)
    (tmp_path / "report" / "kernels" / "ours").write_text("; source\n12: (79)")
    (tmp_path / "report" / "kernels" / "link").symlink_to(tmp_path / "secret")
    paths = [
        "../secret",
        str(tmp_path / "secret"),
        "kernels/link",
        "javascript:alert(1)",
        "kernels/ours",
    ]
    answer = replace(FAIL, evidence=tuple(Evidence(title="f", path=path) for path in paths))
    made = run(replace(cell("a", answer), console=""))
    page = html.html(made, tmp_path / "report")
    found = _Page(page)

    assert found.scripts.count("text/plain") == 1  # ours alone is packed into the page
    assert not [link for link in found.links if "secret" in link or "javascript:" in link]
    assert "kernels/ours" in found.links
    assert "(../secret)" not in markdown.full(made)


def test_a_report_is_redrawn_with_nothing_but_its_results(tmp_path: Path) -> None:
    """No kernel, no Docker, no QEMU, no git, not even a PATH; the step summary is appended to."""
    made = matrix(4)
    results.write(made, tmp_path / "results.json")
    summary = tmp_path / "step-summary"
    summary.write_text("before\n")
    subprocess.run(
        [sys.executable, "-m", "harness", "report", "--results", str(tmp_path / "results.json")],
        env={"PATH": "", "HOME": str(tmp_path), "GITHUB_STEP_SUMMARY": str(summary),
             "PYTHONPATH": str(_ROOT)},
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    )  # fmt: skip

    for name, content in reporting.draw(made, tmp_path).items():
        assert (tmp_path / name).read_bytes() == content
    assert summary.read_text().startswith("before\n## Kernel matrix")


def test_drawing_loads_nothing_that_runs_guests() -> None:
    """The layers say so; this says it of what is really loaded."""
    code = (
        "import sys; from pathlib import Path; from harness import reporting;"
        "from harness.reporting import html; from tests.report.runs import run;"
        "reporting.draw(run(), None);"
        "print([m for m in ('docker', 'harness.vm', 'harness.process') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, env=dict(os.environ), check=True,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.stdout.strip() == "[]"


def test_a_comment_on_a_pull_request_is_never_too_long() -> None:
    """GitHub refuses more than 65,536 characters."""
    long = [
        cell(f"k{n}", check("load", Verdict.FAIL, Cause.BEHAVIOUR, f"{n} " * 300))
        for n in range(300)
    ]
    short = markdown.short(run(*long))

    assert len(short) < 65_536
    assert "the report has all of it" in short
    assert "cut here" not in markdown.short(matrix(60))


def test_kernels_that_could_not_be_had_or_told_are_not_green() -> None:
    """In a page as in a table."""
    page = _Page(html.html(run(cell("a", UNKNOWN), cell("b", UNAVAILABLE, boot=None)), None))

    assert sorted(page.kernels) == ["unavailable", "unknown"]
