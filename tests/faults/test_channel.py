# SPDX-License-Identifier: Apache-2.0
"""A guest that attacks its channel: lost, or told apart, and never believed.

In place of the agent stands a program (src/attacker.c) that knows the protocol; the long tail is
spoken by a peer at the other end of a Unix socket.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import baseroot, guest, initramfs, process, rundir, vm
from harness.build import Built
from harness.cache import Cache
from harness.errors import HarnessError
from harness.guest import AgentGuest, GuestLostError
from harness.place import Local
from harness.qemu import Machine
from harness.results import Verdict
from harness.supply import KernelFiles
from tests.vm.matrix import AFTERWARDS, Matrix, verdicts

_SOURCE = Path(__file__).parent / "src" / "attacker.c"
_CALL_TIMEOUT_S = 3.0
_UNANSWERED = f"did not answer 'guest-exec' within {_CALL_TIMEOUT_S:g} s"
_LINES = f"{_UNANSWERED}; instead came lines that answer no request"
# What each is lost for, and in which words; a flood ends at its limit, where the guest is fast.
_ATTACKS = {
    "silence": ("hang", _UNANSWERED),
    "half": ("guest-lost", "instead came 47 bytes without a line end"),
    "garbage": ("guest-lost", _UNANSWERED),
    "replay": ("guest-lost", _LINES),
    "unasked": ("guest-lost", f"{_LINES} (4, the last"),
    "nested": ("guest-lost", f"{_LINES} (1, the last '[[[["),
    "liar": ("guest-lost", "no pid"),
    "flood": ("guest-lost", "that answer no request"),
    "long": ("guest-lost", "bytes without a line end"),
    "close": ("guest-lost", "ended"),  # in its init's words, if they are out before QEMU ends
}


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("attacker") / "attacker"
    process.run(
        ["cc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", target, _SOURCE],
        timeout_s=60,
    )
    return target


@pytest.mark.vm
def test_no_attack_of_a_real_guest_s_agent_is_taken_for_an_answer(
    attacker: Path, newest: KernelFiles, cache: Cache, tmp_path: Path
) -> None:
    """One boot, one attack after the other; each time the next greeting finds the host unharmed."""
    root = baseroot.obtain(cache, print)
    initramfs.pack({"/usr/sbin/qemu-ga": attacker}, tmp_path / "attacker.cpio")
    where = Local(prefix=root.qemu_prefix, environment=root.environment, root=root.directory)
    lost: dict[str, GuestLostError] = {}
    took_s: dict[str, float] = {}
    with rundir.run_directory(cache) as run_dir:
        base = baseroot.guest_archive(root, cache, print, full=False)
        initramfs.concatenate([base, tmp_path / "attacker.cpio"], run_dir / "initrd")
        with vm.booted(
            Machine(), vmlinuz=newest.vmlinuz, initrd=run_dir / "initrd", where=where,
            run_dir=run_dir, append=(f"km.attack={','.join(_ATTACKS)}",), boot_timeout_s=300,
        ) as booted:  # fmt: skip
            stream, watch = booted.guest._stream, booted.guest._watch
            for attack in _ATTACKS:
                again = AgentGuest(stream, watch, call_timeout_s=_CALL_TIMEOUT_S)
                if lost:
                    stream.sendall(b"\n")
                    again.wait_ready(60.0)
                started = time.monotonic()
                with pytest.raises(GuestLostError) as caught:
                    again.run(["/bin/false"], timeout_s=60)
                lost[attack] = caught.value
                took_s[attack] = time.monotonic() - started

    assert {attack: error.reason for attack, error in lost.items()} == {
        attack: reason for attack, (reason, _) in _ATTACKS.items()
    }
    for attack, (_, words) in _ATTACKS.items():
        assert words in lost[attack].message, attack
    assert max(took_s.values()) < 60


@pytest.mark.vm
def test_a_cell_whose_guest_attacks_is_unknown_and_its_neighbour_unharmed(
    attacker: Path, matrix: Callable[..., Matrix], observer: Built, oldest: KernelFiles,
    newest: KernelFiles, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole way to a verdict: the attacker is one kernel's agent, from its first word on.

    It is tried once more, as every guest that is lost: the cost is a boot and a deadline.
    """
    monkeypatch.setattr(guest, "CALL_TIMEOUT_S", 10.0)
    both = matrix(
        newest, oldest, subject=_carrying(observer, attacker), checks=(AFTERWARDS,),
        append=(
            f"rdinit=/subject/{attacker.name}", f"attack_on={newest.release}", "km.attack=unasked",
        ),
    )  # fmt: skip

    cells = {cell.kernel.name: cell for cell in both.run().cells}

    lost, healthy = cells[newest.name], cells[oldest.name]
    assert lost.verdict is Verdict.UNKNOWN
    found = verdicts(lost.checks)
    assert (found["boot"], found["splat"]) == (("pass", ""), ("unknown", "guest-lost"))
    assert "instead came lines that answer no request (4," in lost.checks[-1].summary
    assert lost.attempts == 2
    assert lost.earlier[0].startswith("guest-lost: the guest did not answer 'guest-exec'")
    assert lost.console
    assert {"boot", "splat"} <= set(verdicts(healthy.checks))
    assert healthy.verdict is Verdict.PASS
    assert (healthy.attempts, healthy.earlier) == (1, ())


def _carrying(built: Built, program: Path) -> Built:
    files = (*built.subject.files, program)
    return dataclasses.replace(built, subject=msgspec.structs.replace(built.subject, files=files))


Peer = Callable[[socket.socket, dict[str, Any]], None]


@contextlib.contextmanager
def _spoken_by(peer: Peer, directory: Path) -> Iterator[AgentGuest]:
    """A guest whose every request after synchronisation `peer` answers, over a real Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(directory / "ga"))
        listener.listen(1)
        theirs = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.connect(str(directory / "ga"))
        ours, _ = listener.accept()

    def serve() -> None:
        with contextlib.suppress(OSError, ValueError), theirs.makefile("rb") as lines:
            theirs.sendall(b"km: guest up\n")
            for line in lines:
                request = json.loads(line.lstrip(b"\xff"))
                if request["execute"] == "guest-sync-delimited":
                    _say(theirs, {"return": request["arguments"]["id"]})
                else:
                    peer(theirs, request)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield AgentGuest(ours, lambda: None, call_timeout_s=1.0)
    finally:
        ours.close()
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        theirs.close()


def _say(stream: socket.socket, message: object) -> None:
    stream.sendall(json.dumps(message).encode() + b"\n")


def _lost(peer: Peer, directory: Path, *, reason: str = "guest-lost") -> GuestLostError:
    """How the guest is lost that `peer` speaks for."""
    with _spoken_by(peer, directory) as attacked:
        attacked.wait_ready(10)
        with pytest.raises(GuestLostError) as caught:
            attacked.run(["/bin/false"], timeout_s=10)
    assert caught.value.reason == reason
    return caught.value


@pytest.fixture
def directory(cache: Cache) -> Iterator[Path]:
    with rundir.run_directory(cache) as path:  # short enough for a socket
        yield path


def test_a_line_without_an_end_costs_no_more_than_its_limit(directory: Path) -> None:
    """A gigabyte is on offer; the host stops taking it."""
    taken = 0

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        nonlocal taken
        block = b"A" * (1 << 16)
        while taken < 1 << 30:
            taken += stream.send(block)

    lost = _lost(peer, directory)

    assert "without a line end" in lost.message
    assert taken < guest._LINE_LIMIT + (8 << 20)


def test_an_endless_stream_of_lines_is_a_lost_guest(directory: Path) -> None:
    taken = 0

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        nonlocal taken
        while taken < 1 << 30:
            taken += stream.send((b'{"event": "%s"}\n' % (b"x" * 4000)) * 16)

    assert "answer no request" in _lost(peer, directory).message
    assert taken < 64 << 20


def test_an_answer_of_a_million_values_is_not_built_in_memory(directory: Path) -> None:
    """24 MiB of empty objects are 600 MiB of them here."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-exec":
            _say(stream, {"return": {"pid": 7}, "id": request["id"]})
            return
        bomb = b'{"id": "%s", "return": {"exited": [' % request["id"].encode()
        stream.sendall(bomb + b"{}," * (8 << 20) + b"{}]}}\n")

    tracemalloc.start()
    try:
        lost = _lost(peer, directory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "answer no request" in lost.message
    assert peak < 160 << 20  # the line, the bytes it is cut from, what the peer itself holds


@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 200_000, b'{"return":' * 100_000, b"\xc3\x28\xff\xfe\x00", b"\x00" * 4096, b"NaN",
        b'{"return": {"pid": 7}}', b'{"return": {"pid": 7}, "id": null}',
        b'{"return": {"pid": 7}, "id": {"NONCE": 1}}', b'{"return": {"pid": 7}, "id": "NONCE "}',
        b'{"return": {"pid": 7}, "id": "NONCE", "id": "another"}',
        b'["NONCE"]', b'"NONCE"', b"9" * 5000, b'{"id": "NONCE", "return": {"pid": 7}',
    ],
    ids=[
        "nested", "nested objects", "no UTF-8", "NULs", "NaN", "no id", "null", "object", "longer",
        "twice", "list", "text", "number", "half",
    ],
)  # fmt: skip
def test_what_only_resembles_an_answer_is_none(answer: bytes, directory: Path) -> None:
    """The nonce in it, somewhere, does not make it ours."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        stream.sendall(answer.replace(b"NONCE", request["id"].encode()) + b"\n")

    message = _lost(peer, directory).message
    assert "did not answer 'guest-exec'" in message
    assert "came lines that answer no request (" in message


@pytest.mark.parametrize(
    "state",
    [
        {"exited": True}, {"exited": True, "exitcode": True}, {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": 0.0}, {"exited": True, "exitcode": None},
        {"exited": True, "signal": True}, {"exited": True, "exitcode": 0, "out-data": 5},
        {"exited": True, "exitcode": 0, "out-data": "ÿ"},
    ],
    ids=["none", "true", "text", "float", "null", "signal true", "no text", "no base64"],
)  # fmt: skip
def test_an_end_that_is_no_number_is_no_success(state: dict[str, Any], directory: Path) -> None:
    """`true` would compare equal to 1, and `false` to 0: a pass."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        first = request["execute"] == "guest-exec"
        _say(stream, {"return": {"pid": 7} if first else state, "id": request["id"]})

    _lost(peer, directory)


def test_answers_that_come_before_their_request_are_not_taken(directory: Path) -> None:
    """A flood of guesses ahead, and an old answer again: the one that was asked for counts."""
    seen: list[str] = []

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        for old in seen:
            _say(stream, {"return": {"pid": 666, "exited": True, "exitcode": 0}, "id": old})
        seen.append(request["id"])
        result = {"pid": 7} if request["execute"] == "guest-exec" else {
            "exited": True, "exitcode": 3, "out-data": base64.b64encode(b"right").decode(),
        }  # fmt: skip
        _say(stream, {"return": result, "id": request["id"]})
        for _ in range(100):
            _say(stream, {"return": {"exited": True, "exitcode": 0}, "id": os.urandom(8).hex()})

    with _spoken_by(peer, directory) as attacked:
        attacked.wait_ready(10)
        for _ in range(3):
            done = attacked.run(["/bin/false"], timeout_s=10)
            assert (done.status, done.stdout) == (3, b"right")

    assert len(set(seen)) == len(seen) == 6


def test_half_an_answer_and_then_silence_is_over_at_the_deadline(directory: Path) -> None:
    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        stream.sendall(b'{"id": "%s", "return": {"pi' % request["id"].encode())

    started = time.monotonic()

    assert 'bytes without a line end that begin \'{"id"' in _lost(peer, directory).message
    assert time.monotonic() - started < 20


def test_silence_is_a_hang_and_no_attack(directory: Path) -> None:
    lost = _lost(lambda stream, request: None, directory, reason="hang")

    assert lost.message == "the guest did not answer 'guest-exec' within 1 s"


def test_a_guest_that_does_not_listen_hangs(directory: Path) -> None:
    """What we send fills the channel, and nobody takes it out."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        _say(stream, {"return": {"pid": 7, "exited": True, "exitcode": 0}, "id": request["id"]})
        time.sleep(2.5)

    with _spoken_by(peer, directory) as attacked:
        attacked.wait_ready(10)
        attacked.start(["/bin/true"])
        with pytest.raises(GuestLostError, match="did not answer 'guest-exec' within 1 s") as lost:
            attacked.run(["/bin/cat"], timeout_s=10, stdin=bytes(8 << 20))

    assert lost.value.reason == "hang"


def test_an_error_s_text_is_cut(directory: Path) -> None:
    """It becomes a summary in a report."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        _say(stream, {"error": {"desc": "x" * (1 << 20)}, "id": request["id"]})

    with _spoken_by(peer, directory) as attacked:
        attacked.wait_ready(10)
        with pytest.raises(HarnessError) as caught:
            attacked.run(["/bin/false"], timeout_s=10)

    assert len(caught.value.message) < 600


def test_a_program_that_prints_answers_answers_nothing(directory: Path) -> None:
    """What a command writes travels inside an answer, encoded: it cannot end it and begin another."""
    forged = b'\n{"return": {"exited": true, "exitcode": 0}, "id": "%s"}\n'

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        out = base64.b64encode(forged % request["id"].encode()).decode()
        result = {"pid": 7} if request["execute"] == "guest-exec" else {
            "exited": True, "exitcode": 3, "out-data": out,
        }  # fmt: skip
        _say(stream, {"return": result, "id": request["id"]})

    with _spoken_by(peer, directory) as attacked:
        attacked.wait_ready(10)

        assert attacked.run(["/bin/false"], timeout_s=10).status == 3
