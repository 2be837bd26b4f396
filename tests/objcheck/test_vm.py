# SPDX-License-Identifier: Apache-2.0
"""objcheck inside the oldest and the newest kernel: what is recorded is still what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import hotlines
from harness.btf import BpfObject
from harness.guest import AgentGuest
from harness.objcheck import (
    LoadAnswer,
    Options,
    Reason,
    Stage,
    attach_argv,
    features_argv,
    hot_argv,
    ids_argv,
    load_argv,
    parse_attach,
    parse_features,
    parse_hot,
    parse_ids,
    parse_load,
    parse_relos,
    relos_argv,
)
from tests.objcheck.answers import recorded
from tests.objcheck.conftest import GUEST_OBJECTS
from tests.objcheck.test_hotlines import marked_line

OLDEST, NEWEST = "5.10-oldest", "7.3-newest"
RECORDED = {"5.10": "5.10.223", "7.3": "7.3.4"}

pytestmark = [
    pytest.mark.vm,
    pytest.mark.parametrize("guest", [OLDEST, NEWEST], indirect=True),
]


def _ask(guest: AgentGuest, argv: list[str]) -> str:
    done = guest.run(["/usr/bin/objcheck", *argv[1:]], timeout_s=120)
    assert (done.status, done.error_text) == (0, "")
    return done.text


def _object(name: str) -> str:
    return f"{GUEST_OBJECTS}/{name}.bpf.o"


def _series(guest: AgentGuest) -> str:
    release = guest.run(["/bin/busybox", "uname", "-r"], timeout_s=20).text
    return ".".join(release.split(".")[:2]).split("-")[0]


def _verdicts(answer: LoadAnswer) -> dict[str, tuple[bool, int, Stage | None, Reason | None]]:
    programs = {
        program.name: (program.ok, program.errno, program.stage, program.reason)
        for program in answer.programs
    }
    together = answer.together
    return programs | {"": (together.ok, together.errno, together.stage, together.reason)}


@pytest.mark.parametrize(
    "name",
    [
        "good",
        "chain",
        "reject",
        "missing_field",
        "atomics",
        "newmap",
        "newtype",
        "fentry",
        "ksym",
        "kconfig",
    ],
)
def test_each_object_gets_the_recorded_verdicts(guest: AgentGuest, name: str) -> None:
    answer = parse_load(_ask(guest, load_argv(_object(name))))

    known = parse_load(recorded(RECORDED[_series(guest)], f"load-{name}"))
    assert _verdicts(answer) == _verdicts(known)


@pytest.mark.parametrize("name", ["good", "attachments", "multi", "fentry"])
def test_each_program_attaches_as_recorded(guest: AgentGuest, name: str) -> None:
    answer = parse_attach(_ask(guest, attach_argv(_object(name))))

    known = parse_attach(recorded(RECORDED[_series(guest)], f"attach-{name}"))
    assert [(p.name, p.ok, p.reason) for p in answer.programs] == [
        (p.name, p.ok, p.reason) for p in known.programs
    ]


def test_features_are_as_recorded(guest: AgentGuest) -> None:
    features = parse_features(_ask(guest, features_argv(["udp_sendmsg"])))

    known = parse_features(recorded(RECORDED[_series(guest)], "features"))
    assert features.map_types >= known.map_types
    assert features.insns == known.insns
    assert features.has("ksym:udp_sendmsg")


def test_a_slow_verification_ends_at_its_deadline(guest: AgentGuest) -> None:
    """6.12.117 follows this object's million instructions for minutes: the rest must not wait.

    These two kernels may well answer within the second; both answers are right.
    """
    options = Options(load_timeout_s=1)
    answer = parse_load(_ask(guest, load_argv(_object("complex"), options))).programs[0]

    assert answer.reason in (Reason.TIMEOUT, Reason.PROGRAM_TOO_COMPLEX)
    assert answer.load_us < 30_000_000 or answer.reason is Reason.PROGRAM_TOO_COMPLEX


@pytest.mark.parametrize("name", ["hot", "chain", "multi"])
def test_every_processed_instruction_is_counted(
    guest: AgentGuest, objects: Path, name: str
) -> None:
    """The trace's form and libbpf's order of subprograms are as this kernel has them, exactly."""
    counted = parse_hot(_ask(guest, hot_argv(_object(name))))

    obj = BpfObject.from_file(objects / f"{name}.bpf.o")
    assert [hot.name for hot in counted if hot.ok and not hot.whole] == []
    for hot in counted:
        assert hot.insns == len(hotlines.layout(obj, hot.name))


def test_the_line_that_costs_most_is_on_top(guest: AgentGuest, objects: Path) -> None:
    counted = {hot.name: hot for hot in parse_hot(_ask(guest, hot_argv(_object("hot"))))}

    obj = BpfObject.from_file(objects / "hot.bpf.o")
    lines = hotlines.hot_lines(obj, counted["loops"])
    assert (lines[0].line, lines[0].function) == (marked_line(), "mix")
    assert lines[0].processed > counted["loops"].counted * 0.5
    assert sum(line.processed for line in lines) == counted["loops"].counted


def test_a_trace_that_does_not_fit_is_counted_in_part_and_says_so(guest: AgentGuest) -> None:
    """5.10 keeps its beginning, 7.3 its end; neither passes for the whole."""
    options = Options(programs=("loops",), log_size=100_000)
    (hot,) = parse_hot(_ask(guest, hot_argv(_object("hot"), options)))

    assert hot.truncated
    assert not hot.whole
    assert hot.stats is not None
    assert 0 < hot.counted < hot.stats.processed / 10
    assert (0 in hot.by_insn) is (_series(guest) == "5.10")


def test_a_kernel_without_btf_takes_a_file(guest: AgentGuest) -> None:
    """The kernel's own types serve as the file: relocated alike, with and without."""
    guest.run(["/bin/busybox", "cp", "/sys/kernel/btf/vmlinux", "/tmp/btf"], timeout_s=20)
    own = parse_relos(_ask(guest, relos_argv(_object("missing_field"))))

    given = parse_relos(_ask(guest, relos_argv(_object("missing_field"), Options(btf="/tmp/btf"))))

    assert [program.insns for program in given] == [program.insns for program in own]


def test_nothing_is_left_behind(guest: AgentGuest) -> None:
    """Neither after an answer nor after SIGKILL in the middle of holding."""
    before = parse_ids(_ask(guest, ids_argv()))
    script = (
        f"objcheck attach --hold --ready-file /tmp/ready {_object('good')} >/tmp/held & "
        "while [ ! -s /tmp/ready ]; do sleep 0.1; done; objcheck ids >/tmp/ids; "
        "kill -9 $(cat /tmp/ready); wait; sleep 1"
    )

    guest.run(["/bin/busybox", "sh", "-c", script], timeout_s=60)

    during = parse_ids(guest.read_file("/tmp/ids").decode())
    after = parse_ids(_ask(guest, ids_argv()))
    assert (during.program, during.map) == ((before.program or 0) + 5, (before.map or 0) + 3)
    assert after == before
    assert not parse_attach(guest.read_file("/tmp/held").decode(), holding=True).ended
