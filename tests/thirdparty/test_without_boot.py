# SPDX-License-Identifier: Apache-2.0
"""Every object of libbpf-tools is read, inspected and resolved; what must fail fails by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import bpfobject, build, coreaccess, prediction
from harness.cache import Cache
from harness.results import Cause, CheckResult, Verdict
from harness.supply import KernelFiles
from tests.thirdparty.conftest import TOOLS, Tools


@pytest.fixture(scope="module")
def predicted(
    tools: Tools, cache: Cache, oldest: KernelFiles, newest: KernelFiles
) -> dict[str, dict[str, CheckResult]]:
    """By tool, then by kernel."""
    return {
        name: prediction.predict(
            build.from_object(tools.object(name)).subject, [oldest, newest], cache
        ).answers
        for name in TOOLS
    }


@pytest.mark.parametrize("name", TOOLS)
def test_every_object_is_one_and_tells_what_it_is(tools: Tools, name: str) -> None:
    """Compiled by others, with other compilers and headers than ours."""
    built = build.from_object(tools.object(name))
    facts = bpfobject.inspect(tools.object(name))
    text = bpfobject.render_text(facts)

    assert built.compile.verdict is Verdict.PASS
    assert facts.programs
    for program in facts.programs:
        assert program.name in text


@pytest.mark.parametrize("name", ["opensnoop", "runqlat", "tcplife"])
def test_the_audit_of_memory_accesses_ends_without_a_false_alarm(tools: Tools, name: str) -> None:
    """They read kernel memory through BPF_CORE_READ alone, as their source says."""
    said = coreaccess.check(build.from_object(tools.object(name)).subject)

    assert said.verdict is Verdict.PASS, said.summary


def test_every_object_gets_a_prediction_and_the_right_ones_fail(
    predicted: dict[str, dict[str, CheckResult]], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """Causes are of the object on that kernel: never `unknown`, never a fault of ours."""
    said = {
        (name, kernel): (answer.verdict, answer.cause)
        for name, answers in predicted.items()
        for kernel, answer in answers.items()
    }
    told = {verdict for verdict, _ in said.values()}
    assert told == {Verdict.PASS, Verdict.FAIL}
    # Since v6.14 struct cfs_rq has nr_queued, and no nr_running.
    assert said["runqlen", newest.name] == (Verdict.FAIL, Cause.CORE_RELOCATION)
    assert said["runqlen", oldest.name] == (Verdict.PASS, Cause.NONE)
    # The tracepoint block_io_start is of v6.5.
    assert said["biosnoop", oldest.name] == (Verdict.FAIL, Cause.ATTACH_FAILED)
    assert said["biosnoop", newest.name] == (Verdict.PASS, Cause.NONE)
    for name in ("opensnoop", "execsnoop", "tcpconnect", "tcplife", "runqlat"):
        assert said[name, oldest.name] == said[name, newest.name] == (Verdict.PASS, Cause.NONE)


def test_a_prediction_says_what_to_write(
    predicted: dict[str, dict[str, CheckResult]], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """Its reader knows the object, not this project."""
    chosen = predicted["biosnoop"][oldest.name]
    assert "block_io_start" in chosen.summary
    assert "[programs.block_io_start] optional = true" in chosen.remedy
    moved = predicted["runqlen"][newest.name]
    assert "struct cfs_rq.nr_running" in moved.summary
    assert "bpf_core_field_exists" in moved.remedy


def test_what_is_no_object_is_refused_by_its_path(tools: Tools) -> None:
    """The loader instead of its object: a likely mistake."""
    path = Path(tools.loader("opensnoop"))

    with pytest.raises(Exception, match="not a BPF object"):
        build.from_object(path)
