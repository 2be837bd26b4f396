# SPDX-License-Identifier: Apache-2.0
"""Whatever is not proven keeps the gate closed, with the line that says why."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import checks, cli, coreaccess, gate, paths, prediction
from harness.errors import UsageError
from harness.gate import Coverage, Exemption, Line, Policy, State
from harness.results import Cause, Figure, Run, Verdict
from harness.results import write as write_results
from tests.gate.runs import SHA256, STARTED, cell, check, count, run, unavailable

_NOW = STARTED + datetime.timedelta(hours=1)
_LINES = (
    Line(title="Compiles", checks=("compile",)),
    Line(title="Loads", checks=("load",)),
    Line(title="A million events", checks=("leak",), figure="events received", at_least=1e6),
    Line(title="Kernels", kernels=2),
    Line(title="Coverage", coverage=80),
)
_POLICY = Policy(kernels=("5.4", "6.1"), lines=_LINES)
_COVERAGE = Coverage(percent=91.5, measured=STARTED)
_LEAK = check("leak", figures=(count("events received", 1_000_123),))


def _good() -> Run:
    """Results that open the gate."""
    return run(
        cell("5.4-oldest", check("load"), _LEAK), cell("5.4-newest", check("load"), _LEAK),
        cell("6.1-newest", check("load"), _LEAK), checks=(check("compile"),),
    )  # fmt: skip


def _decided(
    found: Run, policy: Policy = _POLICY, *, coverage: Coverage | None = _COVERAGE, sha256: str = ""
) -> tuple[int, str]:
    decision = gate.decide(found, policy, now=_NOW, coverage=coverage, object_sha256=sha256)
    return decision.status, gate.text(decision)


def test_the_gate_opens_when_every_line_has_its_evidence() -> None:
    status, said = _decided(_good(), sha256=SHA256)

    assert status == 0
    assert said.count("- [x]") == 8
    assert "gate open: 8 lines ticked" in said
    assert "leak on 5.4-oldest, 5.4-newest, 6.1-newest: events received 1.00012e+06" in said
    assert "2 series passed: 5.4, 6.1" in said


def test_a_cell_that_is_absent_keeps_it_closed() -> None:
    found = _good()

    status, said = _decided(replace(found, cells=found.cells[2:]))

    assert status == 3
    assert "- [?] Loads\n      load on 5.4: the results have no such kernel" in said


@pytest.mark.parametrize(
    ("verdict", "cause", "status", "mark"),
    [
        (Verdict.UNKNOWN, Cause.GUEST_LOST, 3, "?"),
        (Verdict.SKIPPED, Cause.NOT_ASKED, 3, "?"),
        (Verdict.UNSUPPORTED, Cause.FEATURE_MISSING, 1, " "),
        (Verdict.FAIL, Cause.VERIFIER_REJECTED, 1, " "),
    ],
)
def test_only_a_pass_ticks_a_line(verdict: Verdict, cause: Cause, status: int, mark: str) -> None:
    found = _good()
    bad = cell("6.1-newest", check("load", verdict, cause, "so\nand so"), _LEAK)

    answer, said = _decided(replace(found, cells=(*found.cells[:2], bad)))

    assert answer == status
    assert f"- [{mark}] Loads\n      load on 6.1-newest: {verdict} ({cause}): so\n" in said
    assert "gate closed" in said


def test_a_kernel_that_nobody_has_keeps_it_closed() -> None:
    found = _good()

    status, said = _decided(replace(found, cells=(unavailable("5.4-oldest"), *found.cells[1:])))

    assert status == 3
    assert "load on 5.4-oldest: not asked: unavailable: no mirror has it" in said


def test_a_check_that_was_not_asked_ticks_nothing() -> None:
    found = _good()
    less = cell("6.1-newest", check("load"))

    status, said = _decided(replace(found, cells=(*found.cells[:2], less)))

    assert status == 3
    assert "- [?] A million events\n      leak on 6.1-newest: not asked\n" in said


@pytest.mark.parametrize(
    ("figures", "status", "why"),
    [
        ((), 3, "passed, but did not measure 'events received'"),
        ((count("events received", 1000),), 1, "the policy asks for at least 1e+06"),
        ((count("events received", float("nan")),), 1, "the policy asks for at least 1e+06"),
    ],
)  # fmt: skip
def test_a_pass_that_measured_too_little_ticks_nothing(
    figures: tuple[Figure, ...], status: int, why: str
) -> None:
    found = _good()
    small = cell("6.1-newest", check("load"), replace(_LEAK, figures=figures))

    answer, said = _decided(replace(found, cells=(*found.cells[:2], small)))

    assert answer == status
    assert why in said


def test_a_bound_from_above_is_exclusive() -> None:
    line = Line(title="Cheap", checks=("leak",), figure="events received", below=1_000_123)
    policy = Policy(kernels=("5.4",), lines=(line,))

    status, said = _decided(_good(), policy)

    assert status == 1
    assert "the policy asks for less than 1.00012e+06" in said


def test_an_exception_holds_until_its_day_and_refuses_afterwards() -> None:
    found = _good()
    bad = cell("6.1-newest", check("load", Verdict.FAIL, Cause.PANIC, "oops"), _LEAK)
    found = replace(found, cells=(*found.cells[:2], bad))

    def policy(expires: datetime.date) -> Policy:
        one = Exemption(check="load", kernel="6.1-*", reason="bug 17", expires=expires)
        return Policy(
            kernels=_POLICY.kernels, lines=_LINES[:3], exceptions=(one,)
        )  # fmt: skip

    status, said = _decided(found, policy(_NOW.date()))
    assert status == 0
    assert "load on 6.1-newest: fail (panic): oops; excepted until 2026-11-22: bug 17" in said
    assert "1 of them with an exception" in said

    status, said = _decided(found, policy(_NOW.date() - datetime.timedelta(days=1)))
    assert status == 1
    assert "the exception for load on 6.1-* ended on 2026-11-21: 'bug 17'" in said
    assert "load on 6.1-newest: fail (panic): oops\n" in said


def test_a_stale_exception_refuses_even_when_nothing_needs_it() -> None:
    old = Exemption(
        check="load", kernel="*", reason="bug 17", expires=_NOW.date() - datetime.timedelta(days=1)
    )

    status, said = _decided(_good(), Policy(kernels=("5.4",), lines=_LINES, exceptions=(old,)))

    assert status == 1
    assert "- [ ] No exception has expired" in said


def test_an_exception_that_nothing_needs_is_named() -> None:
    one = Exemption(check="load", kernel="*", reason="bug 17", expires=_NOW.date())

    status, said = _decided(_good(), Policy(kernels=("5.4",), lines=_LINES, exceptions=(one,)))

    assert status == 0
    assert "note: the exception for load on * is needed no more: remove it" in said


def test_a_kernel_that_nobody_requires_may_be_unknown_but_not_fail() -> None:
    found = _good()
    unknown = cell("7.3-newest", check("load", Verdict.UNKNOWN, Cause.GUEST_LOST))
    assert _decided(replace(found, cells=(*found.cells, unknown)))[0] == 0

    bad = cell("7.3-newest", check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED, "R1"))
    status, said = _decided(replace(found, cells=(*found.cells, bad)))

    assert status == 1
    assert "No other kernel of the run fails\n      load on 7.3-newest: fail (verifier" in said


def test_results_of_another_object_or_of_long_ago_do_not_count() -> None:
    status, said = _decided(_good(), sha256="cd" * 32)
    assert status == 1
    assert "sha256 abababababababab, the one to release has cdcdcdcdcdcdcdcd" in said

    late = gate.decide(
        _good(), _POLICY, now=STARTED + datetime.timedelta(days=30), coverage=_COVERAGE
    )
    assert late.status == 3
    assert "the run was 30 days ago, the policy allows 14" in gate.text(late)
    assert "91.5 % of the lines, but 30 days ago" in gate.text(late)


@pytest.mark.parametrize(
    ("coverage", "status", "why"),
    [
        (None, 3, "no coverage was measured"),
        (Coverage(percent=79.9, measured=STARTED), 1, "79.9 % of the lines, 80 % are asked for"),
    ],
)
def test_coverage_is_measured_or_not_ticked(
    coverage: Coverage | None, status: int, why: str
) -> None:
    answer, said = _decided(_good(), coverage=coverage)
    assert answer == status
    assert why in said


def test_too_few_kernels_are_not_enough() -> None:
    status, said = _decided(_good(), _with_lines(Line(title="Kernels", kernels=3)))
    assert status == 3
    assert "2 series passed: 5.4, 6.1; 3 are asked for" in said


def _with_lines(*lines: Line) -> Policy:
    """The policy with other lines."""
    return Policy(kernels=_POLICY.kernels, lines=lines)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("kernels = []\nlines = []", "lets all pass"),
        ("kernels = ['5.4']\nlines = []", "lets all pass"),
        ("kernels = ['5.4']\n[[lines]]\ntitle = 'x'", "the line 'x' must have checks"),
        ("kernels = ['5.4']\n[[lines]]\ntitle = 'x'\nchecks = ['a']\nkernels = 4", "must have"),
        ("kernels = ['5.4']\n[[lines]]\ntitle = 'x'\nchecks = ['a']\nfigure = 'f'", "one bound"),
        ("kernels = ['5.4']\nunheard = 1", "unheard"),
        ("kernels = [", "policy.toml"),
        (
            "kernels = ['5.4']\n[[lines]]\ntitle = 'x'\nchecks = ['a']\n[[exceptions]]\n"
            "check = 'a'\nkernel = '*'\nreason = ' '\nexpires = 2027-01-01",
            "gives no reason",
        ),
        (
            "kernels = ['5.4']\n[[lines]]\ntitle = 'x'\nchecks = ['a']\n[[exceptions]]\n"
            "check = 'a'\nkernel = '*'\nreason = 'r'",
            "expires",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        gate.read_policy(path)


def test_the_project_s_own_policy_names_checks_that_exist() -> None:
    """A line whose check nobody asks could never be ticked."""
    known = {one.name for one in checks.ALL} | {"compile", coreaccess.NAME, prediction.NAME}
    policy = gate.read_policy(paths.default_manifest().parents[1] / "gate.toml")
    named = {name for line in policy.lines for name in line.checks}
    assert named <= known
    assert {one.name for one in checks.ALL} - named <= {"command"}


def test_what_is_no_coverage_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "coverage.json"
    assert gate.read_coverage(path) is None
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"no JSON report of coverage\.py"):
        gate.read_coverage(path)
    path.write_text(json.dumps({
        "meta": {"timestamp": "2026-11-22T12:00:00"}, "totals": {"percent_covered": 88.25},
    }))  # fmt: skip
    found = gate.read_coverage(path)
    assert found is not None
    assert found.percent == 88.25
    assert found.measured.tzinfo is not None


def test_the_command_s_status_is_the_gate_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def status_of(*words: str | Path) -> int:
        monkeypatch.setattr("sys.argv", ["kernel-matrix", *map(str, words)])
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    write_results(replace(_good(), run=replace(_good().run, started=_today())), tmp_path / "r.json")
    policy = tmp_path / "policy.toml"
    policy.write_text(
        "kernels = ['5.4']\n[[lines]]\ntitle = 'Loads'\nchecks = ['load']\n"
        "[[lines]]\ntitle = 'Rate'\nchecks = ['rate-limit']\n"
    )
    words = ("gate", "--results", tmp_path / "r.json", "--policy", policy)
    assert status_of(*words) == 3
    said = capsys.readouterr().out
    assert "- [x] Loads" in said
    assert "rate-limit on 5.4-oldest, 5.4-newest: not asked" in said
    policy.write_text("kernels = ['5.4']\n[[lines]]\ntitle = 'Loads'\nchecks = ['load']\n")
    assert status_of(*words) == 0


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def test_a_line_without_evidence_is_not_ticked() -> None:
    assert gate.Judged(title="x", findings=()).state is State.UNTOLD
