# SPDX-License-Identifier: Apache-2.0
"""Manifests: what is wrong is named by file and key; what is right reaches the loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import paths, subject
from harness.errors import UsageError

_HEAD = '[subject]\nname = "x"\nobject = "x.bpf.o"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_HEAD + 'colour = "red"\n', ["colour", "subject"]),
        (_HEAD + "[programs.p]\noptionl = true\n", ["optionl", "programs"]),
        (_HEAD + "[maps.m]\nfallback = { unless = 'map:ringbuf' }\n", ["type", "maps"]),
        (_HEAD + "[programs.p]\nmax_insns_processed = 'many'\n", ["int", "max_insns_processed"]),
        (_HEAD + '[rodata]\nrate = "fast"\n', ["rodata"]),
        (_HEAD + "[extra]\n", ["extra"]),
        ('[subject]\nname = "x"\n', ["object", "subject"]),
        ("", ["subject"]),
        ("[subject\n", ["line 1"]),
        (_HEAD + '[functional]\ndriver = "senddrv"\n', ["senddrv", "functional"]),
    ],
    ids=["key", "program's key", "fallback", "type", "setting", "table", "lacks object", "empty",
         "no TOML", "driver not carried"],
)  # fmt: skip
def test_a_wrong_manifest_names_file_and_key(tmp_path: Path, text: str, says: list[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        subject.read_manifest(path)

    assert str(path) in caught.value.message
    for word in says:
        assert word in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["absent.toml", "."], ids=["absent", "directory"])
def test_an_unreadable_manifest_is_wrong_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot read the manifest"):
        subject.read_manifest(tmp_path / name)


def test_bytes_that_are_no_text_are_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match=r"m\.toml"):
        subject.read_manifest(tmp_path / "m.toml")


def test_settings_become_a_loader_s_words(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(_HEAD + "[rodata]\nrate = 1000\non = true\nports = [53, 5353]\n")

    manifest = subject.read_manifest(path)

    found = subject.Subject(manifest=manifest, object=tmp_path / "x.bpf.o")
    assert found.rodata_words == ["rate=1000", "on=1", "ports=53,5353"]


def test_an_object_alone_is_named_after_its_file() -> None:
    found = subject.bare(Path("/some/where/my.tool.bpf.o"))

    assert (found.name, found.loader, found.files) == ("my.tool", None, ())


def test_our_own_manifest_is_right() -> None:
    manifest = subject.read_manifest(paths.default_manifest())

    assert manifest.subject.name == "dns_monitor"
    assert all(program.max_insns_processed <= 1_000_000 for program in manifest.programs.values())
