# SPDX-License-Identifier: Apache-2.0
"""The real objcheck, built here; whatever it says before a kernel has a say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness import process
from harness.errors import HarnessError, UsageError
from harness.objcheck import (
    MapFix,
    Options,
    Value,
    hot_argv,
    load_argv,
    parse_features,
    parse_hot,
    parse_load,
)


def _ask(objcheck: Path, argv: list[str]) -> tuple[int, str]:
    done = process.run([objcheck, *argv[1:]], timeout_s=60, check=False)
    assert done.stderr == b""
    return done.status, done.text


def test_it_is_static(objcheck: Path) -> None:
    """It runs in an initramfs that has no libraries."""
    with objcheck.open("rb") as file:
        segments = [segment["p_type"] for segment in ELFFile(file).iter_segments()]

    assert "PT_INTERP" not in segments


@pytest.mark.parametrize(
    "argv",
    [
        ["objcheck"], ["objcheck", "no-such-command"], ["objcheck", "load"],
        ["objcheck", "load", "a", "b"], ["objcheck", "load", "--hold", "a"],
        ["objcheck", "load", "--no-such-option", "a"], ["objcheck", "load", "a", "--btf"],
        ["objcheck", "load", "--log-level", "16", "a"], ["objcheck", "load", "--log-size", "1", "a"],
        ["objcheck", "load", "--log-size", "many", "a"], ["objcheck", "load", "--set", "x", "a"],
        ["objcheck", "load", "--map", "x", "a"], ["objcheck", "load", "--map", "x=nosuch:::", "a"],
        ["objcheck", "load", "--map", "x=hash:4:4", "a"],
        ["objcheck", "load", "--map", "x=hash:4:4:4:when=map:hash", "a"],
        ["objcheck", "features", "x"], ["objcheck", "ids", "x"],
        ["objcheck", "hot"], ["objcheck", "hot", "--hold", "a"],
        ["objcheck", "maps", "x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_is_one_error_line_and_status_2(objcheck: Path, argv: list[str]) -> None:
    status, text = _ask(objcheck, argv)

    assert status == 2
    assert text.count("\n") == 1
    with pytest.raises(UsageError):
        parse_load(text)


def test_what_cannot_be_read_is_status_3(objcheck: Path, tmp_path: Path, objects: Path) -> None:
    text_file = tmp_path / "text.o"
    text_file.write_text("no object\n")
    good = objects / "good.bpf.o"
    cut = tmp_path / "cut.o"
    cut.write_bytes(good.read_bytes()[:2000])

    for argv in (
        load_argv(str(tmp_path / "absent.o")),
        load_argv(str(text_file)),
        load_argv(str(cut)),
        load_argv(str(good), Options(btf=str(text_file))),
        load_argv(str(good), Options(btf=str(tmp_path / "absent"))),
    ):
        status, text = _ask(objcheck, argv)
        assert status == 3
        with pytest.raises(HarnessError):
            parse_load(text)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("nope", 1, "unknown variable 'nope'"),
        ("small", 256, "too large"),
        ("small", -1, "unsigned"),
        ("threshold", 2147483648, "too large"),
        ("threshold", -2147483649, "too small"),
        ("threshold", "many", "not a number"),
        ("threshold", "", "not a number"),
        ("enabled", 2, "a bool is"),
        ("mode", "MODE_NONE", "neither an enumerator nor a number"),
        ("ports", (1, 2, 3, 4, 5), "more values"),
        ("ports", (65536,), "too large"),
        ("who", "str:too long a name", "too long"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(
    objcheck: Path, objects: Path, name: str, value: Value, why: str
) -> None:
    """A silently cut setting would test something else than was asked."""
    argv = load_argv(str(objects / "good.bpf.o"), Options(settings={name: value}))
    status, text = _ask(objcheck, argv)

    assert status == 2
    with pytest.raises(UsageError, match=why):
        parse_load(text)


def test_unknown_programs_and_maps_are_named(objcheck: Path, objects: Path) -> None:
    good = str(objects / "good.bpf.o")
    for options, why in (
        (Options(programs=("no_such_program",)), "unknown program 'no_such_program'"),
        (Options(maps=(MapFix(name="no_such_map", max_entries=1),)), "unknown map 'no_such_map'"),
    ):
        status, text = _ask(objcheck, load_argv(good, options))
        assert status == 2
        with pytest.raises(UsageError, match=why):
            parse_load(text)


def test_without_privilege_the_answer_is_still_an_answer(objcheck: Path, objects: Path) -> None:
    """Here the kernel may refuse everything, or nothing: either way each program has a line."""
    status, text = _ask(objcheck, load_argv(str(objects / "socket.bpf.o")))
    answer = parse_load(text)

    assert status == 0
    assert [program.name for program in answer.programs] == ["filter", "drop", "classify"]
    assert (answer.object.maps[0].max_entries, answer.object.maps[0].sized) == (1, True)


def test_hot_has_a_line_for_each_program_whatever_the_kernel_says(
    objcheck: Path, objects: Path
) -> None:
    """Nothing counted is an answer too: the whole is then not there to be believed."""
    status, text = _ask(objcheck, hot_argv(str(objects / "hot.bpf.o")))
    counted = parse_hot(text)

    assert status == 0
    assert [hot.name for hot in counted] == ["loops", "straight"]
    assert all(hot.counted == sum(hot.by_insn.values()) for hot in counted)


def test_features_answer_anywhere(objcheck: Path) -> None:
    status, text = _ask(objcheck, ["objcheck", "features", "--ksym", "vfs_read"])

    assert status == 0
    assert parse_features(text).cpus >= 1


def test_bytes_that_are_no_text_come_back_replaced(objcheck: Path) -> None:
    name = os.fsdecode(b"/\xff\xfe\x01.o")

    done = process.run([objcheck, "load", name], timeout_s=20, check=False)

    assert rb"/\ufffd\ufffd\u0001.o" in done.stdout
