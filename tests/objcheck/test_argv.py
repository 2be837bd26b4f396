# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from harness.objcheck import (
    MapFix,
    Options,
    Value,
    attach_argv,
    features_argv,
    hot_argv,
    ids_argv,
    load_argv,
    maps_argv,
    relos_argv,
    setting_word,
)


def test_defaults_add_nothing() -> None:
    assert load_argv("/o.bpf.o") == ["objcheck", "load", "/o.bpf.o"]
    assert ids_argv() == ["objcheck", "ids"]
    assert maps_argv() == ["objcheck", "maps"]
    assert features_argv() == ["objcheck", "features"]


def test_every_option_has_its_word() -> None:
    fix = MapFix(
        name="events", type="perf_event_array", key_size=4, value_size=4, max_entries=0,
        unless_map="ringbuf",
    )  # fmt: skip
    options = Options(
        btf="/b", programs=("a", "b"), optional=("b",), maps=(fix, MapFix(name="m", max_entries=9)),
        inner=(MapFix(name="h", type="hash", key_size=4, value_size=4, max_entries=1),),
        settings={"n": 1}, log_level=6, log_dir="/l", log_size=128, tail=7, load_timeout_s=30,
    )  # fmt: skip

    assert load_argv("/o", options) == [
        "objcheck", "load", "--btf", "/b", "--program", "a", "--program", "b",
        "--optional", "b", "--map", "events=perf_event_array:4:4:0:unless=map:ringbuf", "--map", "m=-:-:-:9",
        "--inner", "h=hash:4:4:1",
        "--set", "n=1", "--log-level", "6", "--log-dir", "/l", "--log-size", "128",
        "--load-timeout", "30", "--tail", "7", "/o",
    ]  # fmt: skip
    assert hot_argv("/o", Options(btf="/b")) == ["objcheck", "hot", "--btf", "/b", "/o"]
    assert relos_argv("/o", Options(btf="/b")) == ["objcheck", "dump-relos", "--btf", "/b", "/o"]


def test_attach_holds_when_asked() -> None:
    assert attach_argv("/o", hold=True, stats=True, ready_file="/r", expire_s=9) == [
        "objcheck", "attach", "--hold", "--stats", "--ready-file", "/r", "--expire", "9", "/o",
    ]  # fmt: skip


def test_symbols_are_asked_by_name() -> None:
    assert features_argv(["a", "b"]) == ["objcheck", "features", "--ksym", "a", "--ksym", "b"]


@pytest.mark.parametrize(
    ("value", "word"),
    [(True, "x=true"), (False, "x=false"), (-1, "x=-1"), ((1, 2), "x=1,2"), ("str:ab", "x=str:ab")],
)
def test_settings_are_written_as_objcheck_reads_them(value: Value, word: str) -> None:
    assert setting_word("x", value) == word
