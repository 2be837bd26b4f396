# SPDX-License-Identifier: Apache-2.0
"""Parsers of what comes from elsewhere: an image, apt's index, another machine, an interrupted run,
the guest's agent. Each is asked with the bytes where its caller would have them."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import json
import socket
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
import zstandard
from typing_extensions import override

from harness import journal, remote
from harness.cache import Cache
from harness.guest import GREETING, AgentGuest, GuestLostError
from harness.journal import Words
from harness.remote import Brought
from harness.results import KernelFacts
from harness.supply import apt, oci
from harness.supply.lock import Archive
from tests.gate import runs
from tests.supply import images

_FACTS = KernelFacts(name="6.1-oldest", series="6.1", arch="x86_64")
_SUITE = apt.Suite(url="http://x", archive=Archive.MAIN, name="bookworm", past=False)


# An image of containers: its index and its manifest, around a layer that is as it should be.


@functools.cache
def _layer() -> bytes:
    kernel = images.vmlinux("6.1.0-x", with_btf=images.btf(), pad=3000)
    name = tarfile.TarInfo("boot/vmlinuz-6.1.0-x")
    return images.tar([(name, images.bzimage("6.1.0-x", kernel))])


def _named(blob: bytes, *, arch: str = "amd64") -> dict[str, object]:
    digest = hashlib.sha256(blob).hexdigest()
    return {"digest": f"sha256:{digest}", "size": len(blob), "platform": {"architecture": arch}}


@functools.cache
def _manifest() -> bytes:
    return json.dumps({"schemaVersion": 2, "layers": [_named(_layer())]}).encode()


def _index_of(*manifests: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()


def oci_indexes() -> Iterable[bytes]:
    yield _index_of(_named(_manifest()))
    yield _index_of(_named(b"absent", arch="arm64"), _named(_manifest()))


def oci_manifests() -> Iterable[bytes]:
    yield _manifest()
    yield json.dumps({"layers": [_named(_layer()), _named(_layer())], "annotations": {}}).encode()


def oci_index(data: bytes) -> None:
    _image(data, _manifest())


def oci_manifest(data: bytes) -> None:
    _image(_index_of(_named(data)), data)


def _image(index: bytes, manifest: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        layout = Path(scratch)
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        (layout / "oci-layout").write_text("{}")
        (layout / "index.json").write_bytes(index)
        for blob in (manifest, _layer()):
            (blobs / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
        oci.obtain("x", str(layout), "x86_64", Cache(root=layout / "cache"), lambda text: None)


# apt's index of a suite.

PACKAGES = (
    b"Package: linux-image-6.1.0-9-amd64\nVersion: 6.1.27-1\nArchitecture: amd64\n"
    b"Filename: pool/main/l/linux/linux-image-6.1.0-9-amd64_6.1.27-1_amd64.deb\nSize: 68985\n"
    b"SHA256: " + b"0a" * 32 + b"\nDescription: Linux 6.1\n\nPackage: bash\nVersion: 5\n\n"
    b"Package: linux-base\nVersion: 4.9\nFilename: pool/x.deb\nSize: 1\nSHA256: " + b"1b" * 32
)


def packages(data: bytes) -> None:
    for package in apt._kernels_among(data.split(b"\n\n"), _SUITE):
        assert package.suite == _SUITE.name
        assert package.size == int(package.size)


# What another machine sends.


def cells() -> Iterable[bytes]:
    yield msgspec.json.encode(runs.cell(_FACTS.name, runs.check("load")))


def cell_brought(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        name = f"kernels/{_FACTS.name}/console.log"
        remote.kept(
            Brought(host="elsewhere", cell=data, evidence={name: data}), _FACTS, Path(scratch)
        )


def names() -> Iterable[bytes]:
    for name in ("console.log", "alone/console.log", "again/é/x"):
        yield f"kernels/{_FACTS.name}/{name}".encode()


def name_brought(data: bytes) -> None:
    """Text of another machine may be any, halves of a pair of surrogates too."""
    (cell,) = cells()
    name = data.decode("utf-8", "surrogateescape")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report"
        for text in (name, name.translate({0xDC80 + n: 0xD800 + n for n in range(128)})):
            remote.kept(Brought(host="elsewhere", cell=cell, evidence={text: b"x"}), _FACTS, report)
        inside = report / "kernels" / _FACTS.name
        outside = [
            path
            for path in Path(scratch).rglob("*")
            if path.is_file() and not path.is_relative_to(inside)
        ]
        assert outside == []


def archives() -> Iterable[bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        (tree / "é").write_bytes(b"x" * 700)
        (tree / "link").symlink_to("é")
        archive = remote._Archive()
        archive.add(tree, "subject")
        archive.put("described.json", b"{}")
        yield archive.finish()


def tars() -> Iterable[bytes]:
    for packed in archives():
        yield zstandard.ZstdDecompressor().stream_reader(packed).read()


def sent(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        remote._unpacked(data, "sent-subjects", Cache(root=Path(scratch) / "cache"))
        assert [path.name for path in Path(scratch).iterdir()] == ["cache"]


def tar_sent(data: bytes) -> None:
    sent(zstandard.ZstdCompressor().compress(data))


# A run that was interrupted: its journal, and a cell of its.


@functools.cache
def _kept() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch)
        words = Words(kernels="6.1", manifest="x.toml", files=("a", "b"), timeout_s=1.5)
        with journal.opened(report, words) as made:
            made.begin("x", "2026-11-22T12:00:00+00:00", "inv kernel-matrix")
            made.keep(runs.cell(_FACTS.name, runs.check("load")))
        (cell,) = (report / journal.CELLS).iterdir()
        return (report / journal.FILE).read_bytes(), cell.read_bytes()


def journals() -> Iterable[bytes]:
    yield _kept()[0]


def kept_cells() -> Iterable[bytes]:
    yield _kept()[1]


def resumed_journal(data: bytes) -> None:
    _resume(data, _kept()[1])


def resumed_cell(data: bytes) -> None:
    _resume(_kept()[0], data)


def _resume(head: bytes, cell: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report"
        (report / journal.CELLS).mkdir(parents=True)
        (report / journal.FILE).write_bytes(head)
        (report / journal.CELLS / f"{_FACTS.name}.json").write_bytes(cell)
        journal.unfinished(report.parent)
        words = journal.recorded(report)
        with journal.opened(report, words.over(Words()), resume=True) as made:
            made.known({_FACTS.name: {}}, lambda text: None)


# The guest's agent.

_NONCE, _TOKEN = b"NONCE", b'"TOKEN"'
_OUTPUT = base64.b64encode(gzip.compress(b"content", mtime=0))
AGENT = (
    b"km: booting\n" + GREETING + b"\n\xff{\"return\": " + _TOKEN + b"}\n"
    b'{"return": {"pid": 83}, "id": "NONCE"}\n{"return": {}, "id": "another"}\n'
    b'{"return": {"exited": true, "exitcode": 0, "out-data": "b2sK"}, "id": "NONCE"}\n'
    b'{"return": {"pid": 84}, "id": "NONCE"}\n'
    b'{"return": {"exited": true, "exitcode": 0, "err-data": "b2sK", "out-data": "'
    + _OUTPUT + b'"}, "id": "NONCE"}\n'
)  # fmt: skip


class _Agent(socket.socket):
    """The harness's end of a channel on which every request gets what is next of some bytes.

    NONCE is that of the request, "TOKEN" that of the synchronisation; after the last of the bytes
    the channel is closed.
    """

    def __init__(self, data: bytes) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._theirs.setblocking(False)
        self._left = data.splitlines(keepends=True)
        self._say((GREETING,), {})

    @override
    def send(self, data: object, flags: int = 0, /) -> int:
        request = bytes(data)  # type: ignore[call-overload]
        wanted = json.loads(request.lstrip(b"\xff"))
        token = wanted.get("arguments", {}).get("id", 0)
        self._say((_NONCE, _TOKEN), {
            _NONCE: str(wanted.get("id", "")).encode(), _TOKEN: str(token).encode(),
        })  # fmt: skip
        return len(request)

    def watch(self) -> None:
        """QEMU has ended: nothing more will come."""
        with contextlib.suppress(BlockingIOError):
            if not self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise GuestLostError("it ended")

    @override
    def close(self) -> None:
        self._theirs.close()
        super().close()

    def _say(self, until: tuple[bytes, ...], words: dict[bytes, bytes]) -> None:
        """The lines up to one that has such a word in it, with what stands for the words."""
        while self._left:
            line = self._left.pop(0)
            said = functools.reduce(lambda text, word: text.replace(*word), words.items(), line)
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                self._theirs.sendall(said)
            if any(word in line for word in until):
                break
        if not self._left:
            with contextlib.suppress(OSError):  # already so
                self._theirs.shutdown(socket.SHUT_WR)


def agent(data: bytes) -> None:
    with _Agent(data) as stream:
        guest = AgentGuest(stream, stream.watch, call_timeout_s=0.05)
        guest.wait_ready(0.3)
        guest.run(["/bin/true"], timeout_s=0.2)
        guest.read_file("/x", timeout_s=0.2)
