# SPDX-License-Identifier: Apache-2.0
"""The baseline: nothing drops out of the comparison, and what is allowed is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import baseline, job, results
from harness.baseline import Baseline, Cost, Event, KernelCosts, Kind
from harness.errors import UsageError
from harness.results import (
    Cause,
    Cell,
    CheckResult,
    KernelFacts,
    Program,
    Run,
    RunFacts,
    SubjectFacts,
    Verdict,
)

_CLANG = "clang version 14"


def _costs(release: str, *, series: str = "6.1", arch: str = "x86_64") -> KernelCosts:
    return KernelCosts(
        kernel=f"{series}-{release}", series=series, arch=arch, release=release, compiler=_CLANG,
        programs={"kept": Cost(processed=1000), "lost": Cost(processed=7), "no": None},
    )  # fmt: skip


def _compare(
    now: dict[str, Cost | None], growth: float | None = 0.1, compiler: str = _CLANG
) -> list[Event]:
    return list(baseline.compare(now, _costs("6.1.0-1"), growth=growth, compiler=compiler))


def test_new_gone_newly_refused_and_newly_accepted_are_events_of_their_own() -> None:
    """A comparison over the programs that both have would show none of these four."""
    events = _compare({"kept": None, "no": Cost(processed=5), "fresh": Cost(processed=9)})

    assert [(event.kind, event.program, event.was, event.now) for event in events] == [
        (Kind.NEWLY_REFUSED, "kept", 1000, None),
        (Kind.NEWLY_ACCEPTED, "no", None, 5),
        (Kind.NEW, "fresh", None, 9),
        (Kind.GONE, "lost", 7, None),
    ]


@pytest.mark.parametrize(
    ("processed", "growth", "compiler", "grown"),
    [
        (1100, 0.1, _CLANG, False), (1101, 0.1, _CLANG, True), (1, 0.1, _CLANG, False),
        (1000, 0.0, _CLANG, False), (1001, 0.0, _CLANG, True), (999_999, None, _CLANG, False),
        (2500, 0.1, "clang version 19", False), (2501, 0.1, "clang version 19", True),
        (4000, 3.0, "clang version 19", False), (1101, 0.1, "", True),
    ],
)  # fmt: skip
def test_growth_is_allowed_up_to_the_limit_and_no_further(
    processed: int, growth: float | None, compiler: str, grown: bool
) -> None:
    """An unknown compiler is not another one."""
    events = _compare(
        {"kept": Cost(processed=processed), "lost": None, "no": None}, growth, compiler
    )

    assert (Kind.GROWN in {event.kind for event in events}) is grown


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ("6.1.0-47-cloud-amd64", "6.1.0-47-cloud-amd64"),
        ("6.1.0-50-cloud-amd64", "6.1.0-47-cloud-amd64"),
        ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"),
        ("6.1.0-100-cloud-amd64", "6.1.0-56-cloud-amd64"),
    ],
)
def test_another_patch_of_the_series_is_held_against_the_nearest(release: str, found: str) -> None:
    """The newest that is not newer; 9 comes before 10."""
    known = Baseline(
        schema=1, subject="s",
        kernels=tuple(
            _costs(one)
            for one in ("6.1.0-56-cloud-amd64", "6.1.0-10-cloud-amd64", "6.1.0-47-cloud-amd64")
        ),
    )  # fmt: skip

    nearest = baseline.nearest(known, series="6.1", arch="x86_64", release=release)

    assert nearest is not None
    assert nearest.release == found
    assert baseline.nearest(known, series="6.2", arch="x86_64", release=release) is None
    assert baseline.nearest(known, series="6.1", arch="arm64", release=release) is None


def test_the_words_of_other_digits_in_a_release_order_nothing() -> None:
    """7.3.4+deb13-cloud-amd64 is older than 7.3.10+deb12-cloud-amd64."""
    known = Baseline(
        schema=1, subject="s",
        kernels=(_costs("7.3-cloud-amd64", series="7.3"), _costs("7.3.4+deb13-cloud-amd64", series="7.3")),
    )  # fmt: skip

    nearest = baseline.nearest(
        known, series="7.3", arch="x86_64", release="7.3.10+deb12-cloud-amd64"
    )

    assert nearest is not None
    assert nearest.release == "7.3.4+deb13-cloud-amd64"


# ---- a run → a file ----


def _cell(verdict: Verdict, processed: int, *, name: str = "6.1-oldest") -> Cell:
    programs = (
        Program(name="kept", verdict=Verdict.PASS, insns_processed=processed, states_total=3),
        Program(name="no", verdict=Verdict.UNSUPPORTED, insns_processed=0),
    )
    check = CheckResult(
        check="verifier", verdict=verdict, cause=Cause.NONE, summary="why", programs=programs
    )
    kernel = KernelFacts(name=name, series="6.1", arch="x86_64", release="6.1.0-47")
    return Cell(kernel=kernel, boot=None, checks=(check,))


def _run(*cells: Cell, subject: str = "dns_monitor") -> Run:
    facts = RunFacts(
        started="", duration_s=1.0, command="", backend="local", accelerator="tcg",
        accelerator_reason="", host="", harness="0", commit="", compiler="here", lock_sha256="",
    )  # fmt: skip
    return Run(
        schema=results.SCHEMA, run=facts, checks=(), cells=cells,
        subject=SubjectFacts(name=subject, path="o", sha256="", compiler=_CLANG),
    )  # fmt: skip


def test_what_a_run_found_is_what_a_later_run_is_held_against(tmp_path: Path) -> None:
    made, lines = baseline.from_run(_run(_cell(Verdict.PASS, 42)), None)
    path = tmp_path / "b.json"
    path.write_bytes(baseline.encoded(made))

    assert lines == ["6.1-oldest (6.1.0-47): new, 2 programs"]
    assert baseline.read(path) == made
    assert made.kernels[0].compiler == _CLANG
    assert made.kernels[0].programs == {"kept": Cost(processed=42, states_total=3), "no": None}


def test_an_update_replaces_the_kernels_that_were_asked_and_keeps_the_others() -> None:
    both = _run(_cell(Verdict.PASS, 42), _cell(Verdict.PASS, 50, name="6.1-newest"))
    old, _ = baseline.from_run(both, None)

    new, lines = baseline.from_run(_run(_cell(Verdict.FAIL, 84)), old)

    assert lines == ["6.1-oldest: kept: 42 → 84 processed (+100.0 %)"]
    processed = {one.kernel: one.programs["kept"] for one in new.kernels}
    assert processed == {
        "6.1-oldest": Cost(processed=84, states_total=3),
        "6.1-newest": Cost(processed=50, states_total=3),
    }


@pytest.mark.parametrize("verdict", [Verdict.UNKNOWN, Verdict.SKIPPED])
def test_what_a_run_could_not_tell_is_not_recorded_and_said(verdict: Verdict) -> None:
    """A guest that was lost must not become a baseline of refused programs."""
    unasked = replace(_cell(verdict, 1, name="6.1-newest"), checks=())

    made, lines = baseline.from_run(_run(_cell(verdict, 1), unasked), None)

    assert made.kernels == ()
    assert lines[0] == f"6.1-oldest: not recorded: {verdict}: why"
    assert lines[1].startswith("6.1-newest: not recorded: the check 'verifier' was not asked")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is no baseline"), ("{}", "is no baseline"), ('{"schema": 1}', "is no baseline"),
        ('{"schema": 1, "subject": "s", "kernels": [], "more": 1}', "more"),
        ('{"schema": 2, "subject": "s", "kernels": []}', "has schema 2"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_with_its_name(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "b.json"
    path.write_text(content)

    with pytest.raises(UsageError, match=says):
        baseline.read(path)


# ---- the task ----

_MANIFEST = '[subject]\nname = "{}"\nobject = "o.bpf.o"\n{}'


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(_MANIFEST.format("s", 'baseline = "baselines/s.json"\n'))
    return path


def test_the_task_writes_the_file_that_the_manifest_names_and_says_what_changed(
    tmp_path: Path, manifest: Path
) -> None:
    found = tmp_path / "results.json"
    results.write(_run(_cell(Verdict.PASS, 42), subject="s"), found)

    first = job.update_baseline(found, str(manifest))
    again = job.update_baseline(found, str(manifest))

    target = tmp_path / "baselines" / "s.json"
    assert first == ["6.1-oldest (6.1.0-47): new, 2 programs", f"{target}: 1 kernels"]
    assert again == [f"{target}: unchanged"]
    assert baseline.read(target).kernels[0].programs["kept"] == Cost(processed=42, states_total=3)


def test_results_of_another_subject_change_nothing(tmp_path: Path, manifest: Path) -> None:
    """The latest run may have been of somebody's --object."""
    found = tmp_path / "results.json"
    results.write(_run(_cell(Verdict.PASS, 42), subject="other"), found)

    with pytest.raises(UsageError, match="is about 'other', the manifest about 's'"):
        job.update_baseline(found, str(manifest))
    assert not (tmp_path / "baselines").exists()


def test_a_manifest_without_a_baseline_says_how_to_name_one(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(_MANIFEST.format("s", ""))

    with pytest.raises(UsageError, match="names no baseline") as caught:
        job.update_baseline(tmp_path / "results.json", str(path))
    assert 'baseline = "baselines/s.json"' in caught.value.hint
