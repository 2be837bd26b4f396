# SPDX-License-Identifier: Apache-2.0
"""The agent's protocol against a peer that we script, honest and hostile."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.guest import (
    _GRACE,
    _LINE_LIMIT,
    _SLOWEST_BYTES_S,
    CALL_TIMEOUT_S,
    AgentGuest,
    CommandTimeoutError,
    GuestLostError,
    _Deadline,
)

Peer = Callable[[socket.socket, dict[str, Any]], None]


@contextlib.contextmanager
def _agent(
    peer: Peer, *, greeting: bytes = b"junk\nkm: guest up\n", call_timeout_s: float = 30.0
) -> Iterator[AgentGuest]:
    """An agent that hands each request to `peer`, which answers as it likes."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.sendall(greeting)
        with contextlib.suppress(OSError, ValueError), theirs.makefile("rb") as lines:
            for line in lines:
                peer(theirs, json.loads(line.lstrip(b"\xff")))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield AgentGuest(ours, lambda: None, call_timeout_s=call_timeout_s)
    finally:
        ours.close()
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        theirs.close()


def _say(stream: socket.socket, message: dict[str, Any]) -> None:
    stream.sendall(json.dumps(message).encode() + b"\n")


def _answer(stream: socket.socket, request: dict[str, Any], result: Any) -> None:
    message = {"return": result}
    if "id" in request:
        message["id"] = request["id"]
    _say(stream, message)


def _runs(out: bytes = b"", status: dict[str, Any] | None = None) -> Peer:
    """A peer that runs one command to its end."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        match request["execute"]:
            case "guest-sync-delimited":
                _answer(stream, request, request["arguments"]["id"])
            case "guest-exec":
                _answer(stream, request, {"pid": 7})
            case "guest-exec-status":
                done = {"exited": True, "exitcode": 0} if status is None else status
                data = {"out-data": base64.b64encode(out).decode()} if out else {}
                _answer(stream, request, {**done, **data})

    return peer


def test_a_command_gives_its_status_and_its_bytes() -> None:
    """Output is binary safe: what leaves the guest is what the command wrote."""
    noise = bytes(range(256)) * 3
    with _agent(_runs(noise, {"exited": True, "exitcode": 3})) as guest:
        guest.wait_ready(5)
        done = guest.run(["/bin/false"], timeout_s=5)

    assert (done.status, done.stdout) == (3, noise)


def test_a_command_killed_by_a_signal_has_a_shells_status() -> None:
    """128 + signal, so that a person recognises it."""
    with _agent(_runs(status={"exited": True, "signal": 9})) as guest:
        guest.wait_ready(5)

        assert guest.run(["/bin/x"], timeout_s=5).status == 137


def test_answers_to_other_requests_are_drained() -> None:
    """A replayed or stale answer must never pass for the one that was asked for."""
    honest = _runs(b"right")

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        stream.sendall(b"\xff\xfenot json at all\n")
        _say(stream, {"return": {"pid": 666}, "id": "0123456789abcdef"})
        _say(stream, {"return": {"pid": 666}})
        _say(stream, {"error": {"desc": "stale"}, "id": "another"})
        honest(stream, request)

    with _agent(peer) as guest:
        guest.wait_ready(5)

        assert guest.run(["/bin/x"], timeout_s=5).stdout == b"right"


def test_a_command_that_never_ends_is_killed_and_said_so() -> None:
    """The command failed its deadline; the guest is alive and can be asked on."""
    killed: list[list[str]] = []
    inner = _runs(status={"exited": False})

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-exec":
            killed.append(request["arguments"]["arg"])
        inner(stream, request)

    with _agent(peer) as guest:
        guest.wait_ready(5)
        with pytest.raises(CommandTimeoutError, match=r"'/bin/sleep 99' did not end within 0.3 s"):
            guest.run(["/bin/sleep", "99"], timeout_s=0.3)

    assert "7" in killed[1][1]


def test_an_error_of_the_agent_is_not_a_lost_guest() -> None:
    """A missing program is a fact about the command."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-sync-delimited":
            _answer(stream, request, request["arguments"]["id"])
        else:
            _say(stream, {"error": {"desc": "no such file"}, "id": request["id"]})

    with _agent(peer) as guest:
        guest.wait_ready(5)
        with pytest.raises(HarnessError, match="no such file") as caught:
            guest.run(["/nonexistent"], timeout_s=5)

    assert not isinstance(caught.value, GuestLostError)


@pytest.mark.parametrize(
    "result",
    [{"pid": "7"}, {}, 5, None, []],
    ids=["pid is text", "no pid", "number", "null", "list"],
)
def test_an_answer_of_the_wrong_shape_loses_the_guest(result: object) -> None:
    """A guest that answers nonsense cannot be believed."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-sync-delimited":
            _answer(stream, request, request["arguments"]["id"])
        else:
            _answer(stream, request, result)

    with _agent(peer) as guest:
        guest.wait_ready(5)
        with pytest.raises(GuestLostError):
            guest.run(["/bin/x"], timeout_s=5)


def test_output_that_is_no_base64_loses_the_guest() -> None:
    """Garbage is never a verdict."""
    with _agent(_runs(status={"exited": True, "exitcode": 0, "out-data": "!!!"})) as guest:
        guest.wait_ready(5)
        with pytest.raises(GuestLostError, match="base64"):
            guest.run(["/bin/x"], timeout_s=5)


def test_a_guest_that_never_greets_hangs() -> None:
    """A kernel that comes up silently is told apart from one that panics."""
    with (
        _agent(_runs(), greeting=b"") as guest,
        pytest.raises(GuestLostError, match="did not come up") as caught,
    ):
        guest.wait_ready(0.3)

    assert caught.value.reason == "hang"


def test_what_an_agent_says_of_half_requests_is_no_attack() -> None:
    """It opened its port in the middle of them; then it hangs. Measured on every other boot."""
    seen = 0

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:  # late: by then it is asked again
            _say(stream, {"error": {"class": "GenericError", "desc": "JSON parse error"}})
            time.sleep(0.2)
            _answer(stream, request, request["arguments"]["id"])

    with (
        _agent(peer) as guest,
        pytest.raises(GuestLostError, match="its agent did not answer") as caught,
    ):
        guest.wait_ready(1.0)

    assert (caught.value.reason, seen > 2) == ("hang", True)


@pytest.mark.parametrize("greeting", [b"A" * 4000, b"junk\nkm: guest up\n"], ids=["no", "then"])
def test_a_guest_that_comes_up_with_noise_alone_is_lost(greeting: bytes) -> None:
    """It is not silent, and it is not our agent."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        _say(stream, {"return": 0})

    with _agent(peer, greeting=greeting) as guest, pytest.raises(GuestLostError) as caught:
        guest.wait_ready(0.5)

    assert caught.value.reason == "guest-lost"
    assert "instead came" in caught.value.message


def test_a_closed_channel_is_a_lost_guest() -> None:
    """QEMU died: the watch would say how; without its word we still do not wait."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        stream.shutdown(socket.SHUT_RDWR)

    with _agent(peer) as guest, pytest.raises(GuestLostError, match="closed"):
        guest.wait_ready(10)


def test_a_file_comes_back_whole() -> None:
    """Bulk travels compressed, for the channel carries 110 kB/s."""
    content = b"events\n" * 10000
    with _agent(_runs(gzip.compress(content))) as guest:
        guest.wait_ready(5)

        assert guest.read_file("/tmp/events") == content


def test_a_file_that_is_no_gzip_loses_the_guest() -> None:
    """Our own gzip wrote it: anything else is a guest gone wrong."""
    with _agent(_runs(b"plain")) as guest:
        guest.wait_ready(5)
        with pytest.raises(GuestLostError, match="gzip"):
            guest.read_file("/tmp/events")


def test_a_channel_full_of_noise_loses_the_guest() -> None:
    """Answers to nobody's question, without end: every deadline would be renewed for ever."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-sync-delimited":
            _answer(stream, request, request["arguments"]["id"])
        else:
            with contextlib.suppress(OSError):
                while True:
                    stream.sendall(b'{"return": {}, "id": "0"}\n' * 1000)

    with _agent(peer) as guest:
        guest.wait_ready(5)
        with pytest.raises(GuestLostError, match="answer no request"):
            guest.run(["/bin/x"], timeout_s=5)


def _drips(stream: socket.socket, data: bytes, bytes_s: int) -> None:
    """Send it in bits at that rate, as long as somebody takes it."""
    bit = bytes_s // 50
    with contextlib.suppress(OSError):
        for start in range(0, len(data), bit):
            stream.sendall(data[start : start + bit])
            time.sleep(0.02)


def test_only_the_answer_with_a_command_s_output_may_be_long() -> None:
    """A byte now and then would keep us waiting for years."""

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-sync-delimited":
            _answer(stream, request, request["arguments"]["id"])
        else:
            _drips(stream, b" " * 2000, 50)

    with _agent(peer, call_timeout_s=1.0) as guest:
        guest.wait_ready(5)
        started = time.monotonic()
        with pytest.raises(
            GuestLostError, match=r"did not answer 'guest-exec' within 1 s; instead came \d+ bytes"
        ) as caught:
            guest.run(["/bin/x"], timeout_s=5)

    assert caught.value.reason == "guest-lost"
    assert time.monotonic() - started < 10


def _dripping(out: bytes, bytes_s: int) -> Peer:
    """A peer whose command ends with that output, which comes at that rate."""
    honest = _runs()

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "guest-exec-status":
            state = {"exited": True, "exitcode": 0, "out-data": base64.b64encode(out).decode()}
            answer = {"return": state, "id": request["id"]}
            _drips(stream, json.dumps(answer).encode() + b"\n", bytes_s)
        else:
            honest(stream, request)

    return peer


def test_a_long_answer_has_the_time_that_a_slow_guest_needs() -> None:
    """Longer than a call's timeout: it is a pause that may not be so long."""
    out = bytes(60_000)
    with _agent(_dripping(out, 50_000), call_timeout_s=1.0) as guest:
        guest.wait_ready(5)
        done = guest.run(["/bin/x"], timeout_s=5)

    assert done.stdout == out
    assert done.duration_s > 1.5


def test_a_long_answer_that_trickles_is_bounded_by_its_rate() -> None:
    """At half the rate that counts as slow, 32 MiB would hold the cell for more than an hour."""
    out = bytes(1 << 20)
    with _agent(_dripping(out, _SLOWEST_BYTES_S // 2), call_timeout_s=0.5) as guest:
        guest.wait_ready(5)
        started = time.monotonic()
        with pytest.raises(GuestLostError, match=r"bytes without a line end") as caught:
            guest.run(["/bin/x"], timeout_s=0.1)

    assert caught.value.reason == "guest-lost"
    assert time.monotonic() - started < 20  # the whole answer would take three minutes


def test_no_request_holds_a_cell_for_hours() -> None:
    """The longest answer, at the slowest rate."""
    deadline = _Deadline(wait_s=CALL_TIMEOUT_S, renewed=True)
    deadline.came(_LINE_LIMIT)
    assert deadline.at - deadline.started <= CALL_TIMEOUT_S + 1  # a pause is a pause

    assert _GRACE * CALL_TIMEOUT_S + _LINE_LIMIT / _SLOWEST_BYTES_S < 40 * 60


def test_an_answer_nested_without_end_is_noise() -> None:
    """It would exhaust a recursive parser's stack."""
    honest = _runs(b"right")

    def peer(stream: socket.socket, request: dict[str, Any]) -> None:
        stream.sendall(b"[" * 200_000 + b"\n")
        honest(stream, request)

    with _agent(peer) as guest:
        guest.wait_ready(5)

        assert guest.run(["/bin/x"], timeout_s=5).stdout == b"right"
