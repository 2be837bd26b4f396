# SPDX-License-Identifier: Apache-2.0
"""Instruction counts → source lines: every count goes to its line, and none is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import hotlines, job
from harness.btf import BpfObject
from harness.cache import Cache
from harness.checks import hotlines as hotlines_check
from harness.objcheck import HotProgram, VerifierStats, parse_hot
from harness.objcheck_answers import Reason

_WORDS = ("", "all", "hot-lines", "all,hot-lines")
_SOURCES = Path(__file__).parent / "src"


def marked_line() -> int:
    """Where hot.bpf.c spends the verifier's time."""
    lines = (_SOURCES / "hot.bpf.c").read_text().splitlines()
    return next(number for number, text in enumerate(lines, start=1) if "/* HOT */" in text)


def _hot(obj: BpfObject, name: str, counts: dict[int, int]) -> HotProgram:
    flat = tuple(number for pair in sorted(counts.items()) for number in pair)
    total = sum(counts.values())
    return HotProgram(
        name=name, ok=True, errno=0, reason=None, insns=len(hotlines.layout(obj, name)),
        truncated=False, log_bytes=1000, load_us=1, counted=total, counts=flat,
        stats=VerifierStats(processed=total),
    )  # fmt: skip


@pytest.fixture
def hot_object(objects: Path) -> BpfObject:
    return BpfObject.from_file(objects / "hot.bpf.o")


@pytest.mark.parametrize(
    ("name", "program", "functions"),
    [
        ("hot", "loops", ["loops", "cold", "mix"]),
        ("hot", "straight", ["straight"]),
        ("chain", "calls", ["calls", "middle", "leaf", "shallow", "global"]),
    ],
)
def test_subprograms_lie_in_the_order_in_which_libbpf_appends_them(
    objects: Path, name: str, program: str, functions: list[str]
) -> None:
    """Depth first, each once: `mix` is called by both others and comes where `cold` calls it.

    The guest's own count of instructions holds this against libbpf, in test_vm.
    """
    obj = BpfObject.from_file(objects / f"{name}.bpf.o")

    places = hotlines.layout(obj, program)

    assert list(dict.fromkeys(of.name for of, _ in places)) == functions
    assert len(set(places)) == len(places)


def test_each_count_goes_to_its_line_and_the_dearest_comes_first(hot_object: BpfObject) -> None:
    """One visit of everything, and 99 more of each instruction of the marked line."""
    places = hotlines.layout(hot_object, "loops")
    lines_of = {
        insn: info.line
        for insn, (program, index) in enumerate(places)
        if (info := hot_object.line_at(program.section, program.start + index)) is not None
    }
    on_it = [insn for insn, line in lines_of.items() if line == marked_line()]
    counts = dict.fromkeys(range(len(places)), 1) | dict.fromkeys(on_it, 100)

    found = hotlines.hot_lines(hot_object, _hot(hot_object, "loops", counts))

    assert (found[0].line, found[0].function, found[0].most) == (marked_line(), "mix", 100)
    assert found[0].processed == 100 * len(on_it)
    assert found[0].file.endswith("hot.bpf.c")
    assert found[0].text.startswith("mixed = (mixed << 3)")
    assert sum(line.processed for line in found) == sum(counts.values())


def test_a_program_that_is_laid_out_otherwise_is_not_guessed_at(hot_object: BpfObject) -> None:
    """A later libbpf may append more: lines off by one instruction would be lies."""
    hot = _hot(hot_object, "loops", {0: 1})

    assert hotlines.hot_lines(hot_object, replace(hot, insns=hot.insns + 1)) == []


def test_the_table_says_how_much_was_counted(hot_object: BpfObject) -> None:
    hot = _hot(hot_object, "loops", {0: 3})
    cut = replace(hot, truncated=True, stats=VerifierStats(processed=1000))
    differs = replace(hot, stats=VerifierStats(processed=4))
    refused = replace(hot, ok=False, stats=None, reason=Reason.PERMISSION)

    assert hotlines.render(hot, hotlines.hot_lines(hot_object, hot)).startswith(
        "loops: all 3 processed instructions counted\n"
    )
    assert (hot.whole, cut.whole, differs.whole, refused.whole) == (True, False, False, False)
    assert hotlines.coverage(cut) == (
        "3 of 1,000 processed instructions counted: the trace did not fit into 1,000 bytes"
    )
    assert hotlines.coverage(differs).endswith("they differ")
    assert hotlines.coverage(refused) == "not verified: permission"


def test_many_lines_end_in_one_that_adds_up_the_rest(hot_object: BpfObject) -> None:
    """Nothing that was counted is left out of the table."""
    hot = _hot(hot_object, "straight", {0: 60, 1: 40})
    some = hotlines.hot_lines(hot_object, _hot(hot_object, "straight", {0: 10}))[0]
    lines = [replace(some, line=number) for number in range(1, 31)]

    rest = hotlines.render(hot, lines).rstrip().splitlines()[-1]

    assert rest.split() == ["5", "more", "lines", "50", "50.0", "%"]


def test_the_guest_s_answer_is_read_whole() -> None:
    (hot,) = parse_hot(
        '{"type":"object","path":"o","btf":null,"libbpf":"v1.1","programs":["p"],"maps":[]}\n'
        '{"type":"hot","name":"p","ok":true,"errno":0,"errno_name":null,"reason":null,"insns":9,'
        '"truncated":false,"log_bytes":5,"load_us":3,"counted":4,"counts":[0,1,8,3],'
        '"stats":{"processed":4}}\n{"type":"end"}\n'
    )

    assert hot.by_insn == {0: 1, 8: 3}
    assert hot.whole


def test_it_is_asked_by_name_alone(tmp_path: Path) -> None:
    """It judges nothing, and a full trace is not what everybody waits for."""
    cache = Cache(root=tmp_path)

    asked = {words: job.request(cache=cache, check_names=words).checks for words in _WORDS}

    assert [hotlines_check.CHECK in checks for checks in asked.values()] == [
        False,
        False,
        True,
        True,
    ]
    assert len(asked["all,hot-lines"]) == len(asked["all"]) + 1
