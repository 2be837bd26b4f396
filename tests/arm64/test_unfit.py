# SPDX-License-Identifier: Apache-2.0
"""A subject compiled for one architecture says nothing about kernels of another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import build, merge, pipeline, process, results
from harness.errors import UsageError
from harness.qemu import Arch
from harness.results import CheckResult, Figure, Run, RunFacts, SubjectFacts, Verdict
from harness.subject import Subject

_INCLUDES = [f"-I{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
_KPROBE = """\
#include <linux/types.h>
%s
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
char LICENSE[] SEC("license") = "GPL";
unsigned long seen;
SEC("%s")
int probe(struct pt_regs *ctx)
{
	seen = PT_REGS_PARM2(ctx);
	return 0;
}
"""
_REGISTERS = {
    "x86": "struct pt_regs { unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, "
    "rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss; };",
    "arm64": "struct user_pt_regs { __u64 regs[31], sp, pc, pstate; };\n"
    "struct pt_regs { __u64 regs[31], sp, pc, pstate; };",
}


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str, str], Path]:
    """A probe that reads an argument, compiled for an architecture, in some section."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")

    def make(arch: str, section: str) -> Path:
        source, target = tmp_path / "probe.bpf.c", tmp_path / f"probe-{arch}.bpf.o"
        source.write_text(_KPROBE % (_REGISTERS[arch], section))
        process.run(
            ["clang", "-target", "bpf", "-g", "-O2", "-Wall", "-Werror",
             f"-D__TARGET_ARCH_{arch}", *_INCLUDES, "-c", source, "-o", target],
            timeout_s=60,
        )  # fmt: skip
        return target

    return make


@pytest.mark.parametrize(("target", "arch"), [("x86", "x86_64"), ("arm64", "arm64")])
def test_a_probe_is_for_the_architecture_whose_registers_it_reads(
    compiled: Callable[[str, str], Path], target: str, arch: str
) -> None:
    """It would load on the other one too, and take one register for another without a word."""
    subject = build.from_object(compiled(target, "kprobe/udp_sendmsg")).subject
    (other,) = {"x86_64", "arm64"} - {arch}

    refused = build.unfit(subject, other)

    assert build.unfit(subject, arch) is None
    assert refused is not None
    assert f"the registers of {arch}, the kernel is {other}" in refused.message
    assert "-D__TARGET_ARCH_" in refused.hint


def test_what_reads_no_registers_is_for_every_architecture(
    compiled: Callable[[str, str], Path],
) -> None:
    """Tracepoints, XDP, LSM: BPF is the same everywhere."""
    subject = build.from_object(compiled("x86", "raw_tp/sched_switch")).subject

    assert build.unfit(subject, "arm64") is None


def test_a_loader_of_another_machine_is_told(tmp_path: Path) -> None:
    """A Makefile that does not heed ARCH and CC builds for the machine that it runs on."""
    shutil.copy("/bin/true", tmp_path / "loader")
    manifest = tmp_path / "mine.toml"
    shutil.copy("/bin/true", tmp_path / "mine.bpf.o")  # only its name is asked for here
    manifest.write_text('[subject]\nname = "mine"\nobject = "mine.bpf.o"\nloader = "loader"\n')
    head = build.read_manifest(manifest)
    subject = Subject(manifest=head, object=tmp_path / "mine.bpf.o", loader=tmp_path / "loader")

    refused = build.unfit(subject, "arm64")

    assert refused is not None
    assert "'loader' is a program for x86-64, the kernel is arm64" in refused.message


def _compile(verdict: Verdict, summary: str, size: float) -> CheckResult:
    figure = Figure(name="object size", value=size, unit="B")
    return CheckResult(check="compile", verdict=verdict, summary=summary, figures=(figure,))


def test_what_is_asked_of_each_object_is_one_answer_the_worst() -> None:
    """An object that fails for one architecture fails the run, and says for which."""
    good = _compile(Verdict.PASS, "clang 14", 10.0)
    bad = _compile(Verdict.FAIL, "no .BTF", 20.0)

    both = pipeline.together({Arch.X86_64: good, Arch.ARM64: bad})

    assert (both.verdict, both.summary) == (Verdict.FAIL, "arm64: no .BTF")
    assert {figure.name: figure.value for figure in both.figures} == {
        "object size, x86_64": 10.0, "object size": 20.0,
    }  # fmt: skip
    assert pipeline.together({Arch.ARM64: bad}) is bad
    assert pipeline.together({Arch.X86_64: good, Arch.ARM64: good}).summary == "clang 14"


def _shard(objects: dict[str, str]) -> Run:
    return Run(
        schema=results.SCHEMA,
        run=RunFacts(
            started="2026-11-22T00:00:00+00:00", duration_s=1.0, command="x", backend="local",
            accelerator="tcg", accelerator_reason="", host="", harness="", commit="", compiler="",
            lock_sha256="",
        ),
        subject=SubjectFacts(
            name="mine", path="mine.bpf.o", sha256=next(iter(objects.values())), objects=objects
        ),
        checks=(CheckResult(check="compile", verdict=Verdict.PASS),), cells=(),
    )  # fmt: skip


def test_shards_of_different_architectures_have_different_objects_of_one_subject() -> None:
    """--shard 2/2 of --arch all may have no x86_64 kernel at all."""
    joined = merge.merged([_shard({"x86_64": "aa"}), _shard({"arm64": "bb"})])

    assert joined.subject.sha256 == "aa"
    assert joined.subject.objects == {"x86_64": "aa", "arm64": "bb"}


def test_shards_with_another_object_for_the_same_architecture_are_refused() -> None:
    with pytest.raises(UsageError, match="different objects"):
        merge.merged([_shard({"x86_64": "aa", "arm64": "bb"}), _shard({"arm64": "cc"})])
    other = _shard({"arm64": "bb"})
    other = replace(other, subject=replace(other.subject, name="its"))
    with pytest.raises(UsageError, match="different objects"):
        merge.merged([_shard({"x86_64": "aa"}), other])
