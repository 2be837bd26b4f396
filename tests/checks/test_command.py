# SPDX-License-Identifier: Apache-2.0
"""A subject's own commands: what each way to end means, and what a guest really makes of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness import build, closure, job, paths, process, results, sitting
from harness.build import Built
from harness.cache import Cache
from harness.checks import attach, command, load, splat
from harness.checks.command import Ended, Judged
from harness.errors import UsageError
from harness.results import Cause, Cell, CheckResult, Run, Verdict
from harness.subject import Command
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, leftovers

_SOURCE = r"""
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>
int main(int argc, char **argv)
{
	if (argc > 1 && argv[1][0] == 'a')
		abort();
	printf("zlib %s, sqrt(2) %.3f\n", zlibVersion(), sqrt(argc + 1));
	return argc > 1 ? atoi(argv[1]) : 0;
}
"""
_EM_AARCH64 = 183


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One program, dynamically and statically linked, and what can go wrong with a file."""
    directory = tmp_path_factory.mktemp("programs")
    source = directory / "program.c"
    source.write_text(_SOURCE)
    made = {name: directory / name for name in ("dynamic", "static", "foreign", "plain", "script")}
    for name, flags in (("dynamic", []), ("static", ["-static"])):
        process.run(["cc", *flags, "-o", made[name], source, "-lz", "-lm"], timeout_s=60)
    elf = bytearray(made["static"].read_bytes())
    struct.pack_into("<H", elf, 18, _EM_AARCH64)
    made["foreign"].write_bytes(elf)
    made["plain"].write_text("echo no program, and no line that says what reads it\n")
    made["script"].write_text(
        '#!/usr/bin/env bash\nset -e\ntest "$PWD" = /subject\n'
        'echo "$KERNEL_MATRIX_KERNEL ${KERNEL_MATRIX_OBJECT-no object} $(uname -r)"\n'
    )
    for name in ("foreign", "script"):
        made[name].chmod(0o755)
    return made


# ---- what each way to end means ----


def _ended(
    status: int = 0, *, err: str = "", out: str = "", timed_out: bool = False, lost: int = 0
) -> Ended:
    return Ended(
        status=status, timed_out=timed_out, stdout=out.encode(), stderr=err.encode(),
        lost_bytes=lost, duration_s=0.5,
    )  # fmt: skip


_BASH = "/bin/bash: line 1: "


@pytest.mark.parametrize(
    ("ended", "verdict", "cause", "says"),
    [
        (_ended(), Verdict.PASS, Cause.NONE, ""),
        (_ended(lost=5), Verdict.PASS, Cause.NONE, "5 bytes of its output were not kept"),
        (_ended(3, err="a\nb\n", out="c"), Verdict.FAIL, Cause.BEHAVIOUR, "status 3: b"),
        (_ended(3, out="c\n"), Verdict.FAIL, Cause.BEHAVIOUR, "status 3: c"),
        (_ended(3), Verdict.FAIL, Cause.BEHAVIOUR, "status 3: it wrote nothing"),
        (_ended(139), Verdict.FAIL, Cause.BEHAVIOUR, "killed by SIGSEGV"),
        (_ended(255), Verdict.FAIL, Cause.BEHAVIOUR, "status 255"),
        (_ended(137, timed_out=True, out="x"), Verdict.FAIL, Cause.TIMEOUT, "did not end within"),
        (_ended(127, err=f"{_BASH}./x: No such file or directory"), Verdict.UNKNOWN,
         Cause.NOT_STARTED, "./x: No such file or directory"),
        (_ended(126, err=f"{_BASH}./x: Permission denied"), Verdict.UNKNOWN, Cause.NOT_STARTED,
         "Permission denied"),
        (_ended(127, err="./s: line 2: python3: not found"), Verdict.UNKNOWN, Cause.NOT_STARTED,
         "python3: not found"),
        # Their own statuses, which happen to be a shell's.
        (_ended(127, err="127 tests failed"), Verdict.FAIL, Cause.BEHAVIOUR, "status 127"),
        (_ended(1, err="Permission denied"), Verdict.FAIL, Cause.BEHAVIOUR, "status 1"),
    ],
)  # fmt: skip
def test_what_a_command_says_with_its_end(
    ended: Ended, verdict: Verdict, cause: Cause, says: str
) -> None:
    """A command that could not be started says nothing of the kernel: it is no failure of one."""
    found = command.judge(Command(name="x", run="./x", timeout_s=7), ended, ())

    assert found[:2] == (verdict, cause)
    assert says in found[2]
    assert bool(found[3]) is (verdict is not Verdict.PASS)


@pytest.mark.parametrize(
    ("name", "said", "remedy"),
    [
        ("plain", "Permission denied", "chmod +x"),
        ("foreign", "cannot execute binary file: Exec format error", "is an ELF file for arm64"),
        ("script", "cannot execute: required file not found", "a script's first line"),
        ("absent", "No such file or directory", "carry the program with --file"),
    ],
)
def test_what_does_not_start_comes_with_its_reason(
    programs: dict[str, Path], name: str, said: str, remedy: str
) -> None:
    """The file lies here: what is wrong with it can be seen without the guest."""
    ended = _ended(126, err=f"{_BASH}./{name}: {said}")

    found = command.judge(Command(name=name, run=f"./{name}"), ended, tuple(programs.values()))

    assert remedy in found[3]


def test_one_answer_for_all_commands_is_the_worst() -> None:
    """None is lost: each has its figures, each that did not pass its line."""
    judged = [
        Judged(command=Command(name="good", run="x"), verdict=Verdict.PASS, ended=_ended()),
        Judged(
            command=Command(name="odd", run="x"), verdict=Verdict.UNKNOWN,
            cause=Cause.NOT_STARTED, summary="could not", remedy="do this",
        ),
        Judged(
            command=Command(name="bad", run="x"), verdict=Verdict.FAIL, cause=Cause.BEHAVIOUR,
            summary="status 4", remedy="do that", ended=_ended(4),
        ),
    ]  # fmt: skip

    said = command.together(judged)

    assert (said.verdict, said.cause) == (Verdict.FAIL, Cause.BEHAVIOUR)
    assert said.summary == "odd: could not\nbad: status 4"
    assert said.remedy == "odd: do this; bad: do that"
    assert [(figure.name, figure.value) for figure in said.figures] == [
        ("commands passed", 1), ("good: status", 0), ("good: time", 0.5),
        ("bad: status", 4), ("bad: time", 0.5),
    ]  # fmt: skip


# ---- libraries ----


def _root(directory: Path, names: Sequence[str]) -> Path:
    """A guest's root that has some of this machine's libraries."""
    for name in names:
        inside = directory / name.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_bytes(Path(name).resolve().read_bytes())
    return directory


_LD = "/lib64/ld-linux-x86-64.so.2"
_DIR = "/usr/lib/x86_64-linux-gnu"


def test_a_dynamic_program_gets_the_guests_libraries_and_this_machines(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    """The guest's own programs run on its C library: another one in its place breaks them."""
    root = _root(tmp_path, [_LD, f"{_DIR}/libc.so.6", f"{_DIR}/libm.so.6"])

    found = closure.borrowed([programs["dynamic"], programs["script"]], root)

    assert set(found) >= {_LD, f"{_DIR}/libc.so.6", f"{_DIR}/libm.so.6", f"{_DIR}/libz.so.1"}
    assert found[f"{_DIR}/libc.so.6"].is_relative_to(root)
    assert found[f"{_DIR}/libz.so.1"] == Path(f"{_DIR}/libz.so.1").resolve()
    assert closure.borrowed([programs["static"], programs["foreign"]], root) == {}
    assert closure.borrowed([programs["dynamic"].parent], root) == found


def test_a_program_that_would_not_start_is_refused_with_a_way_out(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    """Before anything boots, and never as a verdict on a kernel."""
    dynamic = programs["dynamic"]
    with pytest.raises(UsageError, match=r"wants the ELF interpreter '/lib64/ld-linux") as told:
        closure.borrowed([dynamic], tmp_path / "empty")
    assert "link it statically" in told.value.hint
    root = _root(tmp_path / "bare", [_LD])
    with pytest.raises(UsageError, match=r"needs the library 'lib\w+\.so") as told:
        closure.borrowed([dynamic], root, host=tmp_path / "empty")
    assert "--file" in told.value.hint
    older = _root(tmp_path / "older", [_LD])
    (older / _DIR.lstrip("/")).mkdir(parents=True)
    # A library of that name without the versions of a C library.
    (older / f"{_DIR}/libc.so.6".lstrip("/")).write_bytes(
        Path(f"{_DIR}/libz.so.1").resolve().read_bytes()
    )
    with pytest.raises(UsageError, match=r"needs GLIBC_2\S*.* of 'libc\.so\.6'") as told:
        closure.borrowed([dynamic], older)
    assert "link it statically" in told.value.hint


def test_a_broken_elf_file_is_data(tmp_path: Path) -> None:
    """A corpus for a loader's parser may hold anything."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF" + bytes(range(200)))

    assert closure.borrowed([broken], tmp_path) == {}
    assert closure.machine_of(broken) == ""


# ---- from a person's words to a subject ----


@pytest.fixture
def words(cache: Cache, programs: dict[str, Path]) -> Callable[..., sitting.Request]:
    def make(**more: object) -> sitting.Request:
        said = {"run": (), "files": (), **more}
        asked = {key: said.pop(key) for key in ("object_path", "manifest_path") if key in said}
        return job.request(
            cache=cache, kernels="6.1-oldest", commands=job.CommandWords(**said),  # type: ignore[arg-type]
            **asked,  # type: ignore[arg-type]
        )  # fmt: skip

    return make


def test_commands_alone_are_a_subject_and_are_asked_for(
    words: Callable[..., sitting.Request], cache: Cache, programs: dict[str, Path]
) -> None:
    """A loader of another team brings its object inside: ours has no business here."""
    asked = words(run=("./static 3", "./static", "ls -l"), files=(programs["static"],))

    built = asked.subject(cache, lambda text: None)

    assert built.subject.object is None
    assert built.compile.verdict is Verdict.SKIPPED
    assert [one.name for one in built.subject.manifest.commands] == ["static-1", "static-2", "ls"]
    assert built.subject.carried == (programs["static"],)
    assert command.CHECK in asked.checks
    assert asked.select == (
        f"--command './static 3' --command ./static --command 'ls -l' --file {programs['static']}"
    )
    unasked = [sitting.not_for(check, built.subject) for check in (load.CHECK, attach.CHECK)]
    assert [one and one.summary for one in unasked] == ["the subject has no object"] * 2


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"files": (Path("/etc/hostname"),)}, "are for commands"),
        ({"attached": True}, "are for commands"),
        ({"run": ("x",), "attached": True}, "but there is none"),
        ({"run": ("x",), "files": (Path("/no/file"),)}, "no file '/no/file'"),
        ({"run": (" ",)}, "has no name"),
        ({"run": ("x",), "files": (Path(),)}, "a file has no name"),
        ({"run": ("x",), "timeout_s": 0.0}, "not between 0 and"),
        ({"run": ("x",), "files": (Path("/etc/hostname"), Path("/proc/sys/kernel/hostname"))},
         "two files are called 'hostname'"),
    ],
)  # fmt: skip
def test_words_that_make_no_sense_are_wrong_use(
    words: Callable[..., sitting.Request], said: dict[str, object], problem: str
) -> None:
    """Refused before anything is built or fetched."""
    with pytest.raises(UsageError, match=problem):
        words(**said)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[subject]\nname = "x"\n', "names no object"),
        ('[subject]\nname = "x"\nloader = "l"\n[[commands]]\nname = "a"\nrun = "b"\n',
         "names no object"),
        ('[subject]\nname = "x"\n[[commands]]\nname = "a"\nrun = "b"\nattached = true\n',
         "but there is none"),
        ('[subject]\nname = "x"\nobject = "o"\n' + '[[commands]]\nname = "a"\nrun = "b"\n' * 2,
         "two commands are called 'a'"),
        ('[subject]\nname = "x"\n[[commands]]\nname = "a"\nrun = "b"\ntimeout_s = 1e9\n',
         "not between"),
        ('[subject]\nname = "x"\n[[commands]]\nname = "a"\nrun = "b"\nbefore = "c"\n', "before"),
    ],
)  # fmt: skip
def test_manifests_whose_commands_make_no_sense_are_refused(
    tmp_path: Path, text: str, problem: str
) -> None:
    """File and fault are named."""
    path = tmp_path / "m.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match=problem) as told:
        build.read_manifest(path)
    assert str(path) in told.value.message


# ---- in guests ----


@pytest.fixture
def run(
    cache: Cache, oldest: KernelFiles, newest: KernelFiles, tmp_path: Path
) -> Callable[[Built], Run]:
    def make(subject: Built) -> Run:
        done = Matrix(
            cache=cache, kernels=(oldest, newest), subject=subject, backend="local",
            checks=(command.CHECK, splat.CHECK), append=(), boot_timeout_s=240.0,
            report_dir=tmp_path / "report",
        ).run()  # fmt: skip
        assert leftovers(cache) == []
        return done

    return make


def _said(one: Cell) -> CheckResult:
    return next(check for check in one.checks if check.check == command.CHECK.name)


def _figures(said: CheckResult) -> dict[str, float]:
    return {figure.name: figure.value for figure in said.figures}


_WAYS = {
    "static": ("./static", ""),
    "dynamic": ("./dynamic | grep 'sqrt(2) 1.414'", ""),
    "script": ("./script", ""),
    "pipe": ("cat script | wc -l >/tmp/lines && test $(cat /tmp/lines) = 4", ""),
    "gone": ("! ps | grep -q 'sleep 7[7]'", ""),
    "status": ("./dynamic 5", "status 5: zlib"),
    "abort": ("./static a; exit $?", "killed by SIGABRT"),
    "missing": ("./missing", "could not be started: /bin/bash: line 1: ./missing: No such file"),
    "plain": ("./plain", "could not be started: /bin/bash: line 1: ./plain: Permission denied"),
    "foreign": ("./foreign", "Exec format error"),
    "never": (
        "echo before; sleep 1000",
        "did not end within 3 s and was killed; it last wrote: be",
    ),
    "flood": ("yes flood", "bytes of its output were not kept"),
    "noise": ("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; exit 6", "status 6"),
}


@pytest.mark.vm
def test_a_guest_tells_every_way_to_end_apart(
    run: Callable[[Built], Run], programs: dict[str, Path], oldest: KernelFiles
) -> None:
    """Oldest and newest kernel, one boot each: no command spoils it for the next ones."""
    commands = [
        Command(name=name, run=words, timeout_s=3 if name in ("never", "flood") else 30)
        for name, (words, _) in _WAYS.items()
    ]
    # What this leaves running, in its group and as a daemon, is gone when "gone" looks.
    commands.insert(4, Command(name="leaves", run="sleep 777 & setsid sleep 778 & exit 0"))
    subject = build.with_commands(build.from_commands("ways"), commands, list(programs.values()))

    done = run(subject)

    for one in done.cells:
        said = _said(one)
        assert (said.verdict, said.cause) == (Verdict.FAIL, Cause.BEHAVIOUR)
        lines = dict(line.split(": ", 1) for line in said.summary.splitlines())
        for name, (_, expected) in _WAYS.items():
            assert expected in lines.get(name, ""), (one.kernel.name, name, lines.get(name))
            assert bool(expected) is (name in lines), (one.kernel.name, name, lines)
        figures = _figures(said)
        assert figures["commands passed"] == 6
        assert (figures["status: status"], figures["abort: status"]) == (5, 134)
        assert 3 <= figures["never: time"] < 10
        for name in ("chmod +x", "is an ELF file for arm64", "carry the program with --file"):
            assert name in said.remedy
        kept = {evidence.path.rpartition("/")[2] for evidence in said.evidence}
        assert {"command-script.stdout", "command-never.stdout", "command-missing.stderr"} <= kept
        check = next(check for check in one.checks if check.check == "splat")
        assert check.verdict is Verdict.PASS
    assert done.cells[0].attempts == 1  # what does not start is not tried again


@pytest.mark.vm
def test_a_command_that_panics_the_kernel_fails_that_check(
    run: Callable[[Built], Run],
) -> None:
    """Not unknown: the kernel was well until the subject's command ran."""
    crash = Command(name="crash", run="echo c >/proc/sysrq-trigger; sleep 30")
    subject = build.with_commands(build.from_commands("crash"), [crash], [])

    done = run(subject)

    for one in done.cells:
        said = _said(one)
        assert (said.verdict, said.cause) == (Verdict.FAIL, Cause.PANIC), said.summary
        assert "sysrq" in said.summary.lower()
        last = one.checks[-1]
        assert (last.check, last.cause) == ("splat", Cause.NOT_REACHED)
        assert one.attempts == 1


@pytest.mark.vm
@pytest.mark.parametrize("own_loader", [True, False], ids=["own-loader", "objcheck"])
def test_attached_commands_find_the_object_attached_and_others_do_not(
    run: Callable[[Built], Run], cache: Cache, own_loader: bool
) -> None:
    """`attached` is the only difference between the two commands."""
    built = build.from_manifest(paths.default_manifest(), cache, lambda text: None)
    assert built.subject.object is not None
    if not own_loader:
        built = build.from_object(built.subject.object)
    there = "objcheck ids | grep dns_udp4"
    subject = build.with_commands(
        built,
        [
            Command(name="before", run=f"! {there}"),
            Command(name="meanwhile", run=there, attached=True),
            Command(name="fails", run="echo no; false", attached=True),
            Command(name="after", run=f"! {there}"),
        ],
        [],
    )

    done = run(subject)

    for one in done.cells:
        said = _said(one)
        assert said.summary == "fails: status 1: no", (one.kernel.name, said.summary)
        own = len(built.subject.manifest.commands)  # the observer has some
        assert _figures(said)["commands passed"] == own + 3


@pytest.mark.vm
def test_commands_alone_decide_a_run(
    run: Callable[[Built], Run], programs: dict[str, Path], tmp_path: Path
) -> None:
    """A subject without an object passes by its commands; what needs an object says so."""
    subject = build.with_commands(
        build.from_commands("alone"), [Command(name="one", run="./static")], [programs["static"]]
    )

    done = run(subject)

    assert done.verdict is Verdict.PASS
    assert job.status(done, strict=True) == 0
    for one in done.cells:
        by_name = {check.check: check for check in one.checks}
        assert by_name["resolve"].verdict is Verdict.SKIPPED
        assert by_name["resolve"].summary == "the subject has no object"
    written = tmp_path / "results.json"
    results.write(done, written)
    assert results.read(written) == done
