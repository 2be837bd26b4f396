# SPDX-License-Identifier: Apache-2.0
"""What a kernel image says about itself: architecture, release, BTF. Nothing is booted.

Understands x86 bzImage (Documentation/arch/x86/boot.rst), arm64 Image (Documentation/arch/arm64/
booting.rst), EFI zboot (drivers/firmware/efi/libstub/zboot-header.S), any of them compressed as
a whole, and an ELF vmlinux. Input is untrusted: every size is bounded, every offset checked.
"""

from __future__ import annotations

import bz2
import lzma
import mmap
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lz4.block
import zstandard

from harness import elfsection, intake
from harness.elfsection import Buffer
from harness.errors import HarnessError

MAX_UNPACKED_BYTES = 256 << 20  # a distribution's generic kernel unpacks to 60-100 MB
MAX_FILE_BYTES = 4 << 30  # an unstripped vmlinux with DWARF; mapped, not read
_MAX_BTF_BYTES = 64 << 20  # vmlinux BTF is 3-10 MB
_MAX_LAYERS = 3  # zboot within gzip, say

# uname(2) takes 64 characters. A release stands in lock files, labels and reports: the characters
# are those that builders use (6.8.0-rc1+, 5.15.0-1-microsoft-standard-WSL2, 4.18.0-553.el8_10).
_RELEASE_WORD = rb"[0-9]{1,3}\.[0-9]{1,4}[A-Za-z0-9.+~:@=_,-]{0,64}"
_RELEASE = re.compile(_RELEASE_WORD + rb"(?=[ \0])")
_BANNER = re.compile(rb"Linux version (" + _RELEASE_WORD + rb") \(")
_MOST_BTF_PLACES = 10_000  # with the first bytes of BTF; chance alone makes two in 30 MB
_LZ4_LEGACY_BLOCK_BYTES = 8 << 20
_ZSTD_STEP_BYTES = 1 << 10
_ELF_MACHINES = {62: "x86_64", 183: "arm64"}


class NotAKernelError(HarnessError):
    """The file is no kernel image that we understand, or a damaged one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelImage:
    """Facts read from one image."""

    arch: str  # "x86_64" | "arm64"
    release: str  # `uname -r`
    format: str  # "bzImage (zstd)", "arm64 Image", …
    btf: bytes | None  # raw BTF; None when the kernel was built without


def read_image(path: Path) -> KernelImage:
    """Everything we know how to read from the image at `path`."""
    with _mapped(path) as data:
        try:
            return _read(data, path, layers=0, outer="")
        except (struct.error, ValueError, LookupError, OverflowError) as error:
            raise NotAKernelError(f"'{path}' is a damaged kernel image: {error}") from error


def read_btf(path: Path) -> bytes:
    """The raw BTF in the file at `path`: BTF itself, or an ELF file with a .BTF section."""
    with _mapped(path, least_bytes=24) as data:
        if data[:4] == b"\x7fELF":
            btf = _elf(data, path)[1]
            if btf is None:
                raise NotAKernelError(f"'{path}' has no .BTF section")
            return btf
        size = _btf_size(data, 0)
        if not size:
            raise NotAKernelError(f"'{path}' does not hold BTF, or only a part of it")
        return data[:size]


def _read(data: Buffer, path: Path, *, layers: int, outer: str) -> KernelImage:
    if layers > _MAX_LAYERS:
        raise NotAKernelError(f"'{path}' is compressed more than {_MAX_LAYERS} times over")
    if data[0x202:0x206] == b"HdrS":
        return _bzimage(data, path)
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        offset, size = struct.unpack_from("<II", data, 8)
        kind = bytes(data[24:56]).split(b"\0")[0].decode(errors="replace")
        payload = _slice(data, offset, size, path, "zboot payload")
        return _read(_unpack(payload, path), path, layers=layers + 1, outer=f"zboot ({kind})")
    if data[0x38:0x3C] == b"ARM\x64":
        return KernelImage(
            arch="arm64", release=_banner(data, path), format=outer or "arm64 Image",
            btf=scan_for_btf(data),
        )  # fmt: skip
    if data[:4] == b"\x7fELF":
        arch, btf = _elf(data, path)
        return KernelImage(
            arch=arch, release=_banner(data, path), format=outer or "ELF vmlinux", btf=btf
        )
    compression = compression_of(data[:16])
    if compression:
        inner = _unpack(data, path)
        return _read(inner, path, layers=layers + 1, outer=outer or f"compressed ({compression})")
    start = bytes(data[:16])
    raise NotAKernelError(
        f"'{path}' is no kernel image (it starts with {start!r})",
        hint="expected a bzImage, an arm64 Image or an ELF vmlinux",
    )


def _bzimage(data: Buffer, path: Path) -> KernelImage:
    """The setup header, then the ELF vmlinux packed behind it."""
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < 0x0208:
        raise NotAKernelError(
            f"'{path}' uses boot protocol {protocol >> 8}.{protocol & 0xFF:02}; 2.08 is the least"
        )
    setup_bytes = ((data[0x1F1] or 4) + 1) * 512
    if protocol < 0x020C or not data[0x236] & 1:
        raise NotAKernelError(f"'{path}' is a 32-bit x86 kernel", hint="an x86_64 one is needed")
    (version,) = struct.unpack_from("<H", data, 0x20E)
    match = _RELEASE.match(data, version + 0x200) if version else None
    if match is None or match.end() > setup_bytes:
        raise NotAKernelError(f"'{path}' has no kernel version in its setup header")
    offset, size = struct.unpack_from("<II", data, 0x248)
    payload = _slice(data, setup_bytes + offset, size, path, "payload")
    plain = payload.startswith(b"\x7fELF")  # CONFIG_KERNEL_UNCOMPRESSED
    compression = "uncompressed" if plain else compression_of(payload[:16])
    arch, btf = _elf(payload if plain else _unpack(payload, path), path)
    if arch != "x86_64":
        raise NotAKernelError(f"'{path}' is a bzImage around a kernel for {arch}")
    return KernelImage(
        arch=arch, release=match[0].decode(), format=f"bzImage ({compression})", btf=btf
    )


def _elf(data: Buffer, path: Path) -> tuple[str, bytes | None]:
    """Architecture and .BTF of an ELF vmlinux."""
    if data[:4] != b"\x7fELF":
        raise NotAKernelError(f"'{path}' does not unpack to an ELF vmlinux")
    try:
        found = elfsection.find(data, ".BTF")
    except (struct.error, ValueError) as error:
        raise NotAKernelError(f"'{path}' holds a damaged ELF file: {error}") from error
    arch = _ELF_MACHINES.get(found.machine, "")
    if not arch:
        raise NotAKernelError(f"'{path}' is a kernel for ELF machine {found.machine}")
    if found.section is None:
        return arch, None
    offset, size = found.section
    if size > _MAX_BTF_BYTES:
        raise NotAKernelError(f"'{path}' has a .BTF section of {size} bytes")
    btf = bytes(_slice(data, offset, size, path, ".BTF section"))
    if not _btf_size(btf, 0):
        raise NotAKernelError(f"'{path}' has a .BTF section that is not BTF")
    return arch, btf


def scan_for_btf(data: Buffer) -> bytes | None:
    """The BTF within an image that has no section table: the largest plausible one.

    The linker puts .BTF between __start_BTF and __stop_BTF in read-only data. Others may be there
    (the BPF preload skeleton carries its own of a few kB), so size decides.
    """
    best = (0, 0)
    at = data.find(b"\x9f\xeb\x01")
    for _ in range(_MOST_BTF_PLACES):
        if at < 0:
            break
        size = _btf_size(data, at)
        if size:
            best = max(best, (size, at))
        at = data.find(b"\x9f\xeb\x01", at + max(size, 1))
    size, at = best
    return bytes(data[at : at + size]) if size else None


def _btf_size(data: Buffer, at: int) -> int:
    """Bytes of the BTF at `at`, 0 if there is none (include/uapi/linux/btf.h: btf_header)."""
    if len(data) - at < 24:
        return 0
    magic, version, _, header, type_off, type_len, str_off, str_len = struct.unpack_from(
        "<HBBIIIII", data, at
    )
    if magic != 0xEB9F or version != 1 or not 24 <= header <= 256 or header % 4:
        return 0
    size = int(header + max(type_off + type_len, str_off + str_len))
    if type_len < 12 or str_len < 2 or size > min(_MAX_BTF_BYTES, len(data) - at):
        return 0
    if type_off % 4 or str_off < type_off + type_len:
        return 0
    strings = at + header + str_off
    if data[strings] != 0 or data[strings + str_len - 1] != 0:
        return 0
    # The first record: a name within the strings, a kind that exists, the reserved bits clear.
    name, info = struct.unpack_from("<II", data, at + header + type_off)
    kind = info >> 24 & 0x1F
    return size if name < str_len and 1 <= kind <= 31 and not info & 0x60FF0000 else 0


def compression_of(head: bytes) -> str:
    """The name of the compression whose magic `head` starts with, "" for none."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    return ""


def unpack(data: bytes, *, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """Decompress by magic, ignoring what follows (bzImage appends the unpacked size).

    Raises HarnessError for damaged data and for more than `limit` bytes of output.
    """
    name = compression_of(data[:16])
    unpacker = _UNPACKERS.get(name)
    if unpacker is None:
        what = f"{name} compression" if name else f"data that starts with {data[:8]!r}"
        raise HarnessError(f"cannot unpack {what}", hint="unpack it yourself, pass the vmlinux")
    try:
        out = unpacker(data, limit)
    except MemoryError as error:
        raise HarnessError(f"{name} data needs more memory than there is") from error
    except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError) as error:
        raise HarnessError(f"damaged {name} data: {error}") from error
    except (zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        raise HarnessError(f"damaged {name} data: {error}") from error
    if len(out) > limit:
        raise HarnessError(f"{name} data unpacks to more than {limit >> 20} MiB")
    return out


def _unpack(data: Buffer, path: Path) -> bytes:
    try:
        return unpack(data[:])
    except HarnessError as error:
        raise NotAKernelError(f"'{path}': {error.message}", hint=error.hint) from error


# Each stops soon after `limit` bytes of output; a result longer than that is refused by unpack().


def _gunzip(data: bytes, limit: int) -> bytes:
    engine = zlib.decompressobj(31)
    out = engine.decompress(data, limit + 1)
    if len(out) <= limit and not engine.eof:
        raise EOFError("it ends too early")
    return out


def _unxz(data: bytes, limit: int) -> bytes:
    return _lzma(data, limit, lzma.FORMAT_XZ)


def _unlzma(data: bytes, limit: int) -> bytes:
    return _lzma(data, limit, lzma.FORMAT_ALONE)


def _lzma(data: bytes, limit: int, form: int) -> bytes:
    engine = lzma.LZMADecompressor(form, memlimit=limit + (64 << 20))
    out = engine.decompress(data, max_length=limit + 1)
    if len(out) <= limit and not engine.eof:
        raise EOFError("it ends too early")
    return out


def _bunzip2(data: bytes, limit: int) -> bytes:
    engine = bz2.BZ2Decompressor()
    out = engine.decompress(data, max_length=limit + 1)
    if len(out) <= limit and not engine.eof:
        raise EOFError("it ends too early")
    return out


def _unzstd(data: bytes, limit: int) -> bytes:
    # The kernel is packed with --ultra -22: a window of up to 128 MiB.
    context = zstandard.ZstdDecompressor(max_window_size=128 << 20)
    engine = context.decompressobj()
    out = bytearray()
    # A block of 4 bytes can become 128 kB: small steps bound what one of them can blow up to.
    for start in range(0, len(data), _ZSTD_STEP_BYTES):
        out += engine.decompress(data[start : start + _ZSTD_STEP_BYTES])
        if engine.eof or len(out) > limit:
            return bytes(out)
    raise EOFError("it ends too early")


def _unlz4(data: bytes, limit: int) -> bytes:
    """LZ4's legacy frame: after the magic, blocks of up to 8 MiB, each behind its packed size."""
    out = bytearray()
    at = 4
    while at + 4 <= len(data) and len(out) <= limit:
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 == len(data) or size == 0:
            break  # the unpacked size that bzImage appends, or padding
        if size > len(data) - at - 4:
            raise EOFError("it ends too early")
        block = data[at + 4 : at + 4 + size]
        plain = lz4.block.decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK_BYTES)
        out += plain
        at += 4 + size
        if len(plain) < _LZ4_LEGACY_BLOCK_BYTES:
            break  # only the last may be shorter; millions of empty ones are nobody's kernel
    if not out:
        raise EOFError("it ends too early")
    return bytes(out)


_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "xz": _unxz,
    "zstd": _unzstd,
    "lz4": _unlz4,
    "lzma": _unlzma,
    "bzip2": _bunzip2,
}
_MAGICS = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x5d\0\0", "lzma"),
    (b"BZh", "bzip2"),
    (b"\x89LZO\0", "lzo"),
)


def _banner(data: Buffer, path: Path) -> str:
    match = _BANNER.search(data)
    if match is None:
        raise NotAKernelError(f"'{path}' holds no 'Linux version …' banner")
    return match[1].decode()


def _slice(data: Buffer, offset: int, size: int, path: Path, what: str) -> bytes:
    if size == 0 or offset + size > len(data):
        raise NotAKernelError(
            f"'{path}' is truncated: its {what} should end at byte {offset + size}, "
            f"the file has {len(data)}"
        )
    return data[offset : offset + size]


@contextmanager
def _mapped(path: Path, *, least_bytes: int = 4096) -> Iterator[mmap.mmap]:
    try:
        with (
            intake.opened(path, least_bytes=least_bytes, most_bytes=MAX_FILE_BYTES) as (file, _),
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            yield data
    except intake.NoFileError as error:
        raise NotAKernelError(error.message, hint=error.hint) from error
    except OSError as error:
        raise NotAKernelError(f"cannot read '{path}': {error.strerror}") from error
