# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.objcheck import (
    AttachReason,
    ProgramAnswer,
    Reason,
    Stage,
    parse_attach,
    parse_features,
    parse_ids,
    parse_load,
    parse_maps,
    parse_relos,
)
from tests.objcheck.answers import KERNELS, all_recorded, ident, recorded


def _program(kernel: str, name: str, program: str) -> ProgramAnswer:
    answer = parse_load(recorded(kernel, name))
    return next(each for each in answer.programs if each.name == program)


# ---- load ----


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_good_object_loads_alone_and_together(kernel: str) -> None:
    answer = parse_load(recorded(kernel, "load-good"))

    assert [program.name for program in answer.programs if not program.ok] == []
    assert [program.name for program in answer.programs if program.optional] == ["on_write"]
    assert answer.together.ok
    assert "on_write" not in answer.together.programs
    assert answer.together.map_memory_bytes == sum(
        each.memory_bytes or 0 for each in answer.together.maps
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "program", "stage", "reason"),
    [
        ("load-reject", "unchecked", Stage.VERIFIER, Reason.VERIFIER_REJECTED),
        ("load-missing_field", "unguarded", Stage.CORE_RELOCATION, Reason.CORE_RELOCATION),
        ("load-fentry", "absent", Stage.LOAD, Reason.ATTACH_TARGET_MISSING),
        ("load-fentry", "unnamed", Stage.LOAD, Reason.ATTACH_TARGET_UNSET),
        ("load-ksym", "address", Stage.LOAD, Reason.EXTERN_UNRESOLVED),
        ("load-kconfig", "option", Stage.LOAD, Reason.EXTERN_UNRESOLVED),
        ("load-unprivileged", "on_read", Stage.LOAD, Reason.PERMISSION),
        ("load-nobtf", "guarded", Stage.BTF, Reason.KERNEL_BTF_MISSING),
    ],
)
def test_each_refusal_has_its_own_stage_and_reason(
    kernel: str, name: str, program: str, stage: Stage, reason: Reason
) -> None:
    """ "The kernel refused" must say which part of it: the remedies have nothing in common."""
    answer = _program(kernel, name, program)

    assert not answer.ok
    assert (answer.stage, answer.reason) == (stage, reason)
    assert answer.errno_name


@pytest.mark.parametrize(
    ("kernel", "name", "program", "reason"),
    [
        ("5.10.223", "load-atomics", "fetch", Reason.INSTRUCTION_UNSUPPORTED),
        ("6.1.192", "load-atomics", "fetch", None),
        ("5.10.223", "load-newmap", "peek", Reason.MAP_UNSUPPORTED),
        ("6.1.192", "load-newmap", "peek", None),
        ("5.10.223", "load-newtype", "second", Reason.PROGRAM_TYPE_UNSUPPORTED),
        ("7.3.4", "load-newtype", "second", None),
        ("5.10.223", "load-complex", "endless", Reason.PROGRAM_TOO_COMPLEX),
        ("7.3.4", "load-complex", "endless", Reason.PROGRAM_TOO_COMPLEX),
    ],
)
def test_what_depends_on_the_kernel_is_told_apart(
    kernel: str, name: str, program: str, reason: Reason | None
) -> None:
    assert _program(kernel, name, program).reason is reason


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_bad_program_does_not_hide_the_good_one(kernel: str) -> None:
    """Together they fail, and libbpf would stop at the first."""
    answer = parse_load(recorded(kernel, "load-reject"))

    assert [program.ok for program in answer.programs] == [False, True]
    assert not answer.together.ok
    assert answer.together.failed_program == "unchecked"


def test_a_refusal_before_verification_does_not_show_another_programs_log() -> None:
    """`first` was verified a moment before, and its log says success."""
    together = parse_load(recorded("5.10.223", "load-newtype")).together

    assert together.failed_program == "second"
    assert together.reason is Reason.PROGRAM_TYPE_UNSUPPORTED
    assert (together.log, together.summary, together.stats) == ("", "", None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_rejection_comes_with_its_trace(kernel: str) -> None:
    answer = _program(kernel, "load-reject", "unchecked")

    assert "R0 invalid mem access 'map_value_or_null'" in answer.summary
    assert "call bpf_map_lookup_elem" in answer.log


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "program", "why"),
    [
        ("load-reject", "unchecked", "R0 invalid mem access 'map_value_or_null'"),
        ("load-missing_field", "unguarded", "task_struct___none.no_such_member"),
        ("load-fentry", "absent", "failed to find kernel BTF type ID of 'no_such_function_here'"),
        ("load-ksym", "address", "'no_such_symbol_here': not found in kernel BTF"),
        ("load-nobtf", "guarded", "failed to find valid kernel BTF"),
        ("load-good", "on_read", ""),
    ],
)
def test_one_line_says_why(kernel: str, name: str, program: str, why: str) -> None:
    """7.3 ends its trace with a suggestion, which is no reason."""
    answer = _program(kernel, name, program)

    assert why in answer.why
    assert bool(why) is bool(answer.why)
    assert "\n" not in answer.why


def test_the_complexity_limit_says_why_without_a_trace() -> None:
    assert _program("7.3.4", "load-complex", "endless").why == (
        "BPF program is too large. Processed 1000001 insn"
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_unresolved_relocation_is_named(kernel: str) -> None:
    relocation = _program(kernel, "load-missing_field", "unguarded").relocation

    assert relocation is not None
    assert "task_struct___none.no_such_member" in relocation


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["load-truncated", "load-nolog"])
def test_a_log_that_overflows_is_no_rejection(kernel: str, name: str) -> None:
    """ENOSPC is what every kernel answers then, whatever the verifier thought."""
    answer = _program(kernel, name, "calls")

    assert answer.ok
    assert answer.log_truncated


@pytest.mark.parametrize("kernel", KERNELS)
def test_settings_reach_the_verifier(kernel: str) -> None:
    """`enabled=false` turns the rest into dead code: the verifier walks less."""
    plain, disabled = (
        _program(kernel, name, "on_read").stats for name in ("load-good", "load-settings")
    )

    assert plain is not None
    assert disabled is not None
    assert disabled.processed < plain.processed


# ---- attach ----


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_section_attaches_or_says_why_not(kernel: str) -> None:
    answer = parse_attach(recorded(kernel, "attach-attachments"))

    assert {program.name: program.reason for program in answer.programs} == {
        "tp_there": None,
        "tp_absent": AttachReason.NO_TRACEPOINT,
        "raw_there": None,
        "raw_absent": AttachReason.NO_TRACEPOINT,
        "ret_there": None,
        "inside_insn": AttachReason.REFUSED,
        "egress": AttachReason.NO_AUTO_ATTACH,
        "sample": AttachReason.NO_AUTO_ATTACH,
    }


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_missing_symbol_is_not_a_refusal_and_no_target_is_no_failure(kernel: str) -> None:
    programs = {each.name: each for each in parse_attach(recorded(kernel, "attach-good")).programs}

    assert programs["on_read"].ok
    assert programs["on_nothing"].reason is AttachReason.NO_SYMBOL
    assert programs["on_nothing"].failed
    assert programs["on_packet"].reason is AttachReason.NO_AUTO_ATTACH
    assert not programs["on_packet"].failed


@pytest.mark.parametrize(("kernel", "works"), [("5.10.223", False), ("6.18.15", True)])
def test_kprobe_multi_is_unsupported_before_it_existed(kernel: str, works: bool) -> None:
    many = parse_attach(recorded(kernel, "attach-multi")).programs[0]

    assert many.ok is works
    assert works or many.reason is AttachReason.UNSUPPORTED


@pytest.mark.parametrize("kernel", KERNELS)
def test_holding_is_readable_before_it_ends(kernel: str) -> None:
    """The host reads the file of a command that still runs."""
    text = recorded(kernel, "attach-holding")
    answer = parse_attach(text, holding=True)

    assert not answer.ended
    assert answer.pid is not None
    assert answer.runs == ()
    with pytest.raises(HarnessError, match="cut off"):
        parse_attach(text)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_held_object_tells_what_it_cost(kernel: str) -> None:
    answer = parse_attach(recorded(kernel, "attach-held"))
    runs = {run.name: run for run in answer.runs}

    assert answer.ended
    assert answer.stats_how == "enable-stats"
    assert runs["on_enter"].run_cnt > 0
    assert runs["on_enter"].run_time_ns > 0
    assert runs["on_nothing"].run_cnt == 0


# ---- the rest ----


@pytest.mark.parametrize("kernel", KERNELS)
def test_features_are_what_this_kernel_does(kernel: str) -> None:
    features = parse_features(recorded(kernel, "features"))

    assert features.uname.release.startswith(kernel[: kernel.rindex(".")])
    assert features.has("map:ringbuf")
    assert features.has("insn:atomic_fetch") is (kernel != "5.10.223")
    assert features.has("map:bloom_filter") is (kernel != "5.10.223")
    assert features.has("helper:bpf_no_such") is False
    assert features.has("helper:ringbuf_output")
    assert features.has("ksym:udp_sendmsg")
    assert features.has("ksym:no_such_function_here") is False
    assert features.has("ksym:not_asked") is None
    assert features.verified_insns is (kernel != "5.10.223")
    assert features.log_keeps_tail is (kernel not in {"5.10.223", "6.1.192"})


def test_helpers_that_a_program_type_lacks_are_absent_on_new_kernels() -> None:
    """libbpf 1.1 takes 7.3's "program of this type cannot use helper" for support."""
    helpers = parse_features(recorded("7.3.4", "features")).helpers

    assert "skb_load_bytes" not in helpers["kprobe"]
    assert "skb_load_bytes" in helpers["socket_filter"]


@pytest.mark.parametrize("probe", ["insn:no_such", "ringbuf", "kernel:5.8", ""])
def test_an_unknown_probe_is_a_usage_error(probe: str) -> None:
    with pytest.raises(UsageError, match="unknown probe"):
        parse_features(recorded("7.3.4", "features")).has(probe)


@pytest.mark.parametrize("kernel", KERNELS)
def test_ids_name_what_the_kernel_holds(kernel: str) -> None:
    held = parse_ids(recorded(kernel, "ids-held"))

    assert (held.program, held.map) == (5, 3)
    assert {each.name for each in held.objects if each.kind == "map"} == {
        "counts", "good.rodata", "good.bss",
    }  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_relocated_instructions_are_whole(kernel: str) -> None:
    """The unresolved one is call 0xbad2310, libbpf's poison."""
    programs = {each.name: each for each in parse_relos(recorded(kernel, "relos"))}

    assert len(programs["unguarded"].insns) == 8 * programs["unguarded"].count
    assert bytes.fromhex("850000001023ad0b") in programs["unguarded"].insns
    assert not programs["unguarded"].ok
    assert programs["guarded"].ok
    assert any("no matching targets found" in line.text for line in programs["guarded"].lines)


# ---- answers that are none ----


@pytest.mark.parametrize("path", all_recorded("load-"), ids=ident)
def test_a_cut_off_answer_is_an_error_wherever_it_is_cut(path: Path) -> None:
    """A guest may die in the middle of any byte; nothing else than HarnessError may come of it."""
    text = path.read_text(encoding="utf-8").rstrip("\n")

    for cut in {*range(0, len(text) - 1, 97), len(text) - 1}:
        with pytest.raises(HarnessError):
            parse_load(text[:cut])


def test_a_cut_off_answer_names_the_programs_that_are_missing() -> None:
    text = recorded("7.3.4", "load-reject")
    lines = text.splitlines(keepends=True)

    with pytest.raises(HarnessError, match="nothing on 'fine'"):
        parse_load("".join(lines[:2]))
    with pytest.raises(HarnessError, match="all together"):
        parse_load("".join(lines[:3]))
    with pytest.raises(HarnessError, match="no 'end' line"):
        parse_load("")


def test_strange_lines_are_quoted() -> None:
    lines = recorded("7.3.4", "load-reject").splitlines()

    with pytest.raises(HarnessError, match=r"line 2 .*'Segmentation fault'"):
        parse_load("\n".join([lines[0], "Segmentation fault", *lines[1:]]))
    with pytest.raises(HarnessError, match="answers strangely"):
        parse_load("\n".join([lines[0].replace('"programs":[', '"programs":7,"x":['), *lines[1:]]))


def test_an_error_line_becomes_our_error() -> None:
    setting = '{"type":"error","what":"set","name":"x","text":"unknown variable \'x\'"}\n'
    unreadable = '{"type":"error","what":"object","name":"o","text":"cannot read \'o\'"}\n'

    with pytest.raises(UsageError, match="unknown variable 'x'"):
        parse_load(setting)
    with pytest.raises(HarnessError, match="cannot read 'o'"):
        parse_load(unreadable)


def test_errors_of_a_whole_answer_are_notes() -> None:
    note = '{"type":"error","what":"log-dir","name":"/x","text":"cannot write \'/x\'"}\n'

    answer = parse_load(note + recorded("7.3.4", "load-reject"))

    assert answer.notes == ("cannot write '/x'",)


def test_carriage_returns_and_odd_line_separators_change_nothing() -> None:
    """A serial line adds CR; U+2028 and U+0085 inside a string are no ends of lines."""
    text = recorded("7.3.4", "load-reject")
    odd = text.replace('"path":"', '"path":"\u2028\u0085')

    assert parse_load(text.replace("\n", "\r\n")) == parse_load(text)
    assert parse_load(odd).object.path.startswith("\u2028\u0085")


# ---- maps ----

_MAP = (
    '{"type":"map","id":4,"name":"seen","of":"hash","key_size":4,"value_size":64,'
    '"max_entries":1000,"prealloc":false,"memlock_bytes":4096,"elements":7,"more":false}\n'
)


def test_maps_say_what_they_hold() -> None:
    (held,) = parse_maps(_MAP + '{"type":"end"}\n')

    assert (held.name, held.of, held.elements, held.more) == ("seen", "hash", 7, False)
    assert (held.prealloc, held.memlock_bytes) == (False, 4096)


def test_a_map_that_could_not_be_read_makes_no_answer() -> None:
    """A leak check must not take silence for emptiness."""
    refused = '{"type":"error","what":"map","name":null,"text":"map 3 cannot be opened"}\n'

    with pytest.raises(HarnessError, match="map 3 cannot be opened"):
        parse_maps(_MAP + refused + '{"type":"end"}\n')
    with pytest.raises(HarnessError, match="cut off"):
        parse_maps(_MAP)
