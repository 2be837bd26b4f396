# SPDX-License-Identifier: Apache-2.0
"""What a guest says is text from a stranger: every check is asked of one that talks nonsense.

The agent's protocol is sound here, the programs behind it are not: what they print is noise, the
beginning of an answer, somebody else's answer, far too many numbers. No check passes on that, and
none ends with anything but an answer or a HarnessError.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness import build, checks, objcheck, paths, subject
from harness.build import Built
from harness.cache import Cache
from harness.checks.context import Check, Context
from harness.errors import HarnessError
from harness.guest import CommandResult
from harness.results import KernelFacts, Verdict
from harness.subject import Command, Subject
from tests.checks.recorded import RECORDED
from tests.objcheck.answers import recorded

_DRAW = random.Random(20261122)
Answer = Callable[[Sequence[str]], bytes]


class Liar:
    """A guest whose programs print what `answer` gives."""

    def __init__(self, answer: Answer, status: int = 0) -> None:
        self._answer = answer
        self._status = status

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        return CommandResult(
            argv=tuple(argv), status=self._status, stdout=self._answer(argv), stderr=b"",
            truncated=False, duration_s=0.01,
        )  # fmt: skip

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        return self._answer([path])

    def start(self, argv: Sequence[str]) -> int:
        return 7


def _recorded_lines() -> bytes:
    return b"".join(path.read_bytes()[:20000] for path in sorted(RECORDED.glob("*.jsonl")))


def _mutated(data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(max(1, len(changed) // 200)):
        changed[_DRAW.randrange(len(changed))] = _DRAW.randrange(256)
    return bytes(changed)


_KINDS = ("load", "program", "done", "features", "ready", "event", "stats", "attach", "together")
_TYPED = b"".join(json.dumps({"type": kind}).encode() + b"\n" for kind in _KINDS)
_VALUES: tuple[object, ...] = (True, -1, 1e308, "x", [], {}, None, 2**70)
_NAMES = ("ok", "programs", "maps", "id", "ns", "count")
_WRONG = b"".join(
    json.dumps({"type": kind, **dict.fromkeys(_NAMES, value)}).encode() + b"\n"
    for kind in _KINDS
    for value in _VALUES
)
_ANSWERS: dict[str, Answer] = {
    "nothing": lambda argv: b"",
    "noise": lambda argv: _DRAW.randbytes(4000),
    "numbers": lambda argv: b"0 0 0 0\n-1 99999999999999999999 nan inf 1e999\n" * 50,
    "words": lambda argv: b"statm x y\n@sample\n@\ncpus \nbefore\nafter x\nbeside\n@start\n@end\n",
    "types alone": lambda argv: _TYPED,
    "wrong types": lambda argv: _WRONG,
    "nested": lambda argv: b"[" * 20000 + b"\n" + b'{"type":' * 20000 + b"\n",
    "huge number": lambda argv: b'{"type": "load", "ok": ' + b"9" * 5000 + b"}\n" + b"9" * 5000,
    "half": lambda argv: _recorded_lines()[:777],
    "another's": lambda argv: _recorded_lines(),
    "mutated": lambda argv: _mutated(_recorded_lines()),
    "echo": lambda argv: " ".join(argv).encode(errors="replace"),
    "digits": lambda argv: "٣ ² 1_000 0x10\n".encode() * 40,
}


@pytest.fixture(scope="module")
def observer(cache: Cache) -> Built:
    return build.from_manifest(paths.default_manifest(), cache, lambda text: None)


def _context(guest: Liar, asked: Subject, directory: Path) -> Context:
    return Context(
        guest=guest, subject=asked,
        kernel=KernelFacts(name="6.1-oldest", series="6.1", arch="x86_64", release="6.1.0"),
        features=objcheck.parse_features(recorded("7.3.4", "features")), types=None,
        detached_btf=False, emulated=True, evidence_dir=directory, report_dir=directory,
    )  # fmt: skip


@pytest.mark.parametrize("said", list(_ANSWERS))
@pytest.mark.parametrize("check", [*checks.ALL, *checks.ON_REQUEST], ids=lambda check: check.name)
def test_no_check_passes_or_breaks_on_nonsense(
    check: Check, said: str, observer: Built, tmp_path: Path
) -> None:
    for status in (0, 1):
        context = _context(Liar(_ANSWERS[said], status), observer.subject, tmp_path)
        try:
            answer = check.ask(context)
        except HarnessError:
            continue

        assert answer.verdict is not Verdict.PASS, answer


@pytest.mark.parametrize("times", ["", "1", "1 2 3", "x y", "1 \xff"])
def test_a_command_that_writes_our_clock_s_file_breaks_nothing(times: str, tmp_path: Path) -> None:
    """It is root in its guest, and finds what the check leaves there."""
    trailer = b"km-command 0 0 0 0 0"
    guest = Liar(
        lambda argv: times.encode() if argv[0].endswith("times") else trailer.ljust(79) + b"\n"
    )
    asked = subject.with_commands(
        subject.of_commands("commands"), (Command(name="c", run="true"),), ()
    )

    with pytest.raises(HarnessError, match="the guest's clock"):
        checks.command.CHECK.ask(_context(guest, asked, tmp_path))
