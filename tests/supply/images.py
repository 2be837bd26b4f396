# SPDX-License-Identifier: Apache-2.0
"""Kernel images, packages and archives small enough to make on the spot."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import subprocess
import tarfile
from pathlib import Path

import lz4.block
import zstandard

BTF_INT = struct.pack("<IIII", 1, 1 << 24, 4, 32 << 0)  # INT "int", 4 bytes, 32 bits


def btf(name: str = "int") -> bytes:
    """Valid BTF with one integer type of that name."""
    strings = b"\0" + name.encode() + b"\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(BTF_INT), len(BTF_INT), len(strings))
    return header + BTF_INT + strings


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no compression shrinks, the same ones each time."""
    return random.Random(seed).randbytes(size)


def vmlinux(
    release: str, *, with_btf: bytes | None = None, machine: int = 62, pad: int = 0
) -> bytes:
    """An ELF64 file with a banner and, if given, a .BTF section. machine 62: x86-64."""
    banner = f"Linux version {release} (builder@host) (gcc) #1 SMP\n\0".encode() + noise(pad)
    names = b"\0.rodata\0.BTF\0.shstrtab\0"
    sections = [(1, banner)] + ([(9, with_btf)] if with_btf is not None else []) + [(14, names)]
    body = b""
    headers = struct.pack("<IIQQQQIIQQ", *[0] * 10)
    for name, content in sections:
        headers += struct.pack(
            "<IIQQQQIIQQ", name, 1, 0, 0, 64 + len(body), len(content), 0, 0, 1, 0
        )
        body += content
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    ehdr = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64,
        len(sections) + 1, len(sections),
    )  # fmt: skip
    return ehdr + body + headers


def _lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


PACKERS = {
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, preset=0),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    "bzip2": lambda data: bz2.compress(data, 1),
    "zstd": lambda data: bytes(zstandard.ZstdCompressor().compress(data)),
    "lz4": _lz4_legacy,
}
UNCOMPRESSED = "uncompressed"


def bzimage(release: str, kernel: bytes, packer: str = "gzip") -> bytes:
    """An x86_64 bzImage: two setup sectors, then the packed kernel with its size behind it."""
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x020F)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200 + 0x80)
    struct.pack_into("<H", setup, 0x236, 0x3F)
    version = f"{release} (builder@host) #1 SMP Debian".encode() + b"\0"
    setup[0x380 : 0x380 + len(version)] = version
    packed = kernel if packer == UNCOMPRESSED else PACKERS[packer](kernel)
    payload = packed + struct.pack("<I", len(kernel))
    struct.pack_into("<II", setup, 0x248, 0x100, len(payload))
    return bytes(setup) + bytes(0x100) + payload + bytes(4096)


def arm64_image(release: str, *, with_btf: bytes | None = None, pad: int = 0) -> bytes:
    """A raw arm64 Image with a banner, a small decoy BTF and, if given, the real one."""
    header = bytearray(64)
    header[0x38:0x3C] = b"ARM\x64"
    banner = f"Linux version {release} (builder@host) (gcc) #1 SMP\n\0".encode()
    image = bytes(header) + bytes(4096) + banner + noise(pad)
    return image + (btf("i") + bytes(64) + with_btf if with_btf is not None else b"") + bytes(512)


def zboot(image: bytes, packer: str = "gzip") -> bytes:
    """An EFI zboot image around a raw one."""
    payload = PACKERS[packer](image)
    header = b"MZ\0\0zimg" + struct.pack("<II", 512, len(payload)) + bytes(8)
    header += packer.encode().ljust(32, b"\0")
    return header.ljust(512, b"\0") + payload + bytes(4096)


def deb(
    path: Path, package: str, version: str, files: dict[str, bytes], arch: str = "amd64"
) -> Path:
    """A package made by dpkg-deb itself."""
    root = path.with_suffix(".root")
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: {arch}\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: made by a test\n"
    )
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(path)],
        check=True,
        capture_output=True,
    )
    return path


def kernel_deb(path: Path, package: str, version: str, *, arch: str = "amd64") -> Path:
    """A linux-image package with an image above the size of a metapackage."""
    release = package.removeprefix("linux-image-").removesuffix("-unsigned")
    kernel = vmlinux(release, with_btf=btf(), pad=1_200_000)
    image = (
        bzimage(release, kernel)
        if arch == "amd64"
        else arm64_image(release, with_btf=btf("integer"), pad=1_200_000)
    )
    files = {f"boot/vmlinuz-{release}": image, f"boot/config-{release}": b"CONFIG_BPF=y\n"}
    return deb(path, package, version, files, arch)


def tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar archive with exactly these members, however strange."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def hostile_deb(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A .deb whose data archive dpkg-deb would never write; it reads it all the same."""
    control = tar([(tarfile.TarInfo("./control"), b"Package: x\nVersion: 1\nArchitecture: all\n")])
    parts = [
        (b"debian-binary", b"2.0\n"),
        (b"control.tar.gz", gzip.compress(control)),
        (b"data.tar", tar(members)),
    ]
    out = b"!<arch>\n"
    for name, content in parts:
        out += name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) + b"0".ljust(6)
        out += b"100644".ljust(8) + str(len(content)).encode().ljust(10) + b"`\n" + content
        out += b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path
