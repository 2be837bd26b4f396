# SPDX-License-Identifier: Apache-2.0
"""Talk to a booted guest: the `Guest` protocol, and the QEMU guest agent that carries it.

The agent's wire format is JSON lines over a byte stream (QEMU docs/interop/qemu-ga-ref). Measured
under TCG on two cores: ready 2.5 s after QEMU starts, 20-50 ms a command, 110 kB/s of captured
output, so bulk is compressed in the guest before it travels.
"""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import select
import socket
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from harness.errors import HarnessError

GREETING = b"km: guest up"
_LONG_ANSWERED = "guest-exec-status"
_SYNC_EVERY_S = 0.1  # what comes before the agent opens its port is flushed: ask again soon
_WATCH_EVERY_S = 0.5
_LINE_LIMIT = 32 << 20  # the agent caps captured output at 16 MiB, 22 MiB in base64
_NOISE_LIMIT = 1 << 20  # of lines that answer no request of ours, while we wait for one
_VALUES_LIMIT = 10_000  # in one answer; the agent's have a handful, their bulk is one string
# Of a long answer, on the average. Real guests under TCG gave, on two cores: 110 kB/s with nothing
# beside them, 25-33 kB/s beside 8 busy processes (x86, counted, arm64), 13 kB/s beside 24, where a
# boot takes longer than it may. So _LINE_LIMIT has 36 minutes, and no request holds a cell longer.
_SLOWEST_BYTES_S = 16 << 10
_GRACE = 4  # a call's timeout that often may pass before the rate counts
_SHOWN = 80  # characters of a line that is no answer
CALL_TIMEOUT_S = 30.0
_FILE_LIMIT = 256 << 20


class GuestLostError(HarnessError):
    """The guest is gone or cannot be believed; `reason` is a word of the cause taxonomy."""

    def __init__(
        self, message: str, *, reason: str = "guest-lost", hint: str = "", excerpt: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.excerpt = excerpt  # of the console: the lines that decided


class CommandTimeoutError(HarnessError):
    """The guest is alive, its command did not end in time and was killed."""


class CommandFloodError(HarnessError):
    """The command wrote more than the guest's agent keeps: what came back is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """A guest command that ended. status as a shell gives it: 128 + signal when one killed it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    duration_s: float

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode(errors="replace")


@dataclass(kw_only=True, slots=True)
class _Deadline:
    """Until when an answer is waited for; a long one for longer, while it comes and fast enough."""

    wait_s: float  # for its first byte, and for the next ones
    renewed: bool = False
    started: float = field(default_factory=time.monotonic)
    at: float = 0.0  # in monotonic seconds
    received: int = 0  # bytes, of all lines

    def __post_init__(self) -> None:
        self.at = self.started + self.wait_s

    def came(self, size: int) -> None:
        self.received += size
        if self.renewed:
            slowest = self.started + _GRACE * self.wait_s + self.received / _SLOWEST_BYTES_S
            self.at = min(time.monotonic() + self.wait_s, slowest)


@dataclass(slots=True)
class _Noise:
    """Whole lines that answer no request of ours, since the last request."""

    lines: int = 0
    size: int = 0  # bytes
    last: bytes = b""

    def add(self, line: bytes) -> None:
        self.lines += 1
        self.size += len(line) + 1
        self.last = line[:_SHOWN]
        if self.size > _NOISE_LIMIT:
            raise GuestLostError(
                f"the guest's channel carried over {_NOISE_LIMIT >> 10:,} KiB that answer no request",
                hint="does a command write to the agent's port (/dev/ttyS1)?",
            )

    def told(self, unended: bytearray) -> str:
        """In words, with what came of a line that has no end; "" when nothing came."""
        words = []
        if self.lines:
            last = self.last.decode(errors="replace")
            words.append(f"lines that answer no request ({self.lines:,}, the last {last!r})")
        if unended:
            begins = unended[:_SHOWN].decode(errors="replace")
            words.append(f"{len(unended):,} bytes without a line end that begin {begins!r}")
        return " and ".join(words)


class Guest(Protocol):
    """A booted guest, whatever carries the commands."""

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        """Run a command to its end. Raises CommandTimeoutError, GuestLostError."""

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """The content of a guest file. Raises HarnessError when there is none."""

    def start(self, argv: Sequence[str]) -> int:
        """Start a command without capturing its output; its pid."""


class AgentGuest:
    """A guest that answers through qemu-ga on `stream`.

    watch is called at least every half second while we wait; it raises GuestLostError when the
    guest's process has ended or its console shows that waiting is in vain. call_timeout_s: how long
    the agent may take to answer one request, whatever the command that it runs; CALL_TIMEOUT_S, if
    it is not said.
    """

    def __init__(
        self,
        stream: socket.socket,
        watch: Callable[[], None],
        *,
        call_timeout_s: float | None = None,
    ) -> None:
        self._call_timeout_s = CALL_TIMEOUT_S if call_timeout_s is None else call_timeout_s
        self._stream = stream
        self._stream.setblocking(False)
        self._watch = watch
        self._buffer = bytearray()
        self._noise = _Noise()

    def wait_ready(self, timeout_s: float, *, since: float | None = None) -> None:
        """Return once the agent has answered a synchronisation that we sent.

        since: when the boot began, in monotonic seconds; now, if it is not said.
        """
        begun = time.monotonic() if since is None else since
        boot = _Deadline(wait_s=timeout_s, started=begun)
        self._noise = _Noise()
        try:
            self._wait_greeting(boot)
        except TimeoutError:
            raise self._lost(
                f"the guest did not come up within the boot's {timeout_s:g} s"
            ) from None
        try:
            self._synchronise(boot)
        except TimeoutError:
            raise self._lost(
                f"the guest came up but its agent did not answer within the boot's {timeout_s:g} s"
            ) from None

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        started = time.monotonic()
        pid = self._exec(argv, capture=True, stdin=stdin)
        delay_s = 0.01
        while True:
            state = self._call(_LONG_ANSWERED, {"pid": pid})
            if state.get("exited") is True:
                break
            if time.monotonic() - started > timeout_s:
                self._kill(pid)
                raise CommandTimeoutError(
                    f"'{' '.join(argv)}' did not end within {timeout_s:g} s in the guest"
                )
            self._pause(delay_s)
            delay_s = min(delay_s * 1.6, 0.25)
        signal_number = state.get("signal")
        status = 128 + signal_number if type(signal_number) is int else state.get("exitcode")
        if type(status) is not int:
            raise GuestLostError(f"the agent's exit status is no number: {status!r:.80}")
        return CommandResult(
            argv=tuple(argv),
            status=status,
            stdout=_decoded(state.get("out-data", "")),
            stderr=_decoded(state.get("err-data", "")),
            truncated=bool(state.get("out-truncated") or state.get("err-truncated")),
            duration_s=time.monotonic() - started,
        )

    def start(self, argv: Sequence[str]) -> int:
        return self._exec(argv, capture=False, stdin=b"")

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        packed = self.run(["/bin/busybox", "gzip", "-c", path], timeout_s=timeout_s)
        if packed.status != 0:
            raise HarnessError(f"no file '{path}' in the guest: {packed.error_text.strip()}")
        if packed.truncated:
            raise HarnessError(f"'{path}' is too large to read from the guest (over 16 MiB packed)")
        try:
            unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            content = unpacker.decompress(packed.stdout, _FILE_LIMIT)
        except (zlib.error, gzip.BadGzipFile) as error:
            raise GuestLostError(f"'{path}' came back as no gzip data: {error}") from error
        if unpacker.unconsumed_tail:
            raise HarnessError(f"'{path}' of the guest is over {_FILE_LIMIT} bytes")
        return content

    def _exec(self, argv: Sequence[str], *, capture: bool, stdin: bytes) -> int:
        arguments: dict[str, object] = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "capture-output": capture,
        }
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        answer = self._call("guest-exec", arguments)
        pid = answer.get("pid")
        if type(pid) is not int:  # a bool is an int, too
            raise GuestLostError(f"the agent's answer has no pid: {answer!r:.80}")
        return pid

    def _kill(self, pid: int) -> None:
        # setsid has made no group of it: the children of a shell are found by their parent.
        killer = f"kill -9 $(ps -o pid,ppid | awk '$2 == {pid} {{ print $1 }}') {pid} 2>/dev/null"
        self._exec(["/bin/sh", "-c", killer], capture=False, stdin=b"")

    def _call(self, command: str, arguments: dict[str, object]) -> dict[str, object]:
        """One request and the answer that carries its nonce; other answers are drained."""
        # Only a command that ended has a long answer: what it wrote.
        deadline = _Deadline(wait_s=self._call_timeout_s, renewed=command == _LONG_ANSWERED)
        nonce = secrets.token_hex(8)
        request = _encoded({"execute": command, "arguments": arguments, "id": nonce})
        self._noise = _Noise()
        try:
            self._send(request, deadline)
            answer = self._answer_with(lambda reply: reply.get("id") == nonce, deadline)
        except TimeoutError:
            within_s = round(deadline.at - deadline.started, 1)
            raise self._lost(
                f"the guest did not answer '{command}' within {within_s:g} s"
            ) from None
        error = answer.get("error")
        if isinstance(error, dict):
            raise HarnessError(f"the guest refused '{command}': {error.get('desc')!s:.400}")
        result = answer.get("return")
        if not isinstance(result, dict):
            raise GuestLostError(f"the agent's answer to '{command}' is no object: {result!r:.80}")
        return result

    def _lost(self, message: str) -> GuestLostError:
        """A guest that said nothing at all hangs; one that said something else is not believed.

        After synchronisation an agent says nothing unasked and answers in order, and nobody asks on
        after an answer that did not come: there is no late one to be taken for noise.
        """
        came = self._noise.told(self._buffer)
        if not came:
            return GuestLostError(
                message, reason="hang", hint="the console log shows how far the guest came"
            )
        return GuestLostError(
            f"{message}; instead came {came}",
            hint="does a command write to the agent's port (/dev/ttyS1)?",
        )

    def _answer_with(
        self,
        wanted: Callable[[dict[str, object]], bool],
        deadline: _Deadline,
        *,
        expected: Callable[[dict[str, object]], bool] = lambda reply: False,
    ) -> dict[str, object]:
        """The first wanted reply. Others are noise, but for those that are expected, too."""
        while True:
            line = self._line(deadline)
            try:
                reply = None if _overgrown(line) else json.loads(line)
            except (ValueError, RecursionError):
                reply = None  # no JSON
            if isinstance(reply, dict):
                if wanted(reply):
                    return reply
                if expected(reply):
                    continue
            self._noise.add(line)

    def _wait_greeting(self, boot: _Deadline) -> None:
        while GREETING not in (line := self._line(boot)):
            if line:  # the greeting begins with a line end
                self._noise.add(line)

    def _synchronise(self, boot: _Deadline) -> None:
        """Ask until an answer is to what we asked last: nothing earlier comes after it.

        What we sent before the agent opened its port is lost but for its end, which the agent
        answers with errors; what it answers late is expected, too.
        """
        asked: list[int] = []
        self._noise = _Noise()  # what came before the greeting has been made good by it

        def expected(reply: dict[str, object]) -> bool:
            return "error" in reply or reply.get("return") in asked

        while True:
            asked.append(secrets.randbits(52))
            sync = {"execute": "guest-sync-delimited", "arguments": {"id": asked[-1]}}
            self._send(b"\xff" + _encoded(sync), boot)
            soon = _Deadline(wait_s=min(_SYNC_EVERY_S, boot.at - time.monotonic()))
            try:
                self._answer_with(
                    lambda reply: reply.get("return") == asked[-1], soon, expected=expected
                )
            except TimeoutError:
                if time.monotonic() >= boot.at:
                    raise
            else:
                return

    def _line(self, deadline: _Deadline) -> bytes:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end]).lstrip(b"\xff")
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            if searched > _LINE_LIMIT:
                raise GuestLostError(f"the agent sent over {_LINE_LIMIT} bytes without a line end")
            self._wait(deadline, readable=True)
            try:
                chunk = self._stream.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                self._channel_closed()
            if not chunk:
                self._channel_closed()
            self._buffer += chunk
            deadline.came(len(chunk))

    def _send(self, data: bytes, deadline: _Deadline) -> None:
        view = memoryview(data)
        while view:
            self._wait(deadline, readable=False)
            try:
                view = view[self._stream.send(view) :]
            except BlockingIOError:
                continue
            except OSError:
                self._channel_closed()

    def _channel_closed(self) -> NoReturn:
        """QEMU closes the channel a moment before it ends: give the watch time to learn why."""
        for _ in range(20):
            self._pause(0.1)
        raise GuestLostError("the guest's channel closed while QEMU still runs")

    def _wait(self, deadline: _Deadline, *, readable: bool) -> None:
        """Until the stream is ready. Raises TimeoutError at the deadline."""
        while True:
            self._watch()
            left_s = deadline.at - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            sides = ([self._stream], []) if readable else ([], [self._stream])
            ready = select.select(*sides, [], min(left_s, _WATCH_EVERY_S))
            if ready[0] or ready[1]:
                return

    def _pause(self, seconds: float) -> None:
        """The agent has no notification of a command's end: we ask again, less and less often."""
        select.select([], [], [], seconds)
        self._watch()


def _overgrown(line: bytes) -> bool:
    """Whether no answer of the agent has so many values: 32 MiB of them are a gigabyte here."""
    return sum(line.count(sign) for sign in (b"{", b"[", b",")) > _VALUES_LIMIT


def _encoded(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _decoded(data: object) -> bytes:
    if not isinstance(data, str):
        raise GuestLostError(f"the agent's output is no text: {data!r:.80}")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # binascii.Error, or characters that are not ASCII
        raise GuestLostError(f"the agent's output is no base64: {error}") from error
