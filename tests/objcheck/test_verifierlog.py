# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from harness.objcheck import parse_load
from harness.verifierlog import SubprogramStats, parse_subprograms, parse_verifier_stats
from tests.objcheck.answers import KERNELS, all_recorded, ident, recorded

# What 4.19.1 prints, by its kernel/bpf/verifier.c:5053; this machine has no such kernel to ask.
_V4_19 = "0: (b7) r0 = 0\n1: (95) exit\nprocessed 42 insns (limit 131072), stack depth 8+96\n"


def test_one_line_form_up_to_5_1_has_count_limit_and_stack() -> None:
    """4.19 is older than any subject supports, and must still get an answer."""
    stats = parse_verifier_stats(_V4_19)

    assert stats is not None
    assert (stats.processed, stats.limit, stats.stack) == (42, 131072, (8, 96))
    assert (stats.total_states, stats.peak_states, stats.verification_us) == (None, None, None)


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
    stats = parse_verifier_stats(_V4_19 + "processed 7 insns (limit 1000000) max_states_per_insn 1")

    assert stats is not None
    assert (stats.processed, stats.max_states_per_insn, stats.total_states) == (7, 1, None)
