# SPDX-License-Identifier: Apache-2.0
"""The list of system packages, and what is read out of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import process, system
from harness.errors import HarnessError
from harness.system import Need, Package

PROJECT = Path(__file__).resolve().parents[2]
_PROGRAM = re.compile(
    r"process\.(?:run|held)\(\s*\[\s*\"([a-z][a-z0-9_.-]*)\"|^\s*\[\"([a-z][a-z0-9-]*)\", \"--"
    r"|argv = \[\"([a-z][a-z0-9-]*)\"",
    re.M,
)


def _package(seen_by: str, need: Need = Need.RUN) -> Package:
    return Package(name="some-package", need=need, seen_by=seen_by, purpose="a test")


def test_the_list_names_each_package_once() -> None:
    """Two lines for one package would be two truths."""
    names = [package.name for package in system.packages()]

    assert len(names) == len(set(names)) > 15


def test_every_program_the_harness_starts_is_in_the_list() -> None:
    """A program that only its author has installed fails on the first fresh machine."""
    started = {
        name
        for source in (PROJECT / "harness").rglob("*.py")
        for match in _PROGRAM.finditer(source.read_text(encoding="utf-8"))
        for name in match.groups()
        if name
    }
    # Parts of a package that the list sees by another of its programs or files, and our own venv's.
    covered = {"apt-get", "dpkg-query", "python", "ruff", "mypy", "pytest", "lint-imports"}
    seen = {package.seen_by for package in system.packages()}

    assert {"mmdebstrap", "cpio", "cc", "make"} <= started
    assert started - covered <= seen


def test_a_command_is_seen_on_the_path_and_a_file_by_its_pattern(tmp_path: Path) -> None:
    """Both ways of the list's third column."""
    (tmp_path / "libx-12.a").touch()

    assert _package("sh").present
    assert not _package("no-such-command-here").present
    assert _package(f"{tmp_path}/libx-*.a").present
    assert not _package(f"{tmp_path}/liby-*.a").present


def test_missing_asks_only_for_what_is_needed() -> None:
    """The tests' packages are no one else's business."""
    lacking = _package("no-such-command-here", Need.TESTS)

    assert system.missing([lacking], {Need.RUN, Need.BUILD}) == ()
    assert system.missing([lacking, _package("sh", Need.TESTS)], {Need.TESTS}) == (lacking,)


@pytest.mark.parametrize(
    "line", ["one", "cpio run cpio", "cpio always cpio packs things"],
    ids=["one word", "no purpose", "unknown need"],
)  # fmt: skip
def test_a_broken_line_is_named(line: str) -> None:
    """The list is edited by hand."""
    with pytest.raises(HarnessError, match=r"list:2: .*" + re.escape(line)):
        system.parse(f"# head\n{line}\n", where="list")


@pytest.mark.skipif(process.which("dpkg-query") is None, reason="not Debian")
def test_versions_come_from_dpkg_and_unknown_names_are_left_out() -> None:
    """One call for all, whatever is installed."""
    found = system.versions(["dpkg", "no-such-package-here"])

    assert set(found) == {"dpkg"}
    assert found["dpkg"][0].isdigit()


def test_the_install_command_fits_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that does not exist here helps nobody."""
    if process.which("apt-get") is not None:
        assert system.install_command(["a", "b"]).endswith(
            "apt-get install --no-install-recommends a b"
        )
    monkeypatch.setattr(process, "which", lambda program: None)

    assert system.install_command(["a"]).endswith("(Debian's names): a")
    assert system.versions(["a"]) == {}
