# SPDX-License-Identifier: Apache-2.0
"""What changed between two runs, and which of it is for the worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli, compare
from harness.compare import Change, Kind
from harness.results import Cause, Program, Run, Verdict
from harness.results import write as write_results
from tests.gate.runs import cell, check, count, run, unavailable


def _program(
    name: str, insns: int | None = 5000, *, verdict: Verdict = Verdict.PASS, stack: int = 64
) -> Program:
    return Program(name=name, verdict=verdict, insns_processed=insns, stack_bytes=stack)


def _kinds(before: Run, after: Run) -> list[tuple[str, str, str]]:
    found = compare.compare(before, after)
    return [(c.kind, c.kernel, c.what) for c in (*found.verdicts, *found.figures)]


def _only(before: Run, after: Run) -> Change:
    found = compare.compare(before, after)
    (change,) = (*found.verdicts, *found.figures)
    return change


def test_a_run_is_as_it_was() -> None:
    one = run(cell("5.10-oldest", check("load", programs=(_program("a"),))))
    assert _kinds(one, one) == []
    assert "**no regressions**" in compare.markdown(compare.compare(one, one))


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        (Verdict.PASS, Verdict.FAIL, Kind.REGRESSION),
        (Verdict.PASS, Verdict.UNKNOWN, Kind.REGRESSION),
        (Verdict.PASS, Verdict.UNSUPPORTED, Kind.REGRESSION),
        (Verdict.PASS, Verdict.SKIPPED, Kind.REGRESSION),
        (Verdict.UNKNOWN, Verdict.FAIL, Kind.REGRESSION),
        (Verdict.FAIL, Verdict.PASS, Kind.IMPROVEMENT),
        (Verdict.FAIL, Verdict.UNKNOWN, Kind.OTHER),
        (Verdict.UNAVAILABLE, Verdict.UNKNOWN, Kind.OTHER),
    ],
)
def test_a_verdict_that_changed(was: Verdict, now: Verdict, kind: Kind) -> None:
    change = _only(
        run(cell("5.10-oldest", check("load", was))),
        run(cell("5.10-oldest", check("load", now, summary="why\nmore"))),
    )
    assert (change.kind, change.what, change.before, change.after) == (kind, "load", was, now)
    assert change.note == ("" if now is Verdict.PASS else "why")


def test_another_cause_of_the_same_verdict_is_said() -> None:
    change = _only(
        run(cell("a", check("load", Verdict.FAIL, Cause.PANIC))),
        run(cell("a", check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED))),
    )
    assert (change.before, change.after) == ("fail (panic)", "fail (verifier-rejected)")
    assert change.kind is Kind.OTHER


def test_what_one_run_lacks_is_never_dropped() -> None:
    """Kernels, checks and programs on one side only; what passed and is gone is a regression."""
    before = run(
        cell("gone", check("load")), unavailable("missing"),
        cell("both", check("load", programs=(_program("old"), _program("kept"))), check("leak")),
        checks=(check("compile"),),
    )  # fmt: skip
    after = run(
        cell("both", check("load", programs=(_program("kept"), _program("new")))),
        cell("new", check("load")), cell("newbad", check("load", Verdict.FAIL)),
    )  # fmt: skip
    assert sorted(_kinds(before, after)) == sorted([
        (Kind.REGRESSION, compare.OBJECT, "compile"),
        (Kind.REGRESSION, "gone", "kernel"),
        (Kind.OTHER, "missing", "kernel"),
        (Kind.REGRESSION, "both", "leak"),
        (Kind.REGRESSION, "both", "program old"),
        (Kind.OTHER, "both", "program new"),
        (Kind.OTHER, "new", "kernel"),
        (Kind.REGRESSION, "newbad", "kernel"),
    ])  # fmt: skip


def test_a_program_that_is_newly_refused_is_a_regression_though_its_check_passes() -> None:
    """An optional one: the check excuses it, the comparison does not."""
    before = run(cell("a", check("load", programs=(_program("gcra"),))))
    refused = _program("gcra", None, verdict=Verdict.UNSUPPORTED)
    change = _only(before, run(cell("a", check("load", programs=(refused,)))))
    assert (change.kind, change.what) == (Kind.REGRESSION, "program gcra")
    assert (change.before, change.after) == ("accepted", "refused")


@pytest.mark.parametrize(
    ("insns", "kind"), [(5001, Kind.OTHER), (5500, Kind.OTHER), (5501, Kind.REGRESSION)]
)
def test_instructions_have_no_noise(insns: int, kind: Kind) -> None:
    change = _only(
        run(cell("a", check("load", programs=(_program("p", 5000),)))),
        run(cell("a", check("load", programs=(_program("p", insns),)))),
    )
    assert change.kind is kind
    assert change.what == "p: processed instructions"
    assert change.before == "5,000"


@pytest.mark.parametrize(
    ("unit", "emulated", "still", "moved"),
    [
        ("s", True, 1.99, 2.01),
        ("s", False, 1.33, 1.34),
        ("events/s", False, 1.33, 1.34),
        ("B", False, 1.11, 1.12),
        ("1", False, 1.11, 1.12),
    ],
)
def test_a_figure_moves_when_it_leaves_its_noise(
    unit: str, emulated: bool, still: float, moved: float
) -> None:
    def with_value(value: float) -> Run:
        return run(cell("a", check("x", figures=(count("f", value, unit, emulated=emulated),))))

    assert _kinds(with_value(1.0), with_value(still)) == []
    assert _kinds(with_value(1.0), with_value(moved)) == [(Kind.OTHER, "a", "x: f")]
    assert _kinds(with_value(moved), with_value(1.0)) == [(Kind.OTHER, "a", "x: f")]


def test_next_to_nothing_is_measured_by_its_limit() -> None:
    """Growth of -0.02 against 0.01 bytes an event is nothing where 2 are allowed."""

    def with_value(value: float) -> Run:
        figure = replace(count("growth", value, "B"), limit=2.0)
        return run(cell("a", check("leak", figures=(figure,))))

    assert _kinds(with_value(-0.02), with_value(0.01)) == []
    assert _kinds(with_value(0.0), with_value(0.21)) == [(Kind.OTHER, "a", "leak: growth")]


def test_other_machines_are_remarked() -> None:
    before = run(cell("a"))
    after = replace(
        before,
        run=replace(before.run, accelerator="kvm", compiler="clang 21"),
        cells=(replace(before.cells[0], kernel=replace(before.cells[0].kernel, release="6.1.1")),),
    )
    said = compare.markdown(compare.compare(before, after))
    assert "- accelerator: tcg → kvm" in said
    assert "- compiler: clang 14 → clang 21" in said
    assert "- a: a-release → 6.1.1" in said


def test_words_from_outside_stay_in_their_cell() -> None:
    bad = check("load", Verdict.FAIL, Cause.PANIC, "a | b <script> `x`")
    before, after = run(cell("a", check("load"))), run(cell("a", bad))
    said = compare.markdown(compare.compare(before, after))
    assert "a \\| b &lt;script> \\`x\\`" in said


def test_the_command_fails_on_a_regression_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    write_results(run(cell("a", check("load"))), good / "results.json")
    write_results(run(cell("a", check("load", Verdict.FAIL))), bad / "results.json")

    def status_of(before: Path, after: Path) -> int:
        monkeypatch.setattr("sys.argv", ["kernel-matrix", "compare", str(before), str(after)])
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert status_of(good, bad / "results.json") == 1
    assert "✘ regression | a" in capsys.readouterr().out
    assert status_of(bad, good) == 0
    assert "✔ improvement | a" in capsys.readouterr().out
