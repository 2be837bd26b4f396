# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.catalogue import Catalogue, Pick, Tier, load, newest_stable, select
from harness.errors import UsageError

KERNELS = Path(__file__).parents[2] / "kernels"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load(KERNELS)


def test_our_catalogue_names_each_kernel_once_and_safely(catalogue: Catalogue) -> None:
    """Names become file names and image tags."""
    names = [kernel.name for kernel in catalogue.kernels]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[0-9]+\.[0-9]+-(oldest|newest)(-arm64)?", name) for name in names)


def test_the_gate_requires_the_core_series(catalogue: Catalogue) -> None:
    """The original plan names these four."""
    core = {kernel.series for kernel in catalogue.kernels if kernel.tier is Tier.CORE}

    assert core == {"5.4", "5.10", "5.15", "6.0"}


def test_every_kernel_has_a_source_for_its_pick(catalogue: Catalogue) -> None:
    """A snapshot of spring says nothing about the newest release of autumn."""
    assert all(kernel.sources for kernel in catalogue.kernels)
    assert all(
        getattr(source, "pick", None) in (None, kernel.pick)
        for kernel in catalogue.kernels
        for source in kernel.sources
    )


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("5.10", ["5.10-oldest", "5.10-newest"]),
        ("5.10-newest", ["5.10-newest"]),
        ("7.2, 5.10-oldest", ["5.10-oldest", "7.2-oldest", "7.2-newest"]),
        ("5.10,5.10-newest", ["5.10-oldest", "5.10-newest"]),
        ("stable", ["7.3-newest"]),
        ("6.1-oldest-arm64", ["6.1-oldest-arm64"]),
    ],
)
def test_words_select_kernels(catalogue: Catalogue, words: str, names: list[str]) -> None:
    """Each kernel once, oldest series first, however they are named."""
    assert [kernel.name for kernel in select(catalogue, words)] == names


def test_the_default_is_core_lts_and_the_newest_stable(catalogue: Catalogue) -> None:
    """What `inv kernel-matrix` boots when nobody says anything."""
    chosen = select(catalogue)

    assert {kernel.tier for kernel in chosen[:-1]} == {Tier.CORE, Tier.LTS}
    assert (chosen[-1].tier, chosen[-1].pick) == (Tier.EDGE, Pick.NEWEST)


def test_a_series_of_candidates_is_not_the_newest_stable(catalogue: Catalogue) -> None:
    """A release candidate must not become everyone's default."""
    assert newest_stable(catalogue.kernels, {"5.10", "7.2"}) == "7.2"


def test_the_other_architecture_has_names_of_its_own(catalogue: Catalogue) -> None:
    """Both may be in one run's report."""
    chosen = select(catalogue, "6.1", arch="arm64")

    assert [kernel.name for kernel in chosen] == ["6.1-oldest-arm64", "6.1-newest-arm64"]


@pytest.mark.parametrize("words", ["4.2", "core,nonsense", "5.10-latest", ","])
def test_unknown_words_say_what_there_is(catalogue: Catalogue, words: str) -> None:
    """A typo must not run the default matrix."""
    with pytest.raises(UsageError) as caught:
        select(catalogue, words)

    assert caught.value.hint


SERIES = """
series = "6.1"
tier = "lts"
archs = ["x86_64"]
[[source]]
kind = "debian"
suites = ["bookworm"]
"""
SOURCES = '[snapshot]\nurl = "http://snapshot.example.org/"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sries = 1\n" + SERIES, "unknown key 'sries'"),
        (SERIES + 'suite = "x"\n', "source 1: unknown key 'suite'"),
        (SERIES.replace("lts", "lst"), "'tier' has an impossible value 'lst'"),
        (SERIES.replace('"6.1"', "6.1"), "'series' must be a text"),
        (SERIES.replace('"6.1"', '"6"'), "'series' has an impossible value '6'"),
        (SERIES.replace("x86_64", "riscv"), "impossible value 'riscv'"),
        (SERIES.replace('["bookworm"]', '"bookworm"'), "'suites' must be a list"),
        (SERIES.replace('"bookworm"', '"x y"'), "impossible value 'x y'"),
        (SERIES.replace("debian", "ftp"), "unknown kind 'ftp'"),
        (SERIES.split("[[", maxsplit=1)[0], "no [[source]]"),
        (SERIES + '[expects]\nabsent = ["magic"]\n', "unknown feature 'magic'"),
        (SERIES + "[expects]\narm64 = 1\n", "'arm64' must be a"),
        ('source = "x"\n' + SERIES.split("[[", maxsplit=1)[0], "must be [[source]] tables"),
        ("a = [", "is not TOML"),
        ("\xff", "series"),
    ],
)
def test_a_wrong_catalogue_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    """People add series by hand."""
    (tmp_path / "sources.toml").write_text(SOURCES)
    (tmp_path / "6.1.toml").write_bytes(text.encode("latin-1"))

    with pytest.raises(UsageError) as caught:
        load(tmp_path)

    assert "6.1.toml" in caught.value.message
    assert says in caught.value.message or says == "series"


def test_a_series_has_one_file(tmp_path: Path) -> None:
    """Two files of one series would make two kernels of one name."""
    (tmp_path / "sources.toml").write_text(SOURCES)
    (tmp_path / "a.toml").write_text(SERIES)
    (tmp_path / "b.toml").write_text(SERIES)

    with pytest.raises(UsageError, match="has a file already"):
        load(tmp_path)


def test_an_empty_directory_is_no_catalogue(tmp_path: Path) -> None:
    """Probably the wrong directory."""
    with pytest.raises(UsageError, match="no catalogue"):
        load(tmp_path)


def test_an_unknown_architecture_is_refused(catalogue: Catalogue) -> None:
    """Not silently nothing to do."""
    with pytest.raises(UsageError, match="riscv"):
        select(catalogue, arch="riscv")
