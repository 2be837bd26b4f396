# SPDX-License-Identifier: Apache-2.0
"""Kernel images that are not what they claim: bombs, lies about sizes, images of everything."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import pytest
import zstandard

from harness import vmlinuz
from tests.hostile.bounded import answer
from tests.supply import images

MIB = 1 << 20
BOMB_BYTES = 64 * MIB  # unpacked
LIMIT_BYTES = 16 * MIB


def _streamed(packer: object) -> bytes:
    """BOMB_BYTES of zeros through a compressor that has compress() and flush()."""
    parts = [packer.compress(bytes(MIB)) for _ in range(BOMB_BYTES // MIB)]  # type: ignore[attr-defined]
    return b"".join([*parts, packer.flush()])  # type: ignore[attr-defined]


def _zstd_of_runs() -> bytes:
    """A frame of run-length blocks, 4 bytes for 128 kB each."""
    block = struct.pack("<I", (128 << 10) << 3 | 1 << 1)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (BOMB_BYTES >> 17)


def _lz4(blocks: bytes) -> bytes:
    return b"\x02\x21\x4c\x18" + blocks


def _lz4_of_runs() -> bytes:
    block = images.PACKERS["lz4"](bytes(8 * MIB))[4:]
    return _lz4(block * (BOMB_BYTES // (8 * MIB)))


def _lz4_of_nothing() -> bytes:
    """A million blocks of which each unpacks to nothing."""
    return _lz4((struct.pack("<I", 1) + b"\0") * 1_000_000)


def _gzip_in_gzip() -> bytes:
    inner = images.bzimage("6.1.0", images.vmlinux("6.1.0", pad=5000))
    for _ in range(6):
        inner = gzip.compress(inner + bytes(8192), 1)
    return inner + bytes(8192)


def _elf(**fields: int) -> bytes:
    """A vmlinux whose header says something else than is there."""
    data = bytearray(images.vmlinux("6.1.0", with_btf=images.btf(), pad=8192))
    at = {"e_shoff": (40, "<Q"), "e_shentsize": (58, "<H"), "e_shnum": (60, "<H"),
          "e_shstrndx": (62, "<H"), "e_machine": (18, "<H")}  # fmt: skip
    for name, value in fields.items():
        struct.pack_into(at[name][1], data, at[name][0], value)
    return bytes(data)


def _sections_without_end() -> bytes:
    """e_shnum 0: the first header tells how many; all of them are the same one."""
    data = bytearray(_elf(e_shnum=0, e_shentsize=0))
    (table,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<Q", data, table + 32, 1 << 60)
    return bytes(data)


def _much_that_looks_like_btf() -> bytes:
    image = images.arm64_image("6.1.0", with_btf=None, pad=5000)
    return image + b"\x9f\xeb\x01" * (40 * MIB // 3)


def _release(words: str) -> bytes:
    return images.bzimage(words, images.vmlinux(words, pad=5000))


BOMBS = {
    "gzip": (lambda: gzip.compress(bytes(BOMB_BYTES), 1), "more than 16 MiB"),
    "xz": (lambda: _streamed(lzma.LZMACompressor(preset=0)), "more than 16 MiB"),
    "lzma": (
        lambda: _streamed(lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)), "more than 16 MiB"
    ),
    "bzip2": (lambda: _streamed(bz2.BZ2Compressor(1)), "more than 16 MiB"),
    "zstd": (lambda: _streamed(zstandard.ZstdCompressor().compressobj()), "more than 16 MiB"),
    "zstd-of-runs": (_zstd_of_runs, "more than 16 MiB"),
    "lz4": (_lz4_of_runs, "more than 16 MiB"),
    "lz4-of-nothing": (_lz4_of_nothing, "ends too early"),
    "xz-that-wants-gigabytes": (
        lambda: lzma.compress(b"x" * 100, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 128 * MIB}]),
        "damaged xz data",
    ),
}  # fmt: skip
LIES = {
    "packed-over-and-over": (_gzip_in_gzip, "compressed more than 3 times"),
    "sections-without-end": (_sections_without_end, "damaged ELF"),
    "sections-beyond-the-file": (lambda: _elf(e_shoff=1 << 63), "damaged ELF"),
    "more-sections-than-bytes": (lambda: _elf(e_shnum=0xFFFE), "damaged ELF"),
    "names-nowhere": (lambda: _elf(e_shstrndx=0xFFF0), "damaged ELF"),
    "another-machine": (lambda: _elf(e_machine=8), "a kernel for ELF machine 8"),
    "much-that-looks-like-btf": (_much_that_looks_like_btf, "fine"),
    "release-with-a-quote": (lambda: _release('6.1"-x'), "no kernel version"),
    "release-that-is-html": (lambda: _release("6.1<b>x"), "no kernel version"),
    "release-that-is-a-path": (lambda: _release("6.1/../../x"), "no kernel version"),
    "release-with-an-escape": (lambda: _release("6.1\x1b[31m"), "no kernel version"),
    "release-of-a-kilobyte": (lambda: _release("6.1" + "x" * 1000), "no kernel version"),
    "text": (lambda: b"hello\n" * 2000, "no kernel image"),
    "header-alone": (lambda: bytes(0x202) + b"HdrS" + bytes(5000), "boot protocol 0.00"),
}


@pytest.mark.parametrize(("made", "words"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_costs_a_few_times_the_limit(made: object, words: str) -> None:
    """The limit for a kernel is 256 MiB; here it is less, so that making bombs takes no minutes."""
    bomb = made()  # type: ignore[operator]

    said = answer(lambda: vmlinuz.unpack(bomb, limit=LIMIT_BYTES), memory_mib=160)

    assert words in said


def test_a_bomb_is_refused_as_an_image(tmp_path: Path) -> None:
    """The whole way, with the real limit."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(gzip.compress(bytes(512 * MIB), 1))

    said = answer(lambda: vmlinuz.read_image(path), memory_mib=1200, seconds=60)

    assert said == f"'{path}': gzip data unpacks to more than 256 MiB"


@pytest.mark.parametrize(("made", "words"), LIES.values(), ids=LIES)
def test_an_image_that_lies_is_refused_in_bounds(tmp_path: Path, made: object, words: str) -> None:
    """Every offset and count in a header is somebody else's word."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(made())  # type: ignore[operator]

    said = answer(lambda: vmlinuz.read_image(path), memory_mib=400)

    assert words in said
    assert "\n" not in said
