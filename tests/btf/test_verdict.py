# SPDX-License-Identifier: Apache-2.0
"""Guards, externs and attach targets decide what a poisoned relocation means."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.btf import BpfObject, Btf, Plan
from harness.btf.kernel import KernelView, parse_config, parse_system_map, version_code
from harness.btf.kinds import Kind
from harness.btf.verdict import Cause, Judge, ObjectVerdict, Settings, Verdict
from tests.btf.builder import BtfBuilder
from tests.btf.conftest import Compile

_PROGRAMS = (
    "pass_field_exists",
    "pass_negated_and_early_return",
    "pass_flag_across_a_merge",
    "pass_flag_on_the_stack",
    "pass_offset_used_only_if_there",
    "pass_rodata_setting",
    "pass_kconfig",
    "pass_in_a_subprogram",
    "pass_enum_value",
    "pass_kfunc",
    "fail_no_guard",
    "fail_wrong_guard",
    "fail_runtime_guard",
    "fail_setting_on",
    "fail_in_a_subprogram",
    "fail_kfunc_without_test",
)


def _kernel(*, helpers: bool = True) -> Btf:
    builder = BtfBuilder()
    number = builder.integer()
    builder.integer("long int", 8)
    inner = builder.composite("inner", 4, [("x", number, 0)])
    builder.enum("state", [("S_OLD", 0)])
    names = [("BPF_FUNC_unspec", 0)]
    if helpers:
        names += [
            ("BPF_FUNC_probe_read_kernel", 113),
            ("BPF_FUNC_get_current_task", 35),
            ("BPF_FUNC_ktime_get_ns", 5),
        ]
    builder.enum("bpf_func_id", names)
    builder.reference(Kind.TYPEDEF, builder.pointer(inner), "btf_trace_sys_enter")
    return Btf.parse(builder.build())


def _judge(
    path: Path, *, btf: Btf | None = None, settings: Settings | None = None
) -> ObjectVerdict:
    plan = Plan(BpfObject.from_file(path))
    kernel = KernelView(name="k", btf=btf or _kernel(), config={})
    return Judge(plan, settings).judge(kernel, plan.resolve(kernel.btf))


@pytest.mark.parametrize("cpu", ["v1", "v2", "v3"])
@pytest.mark.parametrize("program", _PROGRAMS)
def test_poison_counts_only_where_it_is_reached(
    program: str, cpu: str, compile_bpf: Compile
) -> None:
    """A guarded access is why CO-RE objects load on kernels that lack a field."""
    verdict = _judge(compile_bpf("guards.bpf.c", f"-mcpu={cpu}"))

    found = next(one for one in verdict.programs if one.program == program)

    wanted = Verdict.PASS if program.startswith("pass") else Verdict.FAIL
    assert found.verdict is wanted, found.reasons
    if wanted is Verdict.PASS and program != "pass_kfunc":
        assert found.guarded > 0


def test_rodata_does_not_prune_on_kernels_before_5_5(compile_bpf: Compile) -> None:
    """There the verifier does not look into frozen maps."""
    verdict = _judge(compile_bpf("guards.bpf.c"), settings=Settings(read_only_maps=False))

    by_name = {one.program: one.verdict for one in verdict.programs}
    assert by_name["pass_rodata_setting"] is Verdict.FAIL
    assert by_name["pass_field_exists"] is Verdict.PASS


def test_settings_of_the_loader_decide(compile_bpf: Compile) -> None:
    """`const volatile` settings are changed before the load."""
    path = compile_bpf("guards.bpf.c")
    section = BpfObject.from_file(path).elf.section(".rodata")
    assert section is not None

    verdict = _judge(path, settings=Settings(rodata={".rodata": b"\1" * len(section.data)}))

    by_name = {one.program: one.verdict for one in verdict.programs}
    assert by_name["pass_rodata_setting"] is Verdict.FAIL


def test_a_helper_that_the_kernel_lacks_fails_the_program(compile_bpf: Compile) -> None:
    """The kernel's own enum lists its helpers; no version is compared."""
    verdict = _judge(compile_bpf("guards.bpf.c"), btf=_kernel(helpers=False))

    found = next(one for one in verdict.programs if one.program == "fail_runtime_guard")
    assert found.verdict is Verdict.FAIL
    causes = {one.cause for one in verdict.programs}
    assert Cause.HELPER in causes


def test_kprobe_targets_are_looked_up_in_system_map(compile_bpf: Compile) -> None:
    """A kprobe's function need not be in BTF: without symbols we cannot tell."""
    plan = Plan(BpfObject.from_file(compile_bpf("access.bpf.c")))
    btf = _kernel()
    symbols = parse_system_map("ffffffff81000000 T clean\nffffffff81000010 t buffer\n")

    def verdict(symbols: frozenset[str] | None) -> dict[str, Verdict]:
        view = KernelView(name="k", btf=btf, symbols=symbols)
        judged = Judge(plan).judge(view, plan.resolve(btf))
        return {one.program: one.verdict for one in judged.programs}

    assert verdict(symbols)["clean_buffer"] is Verdict.PASS
    assert verdict(frozenset())["clean_buffer"] is Verdict.FAIL
    assert verdict(None)["clean_buffer"] is Verdict.UNKNOWN


def test_a_missing_fentry_target_fails(compile_bpf: Compile) -> None:
    """libbpf needs the function's BTF id before it can load the program."""
    plan = Plan(BpfObject.from_file(compile_bpf("access.bpf.c")))
    view = KernelView(name="k", btf=_kernel())

    judged = Judge(plan).judge(view, plan.resolve(view.btf))

    found = next(one for one in judged.programs if one.program == "broken_typed")
    assert (found.verdict, found.cause) == (Verdict.FAIL, Cause.ATTACH)


def test_an_object_without_btf_still_gets_a_verdict(compile_bpf: Compile) -> None:
    """Old objects have no BTF: nothing to relocate, and libbpf refuses their externs."""
    plan = Plan(BpfObject.from_file(compile_bpf("plain.bpf.c", "-g0")))
    view = KernelView(name="k", btf=_kernel())

    judged = Judge(plan).judge(view, plan.resolve(view.btf))

    assert plan.obj.btf is None
    assert judged.verdict is Verdict.FAIL
    assert "extern" in judged.error


def test_config_and_release_are_read() -> None:
    """Both decide kconfig externs."""
    config = parse_config('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x=y"\n')

    assert config == {"CONFIG_A": "y", "CONFIG_C": '"x=y"'}
    assert version_code("6.1.300-4-amd64") == 6 << 16 | 1 << 8 | 255
    assert version_code("rolling") is None
