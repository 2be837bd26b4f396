# SPDX-License-Identifier: Apache-2.0
"""Lines that the observer and the send driver wrote in guests, as the checks kept them."""

from __future__ import annotations

from pathlib import Path

from harness.checks import observer, sends
from harness.checks.observer import Observed
from harness.checks.sends import Matrix

RECORDED = Path(__file__).parent / "recorded"
KERNELS = ("5.10-oldest", "7.3-newest")


def observed(name: str, *, command_output: str = "") -> Observed:
    """What `observe` returned when these lines were written."""
    ready, events, stats, unreadable = observer.read_lines(
        (RECORDED / f"{name}.jsonl").read_bytes()
    )
    return Observed(
        ready=ready, events=events, stats=stats, unreadable=unreadable, observer_status=0,
        observer_error="", command_status=0, command_output=command_output, command_error="",
        evidence=(),
    )  # fmt: skip


def matrix(kernel: str) -> Matrix:
    """What the driver said, with the counters between its cases."""
    return sends.read_matrix((RECORDED / f"{kernel}-sends-cases.jsonl").read_text())


def label(sent: Matrix) -> str:
    """The label of that run: the second of each name."""
    wire = bytes.fromhex(str(sent.cases[0].events[0]["name_wire"]))
    rest = wire[1 + wire[0] :]
    return rest[1 : 1 + rest[0]].decode()
