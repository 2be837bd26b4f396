# SPDX-License-Identifier: Apache-2.0
"""Builds what these tests run, through ``bpf/Makefile`` and into a directory of theirs."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.bpf.reference import Answer, Status, Verdict

BPF = Path(__file__).resolve().parents[2] / "bpf"
BUILD_TIMEOUT_S = 180.0
RUN_TIMEOUT_S = 120.0

has_clang = shutil.which("clang") is not None and shutil.which("llvm-objdump") is not None


def make(out: Path, *targets: str, expect_status: int = 0, source: Path = BPF) -> str:
    """Runs the targets of `source`; what make printed. ``targets`` may hold VAR=value."""
    # fmt: off
    done = subprocess.run(
        ["make",
         "-C", str(source),
         f"OUT={out}",
         *targets],
        capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False,
    )
    # fmt: on
    assert done.returncode == expect_status, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A line of parse_host or ``dnsmon parse``."""

    answer: Answer
    hash: int | None  # of (id, name), with seed and port 0


def _parsed(text: str) -> Parsed:
    data = json.loads(text)
    if data["verdict"] != Verdict.PLAUSIBLE:
        return Parsed(answer=Answer(verdict=Verdict(data["verdict"])), hash=None)
    answer = Answer(
        verdict=Verdict.PLAUSIBLE,
        status=Status(data["status"]),
        name_wire=data["name_wire"],
        name=data.get("name"),
        qtype=data["qtype"],
        qclass=data["qclass"],
    )
    return Parsed(answer=answer, hash=data["hash"])


def parse(argv: Iterable[str | Path], datagrams: Iterable[bytes]) -> list[Parsed]:
    """What the program says of each datagram."""
    text = "".join(datagram.hex() + "\n" for datagram in datagrams)
    done = subprocess.run(
        [str(word) for word in argv],
        input=text,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [_parsed(line) for line in done.stdout.splitlines()]
