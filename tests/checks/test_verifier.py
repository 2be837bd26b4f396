# SPDX-License-Identifier: Apache-2.0
"""The verifier check, on answers that real kernels gave; each limit and each event decides alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import baseline, process, subject
from harness.baseline import Baseline, Cost, KernelCosts
from harness.checks import load, loaded, verifier
from harness.checks.context import Context
from harness.errors import HarnessError
from harness.guest import CommandResult
from harness.objcheck_answers import FeaturesAnswer
from harness.results import Cause, CheckResult, KernelFacts, Verdict
from harness.subject import Limits, Manifest, Program, Subject
from tests.objcheck.answers import KERNELS, recorded

Line = dict[str, Any]  # of objcheck's JSON
_COMPILER = "clang version 14"
# What chain.bpf.o's one program costs every kernel: instructions, bytes of stack.
_PROCESSED, _STACK = 145, 176
_RELEASE = "6.1.0-47-cloud-amd64"


class Recorded:
    """A guest that gave its answer long ago."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        assert "load" in argv
        return CommandResult(
            argv=tuple(argv), status=0, stdout=b"", stderr=b"", truncated=False, duration_s=0.0
        )

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        return self._answer.encode()

    def start(self, argv: Sequence[str]) -> int:
        raise HarnessError(f"'{argv[0]}' was not asked for")


class Asked:
    """The check with a subject and a guest of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.programs: dict[str, Program] = {}
        self.limits = Limits()
        self.baseline: Path | None = None
        self.compiler = _COMPILER

    def context(self, answer: str) -> Context:
        bare = subject.bare(Path("chain.bpf.o")).manifest
        manifest = Manifest(subject=bare.subject, programs=self.programs, limits=self.limits)
        return Context(
            guest=Recorded(answer), subject=Subject(
                manifest=manifest, object=Path("chain.bpf.o"), baseline=self.baseline,
                compiler=self.compiler,
            ),
            kernel=KernelFacts(name="6.1-oldest", series="6.1", arch="x86_64", release=_RELEASE),
            features=object.__new__(FeaturesAnswer), types=None, detached_btf=False, emulated=True,
            evidence_dir=self._directory / "report" / "kernels" / "6.1-oldest",
            report_dir=self._directory / "report",
        )  # fmt: skip

    def __call__(self, answer: str) -> CheckResult:
        return verifier.CHECK.ask(self.context(answer))

    def table(self) -> str:
        return (self._directory / "report/kernels/6.1-oldest/verifier.txt").read_text()

    def known(self, programs: dict[str, Cost | None], release: str = _RELEASE) -> None:
        """Give the subject a baseline."""
        costs = KernelCosts(
            kernel="6.1-oldest", series="6.1", arch="x86_64", release=release,
            compiler=_COMPILER, programs=programs,
        )  # fmt: skip
        self.baseline = self._directory / "b.json"
        made = Baseline(schema=1, subject="chain", kernels=(costs,))
        self.baseline.write_bytes(baseline.encoded(made))


@pytest.fixture
def ask(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def _changed(answer: str, **fields: object) -> str:
    """The answer with other fields in each program's line."""
    lines: list[Line] = [json.loads(line) for line in answer.splitlines()]
    for line in lines:
        if line["type"] == "program":
            line.update(fields)
    return "\n".join(json.dumps(line) for line in lines)


def _with_stats(answer: str, **fields: object) -> str:
    """The answer with other figures in each program's line."""
    first = next(line for line in map(json.loads, answer.splitlines()) if line["type"] == "program")
    return _changed(answer, stats=first["stats"] | fields)


_CHAIN = recorded("6.1.192", "load-chain")
_REFUSED = recorded("6.1.192", "load-reject")


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_s_figures_arrive_and_what_it_does_not_print_stays_unknown(
    ask: Asked, kernel: str
) -> None:
    """Zero would be a figure; 5.10 has no verified_insns, and 7.2 is the first with a maximum."""
    found = ask(recorded(kernel, "load-chain"))

    assert (found.verdict, found.cause, found.summary) == (Verdict.PASS, Cause.NONE, "")
    assert [(f.name, f.value, f.unit) for f in found.figures[:1]] == [("calls", 145.0, "1")]
    by_name = {figure.name: figure for figure in found.figures}
    assert by_name["share of the kernel's limit"].value == pytest.approx(0.0145)
    assert by_name["verification time"].emulated
    (program,) = found.programs
    assert (program.insns_processed, program.states_total) == (145, 4)
    assert program.stack[1:] == (96, 64, 120, 16)
    assert program.stack_bytes == sum(program.stack[:3]) or program.stack_bytes == 176
    row = ask.table().splitlines()[-1].split()
    assert (row[-1] == "–") is (kernel == "5.10.223")
    assert (row[-3] == "–") is (kernel not in ("7.2.12", "7.3.4"))


class Shell:
    """A guest that is this machine: what is tested is what the shell makes of the script."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        done = process.run(argv, timeout_s=timeout_s, check=False)
        return CommandResult(
            argv=tuple(argv), status=done.status, stdout=done.stdout, stderr=done.stderr,
            truncated=False, duration_s=0.0,
        )  # fmt: skip

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        return Path(path).read_bytes()

    def start(self, argv: Sequence[str]) -> int:
        raise HarnessError(f"'{argv[0]}' was not asked for")


@pytest.fixture
def shell(ask: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Context]:
    """A context whose objcheck is a script with that end; each of its runs is a line in `asked`."""

    def context(end: str) -> Context:
        answer, program = tmp_path / "recorded", tmp_path / "objcheck"
        answer.write_text(_CHAIN)
        program.write_text(f"#!/bin/sh\necho >>{tmp_path}/asked\ncat {answer}\n{end}\n")
        program.chmod(0o755)
        monkeypatch.setattr(loaded, "OBJCHECK", str(program))
        monkeypatch.setattr(loaded, "_ANSWER", str(tmp_path / "load.jsonl"))
        return replace(ask.context(""), guest=Shell())

    return context


def test_the_object_is_loaded_once_for_both_checks(
    shell: Callable[[str], Context], tmp_path: Path
) -> None:
    """Whichever comes first asks; the guest's file answers the other."""
    context = shell("exit 0")

    found, accepted = verifier.CHECK.ask(context), load.CHECK.ask(context)

    assert (found.verdict, accepted.verdict) == (Verdict.PASS, Verdict.PASS)
    assert (found.figures[0].value, accepted.figures[0].value) == (145, 1)
    assert found.programs == accepted.programs
    assert (tmp_path / "asked").read_text().count("\n") == 1


def test_an_answer_that_was_cut_off_is_not_kept_for_the_next_check(
    shell: Callable[[str], Context], tmp_path: Path
) -> None:
    """An objcheck that is killed leaves half an answer: the next check asks anew."""
    context = shell("kill -9 $$")

    for check in (verifier.CHECK, load.CHECK):
        check.ask(context)

    assert (tmp_path / "asked").read_text().count("\n") == 2


# ---- limits ----


@pytest.mark.parametrize(("allowed", "verdict"), [(145, Verdict.PASS), (144, Verdict.FAIL)])
def test_the_absolute_limit_is_exact(ask: Asked, allowed: int, verdict: Verdict) -> None:
    ask.programs = {"calls": Program(max_insns_processed=allowed)}

    found = ask(_CHAIN)

    assert found.verdict is verdict
    if verdict is Verdict.FAIL:
        assert found.cause is Cause.LIMIT_EXCEEDED
        assert found.summary == ("calls: 145 processed instructions, the manifest allows 144")
        assert "hot-lines" in found.remedy


@pytest.mark.parametrize(("allowed", "verdict"), [(168, Verdict.PASS), (167, Verdict.FAIL)])
def test_the_stack_limit_is_of_the_deepest_chain_and_not_of_one_subprogram(
    ask: Asked, allowed: int, verdict: Verdict
) -> None:
    """8+96+64; the first number alone would be 8, all of them 304."""
    ask.limits = Limits(stack_bytes=allowed)

    found = ask(_CHAIN)

    assert found.verdict is verdict
    if verdict is Verdict.FAIL:
        assert found.summary == (
            "calls: 168 bytes of stack along its deepest calls, 167 are allowed"
        )


def test_where_the_kernel_says_the_deepest_chain_its_rounding_counts(ask: Asked) -> None:
    ask.limits = Limits(stack_bytes=_STACK - 1)

    assert "176 bytes" in ask(recorded("7.3.4", "load-chain")).summary


def test_a_stack_that_nobody_tells_is_unknown_under_a_limit(ask: Asked) -> None:
    """Never zero bytes, which would pass."""
    silent = _changed(_with_stats(_CHAIN, stack=[], stack_max=None), stack_chain=None)

    assert ask(silent).verdict is Verdict.PASS
    ask.limits = Limits(stack_bytes=512)
    assert (ask(silent).verdict, ask(silent).cause) == (Verdict.UNKNOWN, Cause.INFRA)


def test_a_program_without_figures_is_unknown(ask: Asked) -> None:
    found = ask(_changed(_CHAIN, stats=None))

    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, Cause.INFRA)
    assert found.summary == "the kernel printed no figures of calls"


def test_two_witnesses_that_contradict_each_other_are_our_fault(ask: Asked) -> None:
    found = ask(_changed(_CHAIN, verified_insns=_PROCESSED + 1))

    assert (found.verdict, found.cause) == (Verdict.UNKNOWN, Cause.HARNESS)
    assert "says 145" in found.summary
    assert "says 146" in found.summary


# ---- refusals ----


def test_a_refused_program_is_no_pass_when_this_check_alone_is_asked(ask: Asked) -> None:
    found = ask(_REFUSED)

    assert found.verdict is Verdict.FAIL
    assert found.cause is Cause.VERIFIER_REJECTED
    assert "is refused, there is nothing to judge" in found.summary


def test_refusals_that_the_manifest_excuses_are_unsupported(ask: Asked) -> None:
    names = [line["name"] for line in map(json.loads, _REFUSED.splitlines()) if line["type"] == "program"]  # fmt: skip
    refused = _changed(_REFUSED, ok=False, reason="verifier-rejected", stage="verifier")
    ask.programs = {name: Program(optional=True) for name in names}

    assert ask(refused).verdict is Verdict.UNSUPPORTED


@pytest.mark.parametrize(
    ("kernel", "name", "verdict", "cause"),
    [
        ("5.10.223", "load-reject", Verdict.FAIL, Cause.VERIFIER_REJECTED),
        ("5.10.223", "load-missing_field", Verdict.FAIL, Cause.CORE_RELOCATION),
        ("5.10.223", "load-newmap", Verdict.FAIL, Cause.MAP_UNSUPPORTED),
        ("5.10.223", "load-nobtf", Verdict.FAIL, Cause.BTF_MISSING),
        ("7.3.4", "load-complex", Verdict.FAIL, Cause.LIMIT_EXCEEDED),
        ("7.3.4", "load-unprivileged", Verdict.UNKNOWN, Cause.INFRA),
    ],
)
def test_load_and_verifier_tell_the_same_story_of_a_refusal(
    ask: Asked, kernel: str, name: str, verdict: Verdict, cause: Cause
) -> None:
    """Whoever asks only one of them gets the verdict."""
    context = ask.context(recorded(kernel, name))

    both = [check.CHECK.ask(context) for check in (load, verifier)]

    assert [(found.verdict, found.cause) for found in both] == [(verdict, cause)] * 2


# ---- the baseline ----


def test_a_program_within_its_growth_passes_without_a_word(ask: Asked) -> None:
    ask.limits = Limits(insns_growth=0.1)
    ask.known({"calls": Cost(processed=132)})

    found = ask(_CHAIN)

    assert (found.verdict, found.summary) == (Verdict.PASS, "")
    assert "+9.8 %" in ask.table()


def test_growth_beyond_the_limit_fails_and_says_of_how_much(ask: Asked) -> None:
    ask.limits = Limits(insns_growth=0.1)
    ask.known({"calls": Cost(processed=131)})

    found = ask(_CHAIN)

    assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.LIMIT_EXCEEDED)
    assert found.summary == (
        "calls: 145 processed instructions, +10.7 % over the baseline's 131; 144 are allowed"
    )
    assert "inv baseline" in found.remedy


def test_another_compiler_widens_what_is_allowed_and_is_said(ask: Asked) -> None:
    ask.limits = Limits(insns_growth=0.1)
    ask.known({"calls": Cost(processed=58)})
    ask.compiler = "clang version 19"

    found = ask(_CHAIN)

    assert found.verdict is Verdict.PASS
    assert "another compiler ('clang version 14', now 'clang version 19')" in found.summary
    ask.known({"calls": Cost(processed=57)})
    assert ask(_CHAIN).verdict is Verdict.FAIL


def test_new_and_gone_programs_are_said_and_pass(ask: Asked) -> None:
    ask.known({"other": Cost(processed=1)})

    found = ask(_CHAIN)

    assert found.verdict is Verdict.PASS
    assert found.summary.splitlines() == ["calls is new", "other is gone"]


def test_a_newly_refused_program_fails_even_where_it_is_optional(ask: Asked) -> None:
    """The manifest excuses kernels that never took it, not one that used to."""
    refused = _changed(
        _CHAIN, ok=False, reason="verifier-rejected", stage="verifier", summary="R1 is no pointer\n"
    )
    ask.programs = {"calls": Program(optional=True)}
    ask.known({"calls": Cost(processed=_PROCESSED)})

    found = ask(refused)

    assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.VERIFIER_REJECTED)
    assert found.summary == "calls is newly refused: R1 is no pointer"


def test_a_verification_that_ran_out_of_time_is_not_newly_refused(ask: Asked) -> None:
    slow = _changed(_CHAIN, ok=False, reason="timeout", stage="verifier", stats=None, summary="")
    ask.programs = {"calls": Program(optional=True)}
    ask.known({"calls": Cost(processed=_PROCESSED)})

    assert (ask(slow).verdict, ask(slow).cause) == (Verdict.UNKNOWN, Cause.TIMEOUT)


@pytest.mark.parametrize(
    ("release", "says"),
    [
        ("6.1.0-40-cloud-amd64", "compared with 6.1.0-40-cloud-amd64, the nearest"),
        (_RELEASE, ""),
    ],
)
def test_the_nearest_release_serves_and_is_said(ask: Asked, release: str, says: str) -> None:
    ask.known({"calls": Cost(processed=_PROCESSED)}, release=release)

    found = ask(_CHAIN)

    assert found.verdict is Verdict.PASS
    assert found.summary.startswith(says)
    assert bool(found.summary) is bool(says)


def test_what_there_is_nothing_to_compare_with_is_said(ask: Asked, tmp_path: Path) -> None:
    ask.baseline = tmp_path / "absent.json"
    assert ask(_CHAIN).summary == "no baseline yet: 'absent.json' (inv baseline makes it)"

    ask.known({})
    assert ask.baseline is not None
    content = msgspec.json.decode(ask.baseline.read_bytes(), type=Baseline)
    other = [msgspec.structs.replace(one, series="6.12") for one in content.kernels]
    made = msgspec.structs.replace(content, kernels=tuple(other))
    ask.baseline.write_bytes(baseline.encoded(made))
    found = ask(_CHAIN)
    assert found.verdict is Verdict.PASS
    assert found.summary == "the baseline has no kernel of series 6.1: growth not judged"
