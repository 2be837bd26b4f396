# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.objcheck import parse_load
from harness.verifierlog import (
    SubprogramStats,
    VerifierStats,
    parse_subprograms,
    parse_verifier_stats,
)
from tests.objcheck.answers import KERNELS, all_recorded, ident, recorded

_LOGS = Path(__file__).parent / "logs"


def _log(name: str) -> str:
    return (_LOGS / f"{name}.log").read_text(encoding="utf-8")


_V5_1 = _log("5.1-source")


def test_one_line_form_up_to_5_1_has_count_limit_and_stack() -> None:
    """4.19 is older than any subject supports, and must still get an answer."""
    stats = parse_verifier_stats(_V5_1)

    assert stats is not None
    assert (stats.processed, stats.limit, stats.stack) == (42, 131072, (8, 96))
    assert (stats.total_states, stats.peak_states, stats.verification_us) == (None, None, None)


# release, first subprogram's stack (rounded up to 8 since 6.1.192 and its like), marks read (none
# since 6.18), kernel's own deepest chain, main program and global function
_ENDS = [
    ("5.10.218", 4, 3, None, ()), ("5.15.135", 4, 3, None, ()), ("6.1.170", 4, 3, None, ()),
    ("6.1.192", 8, 3, None, ()), ("6.12.117", 8, 3, None, ()), ("6.16.12", 8, 3, None, ()),
    ("6.17.13", 8, 3, None, ()), ("6.18.15", 8, 0, None, ()), ("6.19.14", 8, 0, None, ()),
    ("7.0.13", 8, 0, None, ()), ("7.1.13", 8, 0, None, ()), ("7.2.13", 8, 0, 176, (127, 18)),
    ("7.3.4", 8, 0, 176, (127, 18)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("release", "first", "marks", "deepest", "parts"), _ENDS, ids=[end[0] for end in _ENDS]
)
def test_the_end_of_each_kernel_s_log_is_read_whole(
    release: str, first: int, marks: int, deepest: int | None, parts: tuple[int, ...]
) -> None:
    """A kernel whose form changes again fails here, with its own log, and not in a subject."""
    stats = parse_verifier_stats(_log(f"{release}-calls"))

    assert stats is not None
    assert stats.verification_us is not None
    assert replace(stats, verification_us=None) == VerifierStats(
        processed=145, limit=1_000_000, max_states_per_insn=0, total_states=4, peak_states=4,
        mark_read=marks, stack=(first, 96, 64, 120, 16), stack_max=deepest, parts=parts,
    )  # fmt: skip


def test_every_log_kept_here_is_asked_about() -> None:
    """A log that no test reads proves nothing."""
    asked = {f"{end[0]}-calls" for end in _ENDS} | {"5.1-source", "5.4.286-calls", "5.4.286-loops"}

    assert {path.stem for path in _LOGS.glob("*.log")} == asked


def test_5_4_has_figures_of_what_it_takes_and_of_what_it_refuses() -> None:
    taken = parse_verifier_stats(_log("5.4.286-loops"))
    refused = parse_verifier_stats(_log("5.4.286-calls"))

    assert taken is not None
    assert (taken.processed, taken.total_states, taken.stack) == (10818, 104, (0, 0, 0))
    assert refused is not None
    assert (refused.processed, refused.stack) == (43, (4, 96, 64, 0, 0))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_program_with_subprograms_costs_what_the_kernel_says(kernel: str) -> None:
    """The form changed in 7.2 and again in 7.3; the same object must give the same figures."""
    answer = parse_load(recorded(kernel, "load-chain")).programs[0]
    stats = parse_verifier_stats(answer.summary)

    assert stats is not None
    assert (stats.processed, stats.limit, stats.total_states) == (145, 1_000_000, 4)
    assert stats.stack[1:] == (96, 64, 120, 16)
    assert stats.stack[0] == (4 if kernel == "5.10.223" else 8)
    assert stats.verification_us is not None
    assert answer.stack_chain == stats.stack[0] + 96 + 64


@pytest.mark.parametrize(
    ("kernel", "stack_max", "parts"),
    [("6.18.15", None, ()), ("7.2.12", 176, (127, 18)), ("7.3.4", 176, (127, 18))],
)
def test_only_new_kernels_tell_the_deepest_chain_and_the_parts(
    kernel: str, stack_max: int | None, parts: tuple[int, ...]
) -> None:
    """176 is 8+96+64 with each rounded up to 16: the figure that is compared with 512."""
    stats = parse_verifier_stats(parse_load(recorded(kernel, "load-chain")).programs[0].summary)

    assert stats is not None
    assert (stats.stack_max, stats.parts) == (stack_max, parts)


def test_7_3_tells_what_each_subprogram_costs() -> None:
    log = parse_load(recorded("7.3.4", "load-chain")).programs[0].summary

    assert parse_subprograms(log)[:2] == (
        SubprogramStats(name="calls", kind="main", insns_self=14, insns_total=127, stack=8),
        SubprogramStats(name="middle", kind="static", insns_self=34, insns_total=82, stack=96),
    )


@pytest.mark.parametrize("path", all_recorded("load-"), ids=ident)
def test_guest_and_host_read_the_same_figures(path: Path) -> None:
    """Two parsers, in C for people in the guest and here for logs: they must agree on all."""
    for program in parse_load(path.read_text(encoding="utf-8")).programs:
        assert parse_verifier_stats(program.summary) == program.stats


@pytest.mark.parametrize("path", all_recorded("load-"), ids=ident)
def test_verified_insns_of_the_kernel_equals_the_log(path: Path) -> None:
    """An independent witness, in kernels since 5.16."""
    for program in parse_load(path.read_text(encoding="utf-8")).programs:
        if program.stats is not None and program.verified_insns is not None:
            assert program.verified_insns == program.stats.processed


def test_a_failed_program_has_figures_too() -> None:
    stats = parse_verifier_stats(parse_load(recorded("7.3.4", "load-complex")).programs[0].summary)

    assert stats is not None
    assert stats.processed == 1_000_001


@pytest.mark.parametrize(
    "text", ["", "0: (95) exit\n", "processed many insns", "xprocessed 1 insns"]
)
def test_a_log_without_figures_is_none(text: str) -> None:
    assert parse_verifier_stats(text) is None


def test_the_last_program_of_a_log_counts() -> None:
    """libbpf appends when it asks twice."""
    stats = parse_verifier_stats(_V5_1 + "processed 7 insns (limit 1000000) max_states_per_insn 1")

    assert stats is not None
    assert (stats.processed, stats.max_states_per_insn, stats.total_states) == (7, 1, None)
