# SPDX-License-Identifier: Apache-2.0
"""Wrong use as a person meets it: one clear line, perhaps a hint, status 2; never a traceback."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import entry, process
from harness.process import Completed
from tests.typed import Type, typing

_CHECKOUT = Path(__file__).parents[2]
_GOOD = "int answer(void *ctx) { return 0; }\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Things:
    """Files that a person may name by mistake."""

    text: Path
    foreign: Path  # an ELF file of this machine
    object: Path  # a BPF object
    empty: Path  # a directory
    text_kernel: Path  # a directory whose vmlinuz is text
    manifest: Path  # with an unknown key
    quarantine: Path  # a manifest that quarantines what nobody asks
    cache: Path


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Things:
    base = tmp_path_factory.mktemp("things")
    (base / "text.o").write_text("hello\n")
    shutil.copy(str(process.which("true")), base / "foreign.o")
    (base / "good.c").write_text(_GOOD)
    process.run(
        ["clang", "-target", "bpf", "-g", "-O2", "-c", base / "good.c", "-o", base / "good.o"],
        timeout_s=60,
    )
    (base / "empty").mkdir()
    (base / "kernel").mkdir()
    (base / "kernel" / "vmlinuz").write_text("not a kernel\n")
    (base / "bad.toml").write_text('[subject]\nname = "x"\nobject = "x.o"\ncolour = "red"\n')
    (base / "held.toml").write_text(
        '[subject]\nname = "x"\nobject = "good.o"\n[[quarantine]]\ncheck = "laod"\nkernels = ["*"]\n'
        'owner = "ada"\nreason = "issue 41"\nexpires = 2099-12-31\n'
    )
    return Things(
        text=base / "text.o", foreign=base / "foreign.o", object=base / "good.o",
        empty=base / "empty", text_kernel=base / "kernel", manifest=base / "bad.toml", quarantine=base / "held.toml",
        cache=base / "cache",
    )  # fmt: skip


def _run(things: Things, program: Sequence[str], words: Sequence[object]) -> Completed:
    return process.run(
        [*program, *(str(word) for word in words)],
        cwd=_CHECKOUT, env={"KERNEL_MATRIX_CACHE": str(things.cache)}, check=False, timeout_s=120,
    )  # fmt: skip


_HARNESS = (sys.executable, "-m", "harness")
_INVOKE = (sys.executable, "-m", "invoke")


@pytest.fixture
def here(
    things: Things, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Type:
    """The program in the checkout, with a cache of these tests."""
    monkeypatch.setenv("KERNEL_MATRIX_CACHE", str(things.cache))
    monkeypatch.chdir(_CHECKOUT)
    return typing(monkeypatch, capfd)


_WRONG: dict[str, tuple[Callable[[Things], list[object]], str]] = {
    "kernel": (lambda t: ["kernel-matrix", "--kernels", "9.9"], "unknown kernel '9.9'"),
    "kernel of a plan": (lambda t: ["kernel-matrix", "--plan", "--kernels", "5.10,x"], "'x'"),
    "check": (lambda t: ["kernel-matrix", "--checks", "load,nope"], "unknown check 'nope'"),
    "backend": (lambda t: ["kernel-matrix", "--backend", "podman"], "unknown backend 'podman'"),
    "backend of a plan": (lambda t: ["kernel-matrix", "--plan", "--backend", "podman"], "'podman'"),
    "no object": (lambda t: ["kernel-matrix", "--object", "/no/such.o"], "'/no/such.o'"),
    "text as object": (lambda t: ["kernel-matrix", "--object", t.text], "is no ELF object"),
    "x86 object": (lambda t: ["kernel-matrix", "--object", t.foreign], "EM_X86_64"),
    "directory as object": (lambda t: ["kernel-matrix", "--object", t.empty], "it is a directory"),
    "two subjects": (
        lambda t: ["kernel-matrix", "--object", t.object, "--manifest", t.manifest],
        "two subjects",
    ),
    "manifest": (lambda t: ["kernel-matrix", "--manifest", t.manifest], "`colour`"),
    "quarantine": (lambda t: ["kernel-matrix", "--manifest", t.quarantine], "unknown check 'laod'"),
    "no manifest": (lambda t: ["kernel-matrix", "--manifest", "/no.toml"], "'/no.toml'"),
    "empty kernel dir": (lambda t: ["kernel-matrix", "--kernel-dir", t.empty], "no kernel image"),
    "no kernel dir": (lambda t: ["kernel-matrix", "--kernel-dir", "/no/dir"], "no directory"),
    "text as kernel": (lambda t: ["kernel-matrix", "--kernel-dir", t.text_kernel], "13 bytes"),
    "jobs": (lambda t: ["kernel-matrix", "--jobs", "many"], "--jobs"),
    "negative jobs": (lambda t: ["kernel-matrix", "--jobs=-1"], "'-1'"),
    "architecture": (lambda t: ["kernel-matrix", "--arch", "mips"], "architecture 'mips'"),
    "executor": (lambda t: ["kernel-matrix", "--executor", "ray"], "'ray' is no executor"),
    "nothing to resume": (lambda t: ["kernel-matrix", "--resume", t.empty], "no run to resume"),
    "resume elsewhere": (lambda t: ["kernel-matrix", "--resume", "a", "--out", "b"], "--resume"),
    "resume as another": (lambda t: ["kernel-matrix", "--resume", "a", "--arch", "arm64"], "--arch"),
    "no cells": (lambda t: ["bench", "soak", "--cells", "0"], "--cells"),
    "bench": (lambda t: ["bench", "frobnicate"], "unknown action 'frobnicate'"),
    "scale of nothing": (lambda t: ["bench", "scale", "--results", "/no.json"], "'/no.json'"),
    "deadline": (lambda t: ["kernel-matrix", "--boot-timeout", "1m"], "--boot-timeout"),
    "action": (lambda t: ["kernels", "frobnicate"], "unknown action 'frobnicate'"),
    "inspect text": (lambda t: ["inspect", t.text], "not a readable ELF file"),
    "inspect nothing": (lambda t: ["inspect", "/no/such.o"], "/no/such.o"),
    "inspect foreign": (lambda t: ["inspect", t.foreign], "not BPF"),
    "resolve nothing": (lambda t: ["resolve", "/no/such.o"], "no object '/no/such.o'"),
    "resolve empty": (lambda t: ["resolve", t.empty, "--btf", t.text], "no object in"),
    "resolve text": (lambda t: ["resolve", t.text, "--btf", t.text], "not a readable ELF file"),
    "resolve on text": (lambda t: ["resolve", t.object, "--btf", t.text], "too short"),
    "resolve on nothing": (lambda t: ["resolve", t.object, "--btf", "/no/btf"], "'/no/btf'"),
    "resolve on no kernel": (lambda t: ["resolve", t.object, "--kernels", "9.9"], "'9.9'"),
    "report of nothing": (lambda t: ["report", "--results", "/no.json"], "'/no.json'"),
    "report of text": (lambda t: ["report", "--results", t.text], "holds no results"),
    "run nothing": (lambda t: ["run", "--kernel", "5.10"], "no command given"),
    "run on no kernel": (lambda t: ["run", "--kernel", "9.9", "--", "true"], "'9.9'"),
}  # fmt: skip


@pytest.mark.parametrize("what", _WRONG)
def test_wrong_use_is_one_line_and_status_2(things: Things, here: Type, what: str) -> None:
    """Status 1 would read as a kernel that fails; a traceback says that nobody thought of it."""
    words, says = _WRONG[what]

    status, out, err = here(words(things))

    assert (status, out) == (2, "")
    first, *rest = err.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert len(rest) <= 1
    assert all(line.startswith("  → ") for line in rest)


@pytest.mark.parametrize("what", ["kernel", "deadline"])
def test_inv_in_a_checkout_says_the_same(things: Things, what: str) -> None:
    words, says = _WRONG[what]

    ours, invoke = (_run(things, program, words(things)) for program in (_HARNESS, _INVOKE))

    assert (ours.status, invoke.status) == (2, 2)
    assert says in invoke.stderr.decode()
    assert invoke.stderr == ours.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["kernel-matrix", "--colour", "red"],
        ["kernels"],
        ["kernel-matrix", "--jobs"],
    ],
    ids=["task", "option", "missing word", "missing value"],
)
def test_what_is_no_command_line_is_status_2(here: Type, words: list[str]) -> None:
    status, _, err = here(words)

    assert status == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2


def test_a_plan_says_what_would_be_done_and_does_nothing(things: Things, here: Type) -> None:
    words = ["kernel-matrix", "--plan", "--kernels", "5.10-oldest,7.3", "--jobs", "2", "--backend",
             "local", "--checks", "load", "--out", things.empty / "report"]  # fmt: skip

    status, out, err = here(words)

    assert (status, err) == (0, "")
    for said in (
        "5.10-oldest",
        "7.3-newest",
        "compile, core-access, resolve before any boot",
        "load           2.0 s  Does the verifier",
        "local; 2 guests at once",
        "Estimate",
    ):
        assert said in out
    assert not (things.empty / "report").exists()
    assert not (things.cache / "debs").exists()


def test_the_catalogue_is_listed_without_the_network(here: Type) -> None:
    status, out, err = here(["kernels", "list", "--kernels", "5.10,5.4"])

    assert (status, err) == (0, "")
    names = [line.split()[0] for line in out.splitlines()[2:]]
    assert names == ["5.4-oldest", "5.4-newest", "5.10-oldest", "5.10-newest"]


def test_an_object_is_inspected(things: Things, here: Type) -> None:
    status, out, err = here(["inspect", things.object])

    assert (status, err) == (0, "")
    assert str(things.object) in out


def test_help_names_every_task(here: Type) -> None:
    status, out, err = here(["--help"])

    assert (status, err) == (0, "")
    for task in ("kernel-matrix", "kernels", "inspect", "resolve", "run", "shell", "report"):
        assert f"  {task} " in out


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["x", "resolve", "a.o"], ["x", "resolve", "a.o"]),
        (["x", "resolve", "a.o", "b.o", "--btf", "d"], ["x", "resolve", "a.o,b.o", "--btf", "d"]),
        (["x", "resolve", "--help"], ["x", "resolve", "--help"]),
        (["x", "lint"], ["x", "lint"]),
    ],
    ids=["one", "several", "none", "another task"],
)
def test_resolve_takes_several_objects(typed: list[str], parsed: list[str]) -> None:
    """`resolve a.o b.o` as a person types it; invoke alone would take b.o for a task."""
    assert entry._joined(typed) == parsed
