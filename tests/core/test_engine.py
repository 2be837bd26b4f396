# SPDX-License-Identifier: Apache-2.0
"""A Docker engine that answers and then fails: no traceback, and no run that ends for it."""

from __future__ import annotations

import http.server
import socketserver
import threading
from pathlib import Path

import pytest

from harness import images, kernel_container


class _Failing(http.server.BaseHTTPRequestHandler):
    """Says that it is there, and fails at everything else."""

    def do_GET(self) -> None:
        there = self.path.endswith(("/_ping", "/version"))
        body = b'{"ApiVersion": "1.41"}' if there else b'{"message": "no space left on device"}'
        self.send_response(200 if there else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # typing.override is of Python 3.12.
    def address_string(self) -> str:  # type: ignore[explicit-override]
        return "a Unix socket has none"

    def log_message(self, format: str, *args: object) -> None:  # type: ignore[explicit-override]
        """Not on the tests' terminal."""


def test_an_engine_that_fails_while_leftovers_are_looked_for_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'engine'}")
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine"), _Failing) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            found = kernel_container.remove_orphans(), images.remove_half_made()
        finally:
            server.shutdown()
            serving.join()

    assert found == ([], 0)
    assert "stays there: 500 Server Error" in caplog.text
