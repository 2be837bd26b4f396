# SPDX-License-Identifier: Apache-2.0
"""objcheck kprobe and runs: the yardstick counts every call that it says it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import process
from harness.checks import yardstick
from harness.guest import AgentGuest, CommandResult

_OBJCHECK = "/usr/bin/objcheck"
_WARM_UP = 200  # calls before each block


@pytest.mark.parametrize(
    "argv",
    [
        ["kprobe"],
        ["kprobe", "--function", "udp_sendmsg"],
        ["kprobe", "--rounds", "1"],
        ["kprobe", "--function", "udp_sendmsg", "--rounds", "0"],
        ["kprobe", "--function", "udp_sendmsg", "--calls", "x", "true"],
        ["kprobe", *["--function", "udp_sendmsg"] * 9, "true"],
        ["runs", "all"],
    ],
)
def test_wrong_use_is_said_without_loading_anything(objcheck: Path, argv: list[str]) -> None:
    """Status 2 and one line."""
    done = process.run([objcheck, *argv], timeout_s=20, check=False)

    assert done.status == 2
    (line,) = done.stdout.decode().splitlines()
    assert json.loads(line)["what"] == "usage"


def _ask(guest: AgentGuest, *argv: str) -> CommandResult:
    done = guest.run([_OBJCHECK, *argv], timeout_s=60)
    assert done.status == 0
    return done


on_kernels = pytest.mark.parametrize("guest", ["5.10-oldest", "7.3-newest"], indirect=True)


@pytest.mark.vm
@on_kernels
def test_yardstick_measures_and_counts_its_calls(guest: AgentGuest) -> None:
    """A unit comes out, from blocks in alternating order; nothing is left in the kernel."""
    argv = yardstick.kprobe_argv(_OBJCHECK, 300)

    answer = _ask(guest, *argv[1:]).text
    unit = yardstick.read_unit(answer)
    lines = yardstick.lines_of(answer)

    assert unit.cost.mid > 0
    assert unit.clock > 0
    (run,) = yardstick.read_runs(lines).values()
    assert (run.name, run.run_cnt) == ("km_empty", 300)
    attached = [json.loads(line)["attached"] for kind, line in lines if kind == "block"]
    assert attached == [False, True, True, False] * (yardstick.SAMPLES // 2)
    assert [kind for kind, _ in yardstick.lines_of(_ask(guest, "runs").text)] == ["end"]


@pytest.mark.vm
@on_kernels
def test_command_runs_under_the_program_and_each_of_its_sends_is_counted(
    guest: AgentGuest,
) -> None:
    """Its sends are another yardstick's: one before all, two blocks, and those with statistics."""
    inner = ["kprobe", "--function", "udp_sendmsg", "--rounds", "1", "--calls", "10"]

    done = _ask(guest, "kprobe", "--function", "udp_sendmsg", "--", _OBJCHECK, *inner)
    lines = yardstick.lines_of(done.text)

    (command,) = [json.loads(line) for kind, line in lines if kind == "command"]
    assert command["status"] == 0
    assert command["ns"] > 0
    (run,) = yardstick.read_runs(lines).values()
    assert run.run_cnt == 1 + 2 * (_WARM_UP + 10) + 10
    assert run.run_time_ns > 0
    assert yardstick.lines_of(done.error_text)[-1][0] == "end"  # the inner one's answer, apart


@pytest.mark.vm
@on_kernels
def test_runs_lists_what_another_program_did_meanwhile(guest: AgentGuest) -> None:
    """By id and name, whoever loaded it."""
    done = _ask(guest, "kprobe", "--function", "udp_sendmsg", "--", _OBJCHECK, "runs")

    inside = yardstick.read_runs(yardstick.lines_of(done.error_text))
    outside = yardstick.read_runs(yardstick.lines_of(done.text))

    assert [run.name for run in inside.values()] == ["km_empty"]
    assert inside.keys() == outside.keys()


@pytest.mark.vm
@on_kernels
@pytest.mark.parametrize(
    ("argv", "what", "status"),
    [
        (["kprobe", "--function", "no_such_function", "true"], "attach", None),
        (["kprobe", "--function", "udp_sendmsg", "/no/such/command"], None, 127),
        (["kprobe", "--function", "udp_sendmsg", "sh", "-c", "kill -9 $$"], None, 137),
    ],
    ids=["function", "command", "killed"],
)
def test_what_cannot_be_done_is_said(
    guest: AgentGuest, argv: list[str], what: str | None, status: int | None
) -> None:
    """A function that is not there ends the answer early; a command's end is its own status."""
    lines = [(kind, json.loads(line)) for kind, line in yardstick.lines_of(_ask(guest, *argv).text)]

    assert [line["what"] for kind, line in lines if kind == "error"] == ([what] if what else [])
    assert [line["status"] for kind, line in lines if kind == "command"] == (
        [] if status is None else [status]
    )
    assert (lines[-1][0] == "end") is (what is None)
