# SPDX-License-Identifier: Apache-2.0
"""A quarantined failure is seen, answered for, and decides nothing until its day."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness import flaky, gate, job, merge, quarantine, reporting, subject
from harness.compare import Kind, compare
from harness.errors import UsageError
from harness.results import Cause, Held, Quarantined, Run, Verdict
from harness.subject import Quarantine as Entry
from tests.gate.runs import STARTED, cell, check, run

_TODAY = datetime.date(2026, 11, 22)
_FAIL = check("load", Verdict.FAIL, Cause.VERIFIER_REJECTED, "R1 invalid mem access")


def _entry(*kernels: str, name: str = "load", expires: datetime.date = _TODAY) -> Entry:
    return Entry(
        check=name, kernels=kernels or ("5.4-*",), owner="Ada Lovelace",
        reason="issue 41 <b>", expires=expires,
    )  # fmt: skip


def _run() -> Run:
    return run(cell("5.4-oldest", _FAIL, check("attach")), cell("6.1-oldest", check("load")))


def _applied(*entries: Entry, to: Run | None = None) -> Run:
    return quarantine.applied(to or _run(), entries, _TODAY)


def test_a_quarantined_failure_stays_one_and_does_not_decide_the_status() -> None:
    found = _applied(_entry())

    load = found.cells[0].checks[1]
    assert (load.verdict, load.cause) == (Verdict.FAIL, Cause.VERIFIER_REJECTED)
    assert load.quarantine == Quarantined(
        owner="Ada Lovelace", reason="issue 41 <b>", expires="2026-11-22"
    )
    assert found.verdict is Verdict.FAIL
    assert (job.status(_run(), strict=False), job.status(found, strict=True)) == (1, 0)


@pytest.mark.parametrize(
    "entry",
    [_entry("6.1-*"), _entry(name="attach"), _entry("5.4"), _entry("*-newest")],
    ids=["another kernel", "another check", "no pattern of it", "no such kernel"],
)
def test_it_covers_its_check_on_its_kernels_and_nothing_else(entry: Entry) -> None:
    assert job.status(_applied(entry), strict=False) == 1


def test_what_a_quarantined_failure_kept_from_being_asked_is_still_unknown() -> None:
    """Nobody knows what would have come: that is no pass."""
    panic = check("sends", Verdict.FAIL, Cause.PANIC)
    stopped = check("splat", Verdict.UNKNOWN, Cause.NOT_REACHED)
    one = run(cell("5.4-oldest", panic, stopped), cell("6.1-oldest"))

    assert job.status(_applied(_entry(name="sends"), to=one), strict=False) == 3


def test_a_flaky_answer_can_be_quarantined_and_other_unknowns_cannot() -> None:
    for answer, status in (
        (flaky.answer(_FAIL, "now fail", "then pass"), 0),
        (check("load", Verdict.UNKNOWN, Cause.GUEST_LOST), 3),
    ):
        one = run(cell("5.4-oldest", answer), cell("6.1-oldest"))
        assert job.status(_applied(_entry(), to=one), strict=False) == status


def test_only_a_star_covers_a_check_of_the_object() -> None:
    one = replace(run(cell("6.1-oldest")), checks=(check("core-access", Verdict.FAIL),))
    named, every = (_entry(pattern, name="core-access") for pattern in ("6.*", "*"))

    assert job.status(_applied(named, to=one), strict=False) == 1
    assert job.status(_applied(every, to=one), strict=False) == 0


def test_an_expired_one_counts_again_and_the_summary_says_so() -> None:
    found = _applied(_entry(expires=_TODAY - datetime.timedelta(days=1)))

    assert job.status(found, strict=False) == 1
    assert found.quarantine[0].held is Held.EXPIRED
    said = "expired on 2026-11-21; it fails on 5.4-oldest and counts again"
    assert said in reporting.problems_text(found)
    assert said in _drawn(found, "summary.md")


@pytest.mark.parametrize(
    ("entry", "held"),
    [
        (_entry(), Held.ACTIVE),
        (_entry("6.1-*"), Held.STALE),
        (_entry("4.4-*"), Held.STALE),
        (_entry(name="leak"), Held.IDLE),
        (_entry(expires=_TODAY - datetime.timedelta(days=9)), Held.EXPIRED),
    ],
    ids=["active", "passed everywhere", "matches nothing", "not asked", "expired"],
)
def test_what_became_of_an_entry_is_told(entry: Entry, held: Held) -> None:
    assert [one.held for one in _applied(entry).quarantine] == [held]


def test_a_stale_one_is_reported_where_everything_passes() -> None:
    clean = run(cell("6.1-oldest", check("load")))
    found = _applied(_entry("6.1-*"), to=clean)

    assert job.status(found, strict=False) == 0
    for text in (reporting.problems_text(found), _drawn(found, "report.md")):
        assert "is stale" in text
        assert "remove it" in text


def _drawn(found: Run, name: str) -> str:
    return reporting.draw(found, None)[name].decode()


def test_every_report_shows_who_answers_for_it() -> None:
    found = _applied(_entry())

    table = reporting.table(found)
    assert "✘ verifier-rejected ⚐" in table
    assert "1 with a quarantined failure" in reporting.verdict_line(found)
    for text in (reporting.problems_text(found), _drawn(found, "summary.md")):
        assert "quarantined until 2026-11-22 by Ada Lovelace: issue 41" in text
    page = _drawn(found, "report.html")
    assert "issue 41 &lt;b&gt;" in page
    assert "issue 41 <b>" not in page
    assert "load: fail, verifier-rejected, quarantined" in page
    assert "⚐" not in reporting.table(_run())


def test_in_junit_it_is_skipped_with_the_reason() -> None:
    suites = ElementTree.fromstring(_drawn(_applied(_entry()), "junit.xml"))

    suite = next(one for one in suites if one.get("name") == "5.4-oldest")
    skipped = suite.find("testcase[@name='load']/skipped")
    assert skipped is not None
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    message = skipped.get("message", "")
    assert message.startswith("fail (verifier-rejected)")
    assert "quarantined until 2026-11-22 by Ada Lovelace: issue 41" in message


def test_the_gate_refuses_it_all_the_same() -> None:
    policy = gate.Policy(kernels=("5.4-oldest",), lines=(gate.Line(title="l", checks=("load",)),))

    assert gate.decide(_applied(_entry()), policy, now=STARTED).status == 1


def test_a_known_failure_is_no_regression() -> None:
    before = run(cell("5.4-oldest", check("load"), check("attach")), cell("6.1-oldest"))
    after = _applied(_entry())

    (change,) = (c for c in compare(before, after).verdicts if c.kernel == "5.4-oldest")
    assert (change.kind, change.after) == (Kind.OTHER, "fail (verifier-rejected), quarantined")


def test_shards_are_judged_together() -> None:
    """An entry that is stale in one shard is needed in another."""
    never = datetime.date(9999, 1, 1)
    names = ("5.4-oldest", "6.1-oldest")
    whole = [run(one, planned=names) for one in _run().cells]
    shards = [_applied(_entry(expires=never), to=one) for one in whole]

    found = merge.merged(shards)

    (entry,) = found.quarantine
    assert (entry.held, entry.struck) == (Held.ACTIVE, ("5.4-oldest",))
    assert job.status(found, strict=False) == 0


_MANIFEST = """\
[subject]
name = "x"
object = "x.bpf.o"
[[quarantine]]
check = "load"
kernels = ["5.4-*"]
owner = "ada"
reason = "issue 41"
expires = 2026-12-31
"""


def test_a_manifest_names_what_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(_MANIFEST)

    (one,) = subject.read_manifest(path).quarantine

    assert one == Entry(
        check="load", kernels=("5.4-*",), owner="ada", reason="issue 41",
        expires=datetime.date(2026, 12, 31),
    )  # fmt: skip


@pytest.mark.parametrize("key", ["check", "kernels", "owner", "reason", "expires"])
def test_an_entry_that_says_too_little_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text("".join(one for one in _MANIFEST.splitlines(True) if not one.startswith(key)))
    with pytest.raises(UsageError, match=f"x.toml.*{key}"):
        subject.read_manifest(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"ada"', '" "', "'owner' is empty"),
        ('["5.4-*"]', "[]", "'kernels' is empty"),
        ("2026-12-31", '"soon"', "expires"),
        ("expires", "until = 1\nexpires", "until"),
    ],
    ids=["nobody", "nowhere", "no day", "unknown key"],
)
def test_an_entry_that_makes_no_sense_is_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(_MANIFEST.replace(old, new))
    with pytest.raises(UsageError, match=says):
        subject.read_manifest(path)
