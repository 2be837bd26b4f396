# SPDX-License-Identifier: Apache-2.0
"""A small Debian archive on a real HTTP server, signed with a throw-away key."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import http.server
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key in a GnuPG home of its own."""

    home: Path
    public: Path


@contextlib.contextmanager
def signing_key() -> Iterator[Key]:
    # GnuPG's socket paths must stay short, hence not pytest's directory.
    home = Path(tempfile.mkdtemp(prefix="km-gpg-"))
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    try:
        subprocess.run(
            [*gpg, "--quick-generate-key", "Test <test@example.org>", "ed25519", "sign", "never"],
            check=True,
            capture_output=True,
        )
        public = home / "public.gpg"
        public.write_bytes(
            subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
        )
        yield Key(home=home, public=public)
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True
        )
        shutil.rmtree(home, ignore_errors=True)


@dataclass(slots=True)
class Archive:
    """One archive's directory: `dists/<suite>/main/binary-<arch>` and `pool`."""

    root: Path
    key: Key
    stanzas: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, suite: str, deb: Path, *, arch: str = "amd64", listed_as: str = "") -> Path:
        """Put a package into the pool and the suite's index; returns where it is served from.

        listed_as: a sha256 to put in the index instead of the true one.
        """
        fields = subprocess.run(
            ["dpkg-deb", "--field", str(deb), "Package", "Version"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        pool = self.root / "pool" / "main" / deb.name
        pool.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(deb, pool)
        digest = listed_as or hashlib.sha256(pool.read_bytes()).hexdigest()
        self.stanzas.setdefault((suite, arch), []).append(
            f"{fields.strip()}\nArchitecture: {arch}\nFilename: pool/main/{deb.name}\n"
            f"Size: {pool.stat().st_size}\nSHA256: {digest}\n"
        )
        self.publish()
        return pool

    def clear(self, suite: str) -> None:
        for key in [key for key in self.stanzas if key[0] == suite]:
            self.stanzas[key] = []

    def publish(self, *, valid_until: str = "") -> None:
        """Write and sign every suite's indexes."""
        for suite in {suite for suite, _ in self.stanzas}:
            release = f"Origin: Test\nLabel: Test\nSuite: {suite}\nCodename: {suite}\n"
            release += f"Date: {email.utils.formatdate(time.time() - 60, usegmt=True)}\n"
            if valid_until:
                release += f"Valid-Until: {valid_until}\n"
            release += "Architectures: amd64 arm64\nComponents: main\nSHA256:\n"
            top = self.root / "dists" / suite
            for arch in ("amd64", "arm64"):
                index = top / "main" / f"binary-{arch}" / "Packages"
                index.parent.mkdir(parents=True, exist_ok=True)
                content = "\n".join(self.stanzas.get((suite, arch), [])).encode()
                index.write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
                release += f" {digest} {len(content)} {index.relative_to(top)}\n"
            self.sign(suite, release)

    def sign(self, suite: str, release: str, key: Key | None = None) -> None:
        target = self.root / "dists" / suite / "InRelease"
        signed = subprocess.run(
            ["gpg", "--homedir", str((key or self.key).home), "--batch", "--clearsign"],
            input=release.encode(), check=True, capture_output=True,
        )  # fmt: skip
        target.write_bytes(signed.stdout)


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and the paths it was asked for."""

    url: str
    asked: list[str]

    def downloads(self) -> list[str]:
        return [path for path in self.asked if path.endswith(".deb")]


@contextlib.contextmanager
def served(root: Path) -> Iterator[Server]:
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        @override
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        @override
        def log_error(self, *_: object) -> None:
            """A missing file is part of the test."""

    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Server(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
        finally:
            server.shutdown()
            thread.join()
