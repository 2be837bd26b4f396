# SPDX-License-Identifier: Apache-2.0
"""A Docker engine of the tests' own that goes away, or falls silent, in the middle of an answer."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path


class End(StrEnum):
    """What becomes of a long answer after its first line."""

    HALF_A_CHUNK = "half a chunk"  # as of a process that is killed
    HALF_A_LINE = "half a line"  # a proxy before it ends the answer in good order
    REFUSAL = "refusal"  # the engine lives and says why it cannot
    SILENCE = "silence"  # until the test is over


class _Handler(http.server.BaseHTTPRequestHandler):
    """It has no image and no container; builds and pulls begin, and end as the test wants."""

    protocol_version = "HTTP/1.1"
    server: DyingEngine

    def do_GET(self) -> None:
        there = self.path.endswith(("/_ping", "/version"))
        self._say(
            200 if there else 404, {"ApiVersion": "1.41"} if there else {"message": "No such image"}
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(json.dumps({"stream": "begun\n"}).encode() + b"\r\n")
        self.server.begun.set()
        match self.server.ending:
            case End.HALF_A_CHUNK:
                self.wfile.write(b'40\r\n{"stream": ')
            case End.HALF_A_LINE:
                self._chunk(b'{"stream": ')
                self._chunk(b"")
            case End.REFUSAL:
                self._chunk(json.dumps({"error": "no space left\n on device"}).encode())
                self._chunk(b"")
            case End.SILENCE:
                self.server.over.wait(60)
        self.close_connection = True

    def _say(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    # typing.override is of Python 3.12.
    def address_string(self) -> str:  # type: ignore[explicit-override]
        return "a Unix socket has none"

    def log_message(self, format: str, *args: object) -> None:  # type: ignore[explicit-override]
        """Not on the tests' terminal."""


class DyingEngine(socketserver.ThreadingUnixStreamServer):
    """Answers the SDK's HTTP on a Unix socket."""

    def __init__(self, path: Path, ending: End) -> None:
        super().__init__(str(path), _Handler)
        self.ending = ending
        self.begun = threading.Event()  # a long answer
        self.over = threading.Event()


@contextlib.contextmanager
def dying_engine(directory: Path, ending: End) -> Iterator[DyingEngine]:
    """It listens on `directory`/engine for the length of the block."""
    with DyingEngine(directory / "engine", ending) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            serving.join()
