# SPDX-License-Identifier: Apache-2.0
"""Pass and fail on the same inputs is neither: between tries, against history, in shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness import flaky, history, job, merge, reporting
from harness.cell import to_try_again
from harness.compare import Kind, compare
from harness.errors import UsageError
from harness.results import Cause, Cell, CheckResult, Evidence, Run, Verdict
from harness.sitting import Sitting
from tests.gate.runs import cell, check, run
from tests.report.runs import BOOT

_PASS = check("load")
_FAIL = check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED, "R1 invalid mem access")
_LOST = check("attach", Verdict.UNKNOWN, Cause.GUEST_LOST, "QEMU was killed")
_INPUTS = {"harness": "1", "subject": "2", "kernel": "3", "checks": "4"}


def _cell(*checks: CheckResult, **inputs: str) -> Cell:
    return replace(cell("6.1-oldest", *checks), inputs=_INPUTS | inputs)


def _run(one: Cell, started: str = "2026-11-22T12:00:00+00:00", identity: str = "") -> Run:
    made = run(one, planned=("6.1-oldest",))
    return replace(made, run=replace(made.run, started=started, id=identity))


def _load(found: Run) -> CheckResult:
    return next(one for one in found.cells[0].checks if one.check == "load")


def test_a_pass_that_fails_in_the_second_try_is_flaky_and_both_are_named() -> None:
    second = replace(_FAIL, evidence=(Evidence(title="log", text="x"),))
    first = replace(_PASS, evidence=(Evidence(title="first", text="y"),))

    (load, attach) = flaky.between_tries([first, _LOST], [second, check("attach")])

    assert (load.verdict, load.cause) == (Verdict.UNKNOWN, Cause.FLAKY)
    assert "first try pass; second try fail (verifier-rejected): R1 invalid" in load.summary
    assert [one.title for one in load.evidence] == ["log", "first"]
    assert attach == check("attach")  # unknown first is no answer to contradict


@pytest.mark.parametrize(
    ("checks", "again"),
    [
        ([_PASS, _LOST], True),
        ([check("sampling", Verdict.UNKNOWN, Cause.INFRA, "too few were offered")], True),
        ([check("command", Verdict.UNKNOWN, Cause.TIMEOUT), _LOST], True),
        ([_FAIL, _LOST], False),
        ([check("boot", Verdict.UNKNOWN, Cause.HANG)], False),
        ([check("command", Verdict.UNKNOWN, Cause.NOT_STARTED)], False),
        ([check("cross-check", Verdict.UNKNOWN, Cause.HARNESS)], False),
        ([check("load", Verdict.UNKNOWN, Cause.FLAKY)], False),
        ([_PASS], False),
    ],
    ids=["guest lost", "no load to offer", "a timeout, then lost", "a failure, then lost", "hang",
         "not started", "we contradict ourselves", "flaky", "pass"],
)  # fmt: skip
def test_only_trouble_of_ours_is_tried_again(checks: list[CheckResult], again: bool) -> None:
    assert (to_try_again(Sitting(checks=tuple(checks))) is not None) is again


@pytest.mark.parametrize("cause", [Cause.PANIC, Cause.HANG])
def test_an_emulated_boot_that_comes_to_nothing_is_tried_again_a_lost_guest_is_not(
    cause: Cause,
) -> None:
    """The first may be the emulator's doing; what happens later has the subject in it."""
    dead = check("boot", Verdict.UNKNOWN, cause, "Oops: int3")
    silent = check("load", Verdict.UNKNOWN, cause, "no answer")

    assert to_try_again(Sitting(checks=(dead,), emulated=True)) is dead
    assert to_try_again(Sitting(checks=(dead,), emulated=False)) is None
    assert to_try_again(Sitting(checks=(_PASS, silent), boot=BOOT, emulated=True)) is None


@pytest.mark.parametrize(("then", "now"), [(_PASS, _FAIL), (_FAIL, _PASS)], ids=["fails", "passes"])
def test_an_earlier_run_of_the_same_inputs_that_says_otherwise_makes_it_flaky(
    tmp_path: Path, then: CheckResult, now: CheckResult
) -> None:
    """Even when it was asked with other checks around it."""
    history.append(_run(_cell(then, checks="other"), "2026-11-20T08:00:00+00:00"), tmp_path)

    load = _load(history.contradicted(_run(_cell(now)), history.read(tmp_path)))

    assert (load.verdict, load.cause) == (Verdict.UNKNOWN, Cause.FLAKY)
    assert "2026-11-20T08:00" in load.summary
    assert f"now {now.verdict}" in load.summary
    assert f"{then.verdict}" in load.summary.partition("2026-11-20T08:00")[2]


@pytest.mark.parametrize("name", ["harness", "subject", "kernel"])
def test_other_inputs_contradict_nothing(tmp_path: Path, name: str) -> None:
    history.append(_run(_cell(_FAIL, **{name: "other"})), tmp_path)

    assert _load(history.contradicted(_run(_cell(_PASS)), history.read(tmp_path))) == _PASS


def test_another_accelerator_or_an_older_entry_contradicts_nothing(tmp_path: Path) -> None:
    slow = _cell(_FAIL)
    assert slow.boot is not None
    history.append(_run(replace(slow, boot=replace(slow.boot, accelerator="kvm"))), tmp_path)
    history.append(_run(replace(slow, inputs={})), tmp_path)

    assert _load(history.contradicted(_run(_cell(_PASS)), history.read(tmp_path))) == _PASS


def test_once_flaky_it_stays_so_until_an_input_changes(tmp_path: Path) -> None:
    seen = [_run(_cell(_PASS), "2026-11-20T08:00:00+00:00")]
    for day, one in ((21, _FAIL), (22, _PASS)):
        for entry in seen[-1:]:
            history.append(entry, tmp_path)
        now = _run(_cell(one), f"2026-11-{day}T08:00:00+00:00")
        seen.append(history.contradicted(now, history.read(tmp_path)))

    assert [_load(one).cause for one in seen] == [Cause.NONE, Cause.FLAKY, Cause.FLAKY]


def test_a_resumed_run_does_not_contradict_its_own_beginning(tmp_path: Path) -> None:
    history.append(_run(_cell(_FAIL), identity="one"), tmp_path)
    history.append(_run(_cell(_PASS), identity="one"), tmp_path)

    assert [one.kernels[0].failed for one in history.read(tmp_path)] == [{}]  # the last counts
    again = _run(_cell(_FAIL), identity="one")
    assert history.contradicted(again, history.read(tmp_path)) == again


def test_the_history_of_the_reports_is_asked_and_no_other(tmp_path: Path) -> None:
    history.append(_run(_cell(_FAIL)), tmp_path / "reports")
    now = _run(_cell(_PASS), "2026-11-23T08:00:00+00:00")

    judged = job.against_history(now, tmp_path / "reports" / "now")

    assert _load(judged).cause is Cause.FLAKY
    assert job.status(judged, strict=False) == 3
    assert job.against_history(now, tmp_path / "elsewhere" / "now") == now


def test_a_history_that_cannot_be_read_costs_no_run_its_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "reports" / history.FILE).mkdir(parents=True)

    assert job.against_history(_run(_cell(_PASS)), tmp_path / "reports" / "now") == _run(
        _cell(_PASS)
    )
    assert "earlier runs cannot contradict this one" in caplog.text


def test_shards_that_contradict_each_other_make_it_flaky() -> None:
    load = _load(merge.merged([_run(_cell(_PASS)), _run(_cell(_FAIL))]))

    assert (load.verdict, load.cause) == (Verdict.UNKNOWN, Cause.FLAKY)
    assert "one shard pass; another fail (verifier-rejected)" in load.summary


def test_of_two_shards_the_one_that_could_tell_counts() -> None:
    """A shard that lost its guest was run again."""
    stopped = check("splat", Verdict.UNKNOWN, Cause.NOT_REACHED)
    lost = _run(_cell(_PASS, _LOST, stopped))
    told = _run(_cell(_PASS, check("attach"), check("splat")))

    for shards in ([lost, told], [told, lost]):
        whole = merge.merged(shards)
        assert whole.verdict is Verdict.PASS
        assert whole.cells[0].attempts == 2


def test_shards_that_asked_a_kernel_different_things_are_refused() -> None:
    with pytest.raises(UsageError, match="two shards have the kernel"):
        merge.merged([_run(_cell(_PASS)), _run(_cell(_PASS, checks="other"))])


_FLAKY = flaky.answer(_PASS, "now pass", "then fail")


def test_no_report_shows_a_flaky_answer_as_green() -> None:
    found = _run(_cell(_FLAKY))
    drawn = reporting.draw(found, None)

    assert "? flaky" in reporting.table(found)
    assert (
        "passed and failed on the same inputs: now pass; then fail" in drawn["summary.md"].decode()
    )
    suite = next(
        one for one in ElementTree.fromstring(drawn["junit.xml"]) if one.get("errors") != "0"
    )
    assert suite.find("testcase[@name='load']/error[@type='flaky']") is not None
    assert job.status(found, strict=False) == 3


def _other_object(made: Run) -> Run:
    return replace(made, subject=replace(made.subject, sha256="cd" * 32))


def _same(made: Run) -> Run:
    return made


@pytest.mark.parametrize(
    ("before", "after", "of", "kind"),
    [
        (_PASS, _FLAKY, _same, Kind.OTHER),
        (_PASS, _FLAKY, _other_object, Kind.REGRESSION),
        (_FAIL, _FLAKY, _other_object, Kind.OTHER),
        (_FLAKY, _FAIL, _other_object, Kind.OTHER),
        (_FLAKY, _PASS, _other_object, Kind.OTHER),
    ],
    ids=["of one object", "of another object", "fail to flaky", "flaky to fail", "flaky to pass"],
)
def test_a_flaky_answer_shows_no_change_but_that_it_became_flaky(
    before: CheckResult, after: CheckResult, of: Callable[[Run], Run], kind: Kind
) -> None:
    (change,) = compare(_run(_cell(before)), of(_run(_cell(after)))).verdicts

    assert change.kind is kind
    assert "flaky" in f"{change.before} {change.after}"
