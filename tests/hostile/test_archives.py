# SPDX-License-Identifier: Apache-2.0
"""Packages, layers and layouts that are not what they claim: one clear error, in bounds.

Each is made here, small where it is written and large where it is unpacked.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from harness.cache import Cache
from harness.errors import HarnessError
from harness.supply import deb, oci
from harness.supply.deb import KERNEL_FILES, extract_tar
from tests.hostile.bounded import FINE, answer
from tests.supply import images
from tests.supply.test_oci import IMAGE, Layout

MIB = 1 << 20


class _Endless:
    """What `pieces` yields, as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **more: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def _zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield bytes(MIB)


def _pax(words: bytes) -> bytes:
    record = b"%d " % 0
    for _ in range(4):  # a record's length counts its own digits
        record = b"%d %s\n" % (len(record.partition(b" ")[0]) + 2 + len(words), words)
    return record


def _attributes(words: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    record = _pax(words)
    return _header("pax", len(record), kind) + record + bytes(-len(record) % 512)


def _a_name_of_a_gigabyte() -> Iterator[bytes]:
    yield _header("././@LongLink", 1024 * MIB, tarfile.GNUTYPE_LONGNAME)
    yield from (b"a" * MIB for _ in range(1024))


def _attributes_of_a_gigabyte() -> Iterator[bytes]:
    yield _header("pax", 1024 * MIB, tarfile.XHDTYPE)
    yield from (b"a" * MIB for _ in range(1024))


def _a_map_of_holes() -> Iterator[bytes]:
    head = bytearray(_header("boot/vmlinuz-1", 0, tarfile.GNUTYPE_SPARSE))
    head[482], head[148:156] = 1, b" " * 8  # there is more of the map
    head[148:156] = b"%06o\0 " % sum(head)
    yield bytes(head)
    while True:
        yield (b"00000000001\0" * 42)[:504] + b"\1" + bytes(7)


def _headers_within_headers() -> Iterator[bytes]:
    while True:
        yield _attributes(b"a=b")


def _global_attributes() -> Iterator[bytes]:
    for number in range(10_000):
        yield _attributes(b"k%d=" % number + b"x" * 100_000, tarfile.XGLTYPE)
        yield _header("x", 0)


def _empty_files() -> Iterator[bytes]:
    while True:
        yield _header("usr/x", 0)


def _cut_in_a_file() -> Iterator[bytes]:
    yield _header("boot/vmlinuz-1", 5 * MIB) + b"MZ"


def _twice() -> Iterator[bytes]:
    yield (_header("boot/vmlinuz-1", 0) + _header("boot/vmlinuz-1", 0)) + bytes(1024)


def _huge_kernel() -> Iterator[bytes]:
    yield _header("boot/vmlinuz-1", 3 << 30)
    yield from _zeros(3 << 30)


def _no_number() -> Iterator[bytes]:
    yield _attributes(b"size=many") + _header("boot/vmlinuz-1", 0) + bytes(1024)


def _negative() -> Iterator[bytes]:
    yield _attributes(b"size=-5") + _header("boot/vmlinuz-1", 0) + bytes(1024)


TARS = {
    "a-name-of-a-gigabyte": (_a_name_of_a_gigabyte, "of headers"),
    "attributes-of-a-gigabyte": (_attributes_of_a_gigabyte, "of headers"),
    "a-map-of-holes-without-end": (_a_map_of_holes, "of headers"),
    "headers-within-headers": (_headers_within_headers, "headers"),
    "global-attributes": (_global_attributes, "bytes of global headers"),
    "files-without-end": (_empty_files, "more than 5000 members"),
    "cut-in-a-file": (_cut_in_a_file, "unexpected end of data"),
    "the-same-name-twice": (_twice, "twice"),
    "a-kernel-of-three-gigabytes": (_huge_kernel, "has 3221225472 bytes"),
    "a-size-that-is-no-number": (_no_number, FINE),  # tarfile takes it for none
    "a-negative-size": (_negative, "is no plain file"),
    "not-an-archive": (lambda: iter([b"hello, world" * 1000]), "no readable archive"),
    "empty": (lambda: iter([b""]), "no readable archive"),
}


@pytest.mark.parametrize(("made", "words"), TARS.values(), ids=TARS)
def test_a_tar_stream_that_lies_is_refused_in_bounds(
    tmp_path: Path, made: Callable[[], Iterator[bytes]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tarfile itself reads headers of any length, and remembers every member."""
    monkeypatch.setattr(deb, "_MAX_MEMBERS", 5000)  # the real number takes a while to reach
    stream = _Endless(made())

    said = answer(
        lambda: extract_tar(stream, tmp_path, KERNEL_FILES, what="x.tar"),  # type: ignore[arg-type]
        memory_mib=128, seconds=60,
    )  # fmt: skip

    assert words in said


def _unwritten(path: Path, size: int) -> None:
    """A file of zeros that takes no space."""
    with path.open("wb") as file:
        file.truncate(size)


def test_a_package_that_is_none_is_said_to_be_none(tmp_path: Path) -> None:
    """dpkg-deb says nothing on its output then."""
    package = tmp_path / "k.deb"
    package.write_bytes(b"!<arch>\nnot a package")

    with pytest.raises(HarnessError, match=r"k\.deb' is no readable archive"):
        deb.extract_deb(package, tmp_path)


@pytest.mark.parametrize(
    "name", ["/boot/vmlinuz-6.1", "./boot/./../boot/vmlinuz-6.1", "boot/vmlinuz-6.1\x00.gz"]
)
def test_a_name_leads_nowhere_but_to_our_own(tmp_path: Path, name: str) -> None:
    """The name of what is written is ours whatever the archive says."""
    out = tmp_path / "a" / "out"
    out.mkdir(parents=True)

    extract_tar(
        io.BytesIO(images.tar([(tarfile.TarInfo(name), b"x")])), out, KERNEL_FILES, what="x"
    )

    assert {path.name for path in tmp_path.rglob("*")} <= {"a", "out", "vmlinuz"}


def _bomb_gzip() -> bytes:
    head = _header("boot/other", 64 << 30)
    return gzip.compress(head + bytes(64 * MIB), 9)


def _bomb_zstd() -> bytes:
    """A frame of run-length blocks: 4 bytes become 128 kB."""
    window, size = 128 << 10, 128 << 10
    blocks = b"".join(struct.pack("<I", size << 3 | 1 << 1)[:3] + b"\0" for _ in range(20_000))
    assert window == size
    return b"\x28\xb5\x2f\xfd\x00\x38" + blocks + b"\x03\0\0\0"


LAYERS: dict[str, tuple[bytes, str]] = {
    "not-an-archive": (b"hello" * 1000, "no readable archive"),
    "cut-gzip": (gzip.compress(images.tar([]))[:20], "damaged layer"),
    "cut-zstd": (zstandard.ZstdCompressor().compress(bytes(100_000))[:12], "damaged layer"),
    "gzip-bomb": (_bomb_gzip(), "damaged layer"),
    "zstd-bomb": (_bomb_zstd(), "image"),
    "no-kernel": (images.tar([(tarfile.TarInfo("etc/passwd"), b"x")]), "holds no /boot/vmlinuz"),
    "a-kernel-that-is-none": (
        images.tar([(tarfile.TarInfo("boot/vmlinuz-6.1"), b"x" * 5000)]), "is no kernel image"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), LAYERS.values(), ids=LAYERS)
def test_a_layer_that_lies_makes_the_image_unavailable(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """Its digest is right: whoever made it knew how."""
    layout = Layout(tmp_path / "image")
    layout.index(layout.manifest(content))

    said = answer(lambda: _obtain(tmp_path), memory_mib=256, seconds=120)

    assert words in said


def _obtain(tmp_path: Path) -> None:
    oci.obtain(
        "k", str(tmp_path / "image"), "x86_64", Cache(root=tmp_path / "cache"), lambda _: None
    )


def _blobs(layout: Layout) -> list[Path]:
    return sorted((layout.root / "blobs" / "sha256").iterdir())


def _pipe_for_index(layout: Layout) -> None:
    (layout.root / "index.json").unlink()
    os.mkfifo(layout.root / "index.json")


def _pipe_for_layer(layout: Layout) -> None:
    path = max(_blobs(layout), key=lambda one: one.stat().st_size)
    path.unlink()
    os.mkfifo(path)


def _device_for_layer(layout: Layout) -> None:
    path = max(_blobs(layout), key=lambda one: one.stat().st_size)
    path.unlink()
    path.symlink_to("/dev/zero")


def _other_layer(layout: Layout) -> None:
    path = max(_blobs(layout), key=lambda one: one.stat().st_size)
    path.write_bytes(b"another")


def _deep_index(layout: Layout) -> None:
    (layout.root / "index.json").write_bytes(b"[" * 200_000)


def _huge_index(layout: Layout) -> None:
    _unwritten(layout.root / "index.json", 1 << 40)


def _digest_that_is_a_path(layout: Layout) -> None:
    layout.index({"digest": "sha256:../../../../etc/passwd"})


def _strange_index(layout: Layout) -> None:
    (layout.root / "index.json").write_text('{"manifests": [7]}')


LAYOUTS = {
    "index-is-a-named-pipe": (_pipe_for_index, "is a named pipe"),
    "layer-is-a-named-pipe": (_pipe_for_layer, "is a named pipe"),
    "layer-is-a-device": (_device_for_layer, "is a device"),
    "layer-is-another": (_other_layer, "is damaged: its sha256"),
    "index-is-nested-deeply": (_deep_index, "no readable OCI layout"),
    "index-of-a-terabyte": (_huge_index, "the most that is read"),
    "digest-is-a-path": (_digest_that_is_a_path, "is no sha256 digest"),
    "index-of-numbers": (_strange_index, "no readable OCI layout"),
}


@pytest.mark.parametrize(("harm", "words"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_lies_is_refused(
    tmp_path: Path, harm: Callable[[Layout], None], words: str
) -> None:
    """Without waiting for the other end of a pipe, or for the end of a device."""
    layout = Layout(tmp_path / "image")
    layout.index(layout.manifest(images.tar([(tarfile.TarInfo("boot/vmlinuz-6.6.1"), IMAGE)])))
    harm(layout)

    assert words in answer(lambda: _obtain(tmp_path), memory_mib=256)
