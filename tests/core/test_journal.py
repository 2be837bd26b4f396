# SPDX-License-Identifier: Apache-2.0
"""What is kept of a run is whole, of that run, and used only where its inputs are the same."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import job, journal, results
from harness.cache import Cache
from harness.errors import HarnessError, UsageError
from harness.journal import Words
from harness.results import Cause, Cell, CheckResult, Verdict
from harness.sitting import Request
from tests.report.runs import FACTS, FAIL, PASS, UNAVAILABLE, UNKNOWN, cell

_INPUTS = {"subject": "aa", "kernel": "bb", "checks": "cc"}


def _cell(name: str, *checks: CheckResult) -> Cell:
    return replace(cell(name, *(checks or (PASS,))), inputs=_INPUTS)


def _kept(report: Path, *cells: Cell, words: Words | None = None) -> None:
    with journal.opened(report, words or Words(checks="load")) as made:
        made.begin("x", "2026-11-22T12:00:00+00:00", "inv kernel-matrix --checks load")
        for one in cells:
            made.keep(one)


def _known(
    report: Path, *names: str, inputs: dict[str, str] | None = None
) -> tuple[list[str], list[str]]:
    said: list[str] = []
    with journal.opened(report, Words(), resume=True) as made:
        found = made.known(dict.fromkeys(names, inputs or _INPUTS), said.append)
    return list(found), said


def test_a_finished_cell_is_kept_and_not_asked_again(tmp_path: Path) -> None:
    _kept(tmp_path, _cell("a", PASS), _cell("b", FAIL))

    with journal.opened(tmp_path, Words(), resume=True) as made:
        found = made.known({"a": _INPUTS, "b": _INPUTS, "c": _INPUTS}, lambda text: None)

    assert found == {"a": _cell("a", PASS), "b": _cell("b", FAIL)}


@pytest.mark.parametrize(
    "checks",
    [
        (UNKNOWN,),
        (replace(UNKNOWN, cause=Cause.INFRA, summary="interrupted"),),
        (UNAVAILABLE,),
        (FAIL, replace(UNKNOWN, cause=Cause.INFRA)),
    ],
    ids=["guest lost", "interrupted", "unavailable", "a failure and trouble of ours"],
)
def test_a_cell_that_trouble_left_open_is_asked_again(
    tmp_path: Path, checks: tuple[CheckResult, ...]
) -> None:
    _kept(tmp_path, _cell("a", *checks))

    assert _known(tmp_path, "a") == ([], [f"a: asked again: {_was(checks)}"])


def _was(checks: tuple[CheckResult, ...]) -> str:
    verdict = results.worst(check.verdict for check in checks)
    return f"it was {verdict}: {next(c for c in checks if c.verdict is verdict).summary}"


@pytest.mark.parametrize("cause", [Cause.PANIC, Cause.HANG, Cause.TIMEOUT, Cause.FLAKY])
def test_what_a_kernel_said_of_itself_is_kept(tmp_path: Path, cause: Cause) -> None:
    _kept(tmp_path, _cell("a", replace(UNKNOWN, cause=cause)))

    assert _known(tmp_path, "a")[0] == ["a"]


@pytest.mark.parametrize("name", _INPUTS)
def test_a_cell_of_another_input_is_asked_again_and_says_of_which(
    tmp_path: Path, name: str
) -> None:
    _kept(tmp_path, _cell("a"))

    found, said = _known(tmp_path, "a", inputs=_INPUTS | {name: "other"})

    assert (found, said) == ([], [f"a: asked again: not the same {name} as then"])


def test_a_new_run_in_the_same_directory_knows_nothing_of_the_old(tmp_path: Path) -> None:
    _kept(tmp_path, _cell("a"))
    old = (tmp_path / "cells" / "a.json").read_bytes()
    _kept(tmp_path, _cell("b"))
    (tmp_path / "cells" / "a.json").write_bytes(old)  # as if it had come back

    assert _known(tmp_path, "a", "b")[0] == ["b"]


def test_a_damaged_cell_is_as_if_it_had_not_been_asked(tmp_path: Path) -> None:
    _kept(tmp_path, _cell("a"), _cell("b"))
    (tmp_path / "cells" / "a.json").write_bytes(b'{"schema": 1, "id":')
    (tmp_path / "cells" / "c.json").symlink_to(tmp_path / "cells" / "b.json")

    assert _known(tmp_path, "a", "b", "c")[0] == ["b"]


def test_the_facts_of_a_resumed_run_are_those_of_the_whole(tmp_path: Path) -> None:
    _kept(tmp_path)
    with journal.opened(tmp_path, Words(), resume=True) as made:
        made.begin("x", "2026-11-23T09:00:00+00:00", "inv kernel-matrix --resume r")
        told = made.told(replace(FACTS, started="2026-11-23T09:00:00+00:00", command="resume"))

    assert (told.started[:10], told.command) == ("2026-11-22", "inv kernel-matrix --checks load")
    assert told.notes == ("resumed 2026-11-23T09:00:00+00:00 by: resume",)
    assert told.id


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no run to resume: journal.json: No such file"),
        (b"{}", "is no journal of a run"),
        (b"\0", "is no journal of a run"),
        (b'{"schema": 1, "id": 5}', "is no journal of a run"),
        (b'{"schema": 7}', "journal of schema 7, this version continues schema 1"),
    ],
    ids=["none", "empty", "no JSON", "another shape", "another schema"],
)
def test_what_is_no_journal_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "journal.json").write_bytes(content)

    with pytest.raises(UsageError, match=says):
        journal.recorded(tmp_path)


def test_another_subject_is_refused(tmp_path: Path) -> None:
    _kept(tmp_path)

    with (
        journal.opened(tmp_path, Words(), resume=True) as made,
        pytest.raises(UsageError, match="is about 'x', not about 'y'"),
    ):
        made.begin("y", "", "")


def test_one_run_at_a_time_writes_to_a_directory(tmp_path: Path) -> None:
    with (
        journal.opened(tmp_path, Words()),
        pytest.raises(UsageError, match="another run is writing its report"),
        journal.opened(tmp_path, Words()),
    ):
        pass
    _kept(tmp_path)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HarnessError, match="cannot write the report directory"):
        _kept(tmp_path / "file" / "report")


_RECORDED = Words(
    kernels="5.10-oldest,6.1-newest", planned=("5.10-oldest", "6.1-newest"), object="a.bpf.o",
    checks="load", jobs=1, append=("quiet",), strict=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Words(), _RECORDED),
        (Words(jobs=4), replace(_RECORDED, jobs=4)),
        (Words(kernels="6.1"), replace(_RECORDED, kernels="6.1", planned=())),
        (Words(manifest="x.toml"), replace(_RECORDED, object="", manifest="x.toml")),
    ],
    ids=["nothing", "a setting", "kernels", "a subject"],
)
def test_what_is_said_anew_goes_before_what_was_recorded(given: Words, expected: Words) -> None:
    """A subject, and a choice of kernels, is taken whole: half of another would be neither."""
    assert given.over(_RECORDED) == expected


def test_paths_are_seen_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, elsewhere = tmp_path / "report", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    _kept(report, words=Words(object="a.bpf.o", kernel_dirs=("built", "/boot"), files=("x",)))
    assert journal.recorded(report).object == "a.bpf.o"

    monkeypatch.chdir(elsewhere)
    words = journal.recorded(report)

    assert words.object == str(tmp_path / "a.bpf.o")
    assert words.kernel_dirs == (str(tmp_path / "built"), "/boot")
    assert words.files == (str(tmp_path / "x"),)


def _keep_for_ever(report: Path, begun: Callable[[], object]) -> None:
    with journal.opened(report, Words()) as made:
        many = tuple(replace(PASS, summary="y" * 2000) for _ in range(200))
        begun()
        while True:
            made.keep(_cell("a", *many))


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.011, 0.05])
def test_killed_at_any_moment_a_cell_is_whole_or_not_there(tmp_path: Path, after_s: float) -> None:
    forked = multiprocessing.get_context("fork")
    begun = forked.Event()
    child = forked.Process(target=_keep_for_ever, args=(tmp_path, begun.set))
    child.start()
    assert begun.wait(30)
    threading.Event().wait(after_s)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)

    for path in (tmp_path / "cells").glob("*.json"):
        json.loads(path.read_bytes())
    assert _known(tmp_path, "a")[0] in ([], ["a"])
    assert list(tmp_path.rglob("*.km-partial")) == []


def test_runs_that_came_to_no_end_are_found_unless_they_are_under_way(tmp_path: Path) -> None:
    _kept(tmp_path / "killed")
    with journal.opened(tmp_path / "ended", Words()) as made:
        made.end()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "journal.json").write_text("somebody else's")

    with journal.opened(tmp_path / "under way", Words()):
        assert journal.unfinished(tmp_path) == [tmp_path / "killed"]


def test_a_file_that_somebody_writes_is_not_taken_from_them(tmp_path: Path) -> None:
    theirs = tmp_path / ".results.json.x.km-partial"
    orphan = tmp_path / "deeper" / ".a.json.y.km-partial"
    orphan.parent.mkdir()
    orphan.touch()
    (tmp_path / ".results.json.z").touch()  # not ours
    with theirs.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        removed = results.remove_partial(tmp_path)

    assert removed == 1
    assert theirs.exists()
    assert not orphan.exists()
    assert (tmp_path / ".results.json.z").exists()


def test_verdict_unknown_of_the_harness_itself_is_no_infrastructure() -> None:
    """It contradicts itself: it would again."""
    ours = replace(UNKNOWN, cause=Cause.HARNESS)

    assert (UNKNOWN.ours, ours.ours, replace(FAIL, cause=Cause.INFRA).ours) == (True, False, False)
    assert ours.verdict is Verdict.UNKNOWN


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Request]:
    return lambda **words: job.request(cache=Cache(root=tmp_path / "cache"), **words)


def test_only_the_directory_need_be_said_to_go_on(
    ask: Callable[..., Request], tmp_path: Path
) -> None:
    """Of a shard, too; and the catalogue's default may have changed meanwhile."""
    first = ask(
        kernels="5.10,6.1-oldest", shard="1/2", check_names="load,splat", out=str(tmp_path / "r"),
        append=("quiet",), jobs=3, boot_timeout_s=77.0, backend="local", strict=True,
        commands=job.CommandWords(run=("true",), timeout_s=5.0),
    )  # fmt: skip
    with journal.opened(first.report_dir, first.words):
        pass

    again = ask(resume=str(tmp_path / "r"))

    assert replace(again, subject=first.subject) == first
    assert [kernel.name for kernel in again.kernels] == ["5.10-oldest", "6.1-oldest"]
    assert again.planned == ("5.10-oldest", "5.10-newest", "6.1-oldest")
    assert ask(resume=str(tmp_path / "r"), kernels="6.6-newest").planned == ("6.6-newest",)
    assert ask(resume=str(tmp_path / "r"), jobs=1).append == ("quiet",)


def test_the_latest_report_is_resumed_where_it_lies(
    ask: Callable[..., Request], tmp_path: Path
) -> None:
    _kept(tmp_path / "reports" / "first", words=Words(kernels="6.1-oldest"))
    (tmp_path / "reports" / "latest").symlink_to("first")

    request = ask(resume=str(tmp_path / "reports" / "latest"))

    assert request.report_dir == tmp_path / "reports" / "first"


def test_a_shard_is_not_sharded_again(ask: Callable[..., Request], tmp_path: Path) -> None:
    """Said again by habit, it would leave half of its kernels out, and be green."""
    _kept(tmp_path, words=Words(kernels="5.10-oldest,6.1-oldest"))

    with pytest.raises(UsageError, match="--resume goes on with the kernels of the run"):
        ask(resume=str(tmp_path), shard="1/2")
    anew = ask(resume=str(tmp_path), shard="1/2", kernels="6.1")
    assert [kernel.name for kernel in anew.kernels] == ["6.1-oldest"]


def test_a_report_goes_to_one_place(ask: Callable[..., Request], tmp_path: Path) -> None:
    _kept(tmp_path)
    with pytest.raises(UsageError, match="--resume names the directory of the report"):
        ask(resume=str(tmp_path), out="elsewhere")
