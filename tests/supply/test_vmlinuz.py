# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.vmlinuz import NotAKernelError, read_btf, read_image, unpack
from tests.supply import images

RELEASE = "6.1.0-47-cloud-amd64"
BTF = images.btf()


def saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packer", [*images.PACKERS, images.UNCOMPRESSED])
def test_bzimage_tells_release_and_btf(tmp_path: Path, packer: str) -> None:
    """Debian alone has used gzip, xz, lz4 and zstd; others the rest."""
    kernel = images.vmlinux("ignored", with_btf=BTF)

    image = read_image(saved(tmp_path, images.bzimage(RELEASE, kernel, packer)))

    assert (image.arch, image.release, image.btf) == ("x86_64", RELEASE, BTF)
    assert packer in image.format


def test_kernel_without_btf_has_none(tmp_path: Path) -> None:
    """No BTF is a fact about the kernel, not a failure of ours."""
    image = read_image(saved(tmp_path, images.bzimage(RELEASE, images.vmlinux("x"))))

    assert image.btf is None


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda raw: raw, id="raw"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda raw: images.zboot(raw, "gzip"), id="zboot-gzip"),
        pytest.param(lambda raw: images.zboot(raw, "zstd"), id="zboot-zstd"),
    ],
)
def test_arm64_image_tells_release_and_the_largest_btf(tmp_path: Path, wrap: object) -> None:
    """An Image has no section table, and the BPF preload skeleton brings BTF of its own."""
    assert callable(wrap)
    raw = images.arm64_image("6.12.1-arm64", with_btf=images.btf("integer"), pad=5000)

    image = read_image(saved(tmp_path, wrap(raw)))

    assert (image.arch, image.release) == ("arm64", "6.12.1-arm64")
    assert image.btf == images.btf("integer")


@pytest.mark.parametrize(("machine", "arch"), [(62, "x86_64"), (183, "arm64")])
def test_elf_vmlinux_is_read_too(tmp_path: Path, machine: int, arch: str) -> None:
    """A kernel developer has vmlinux, not always an image."""
    content = images.vmlinux("7.0.1", with_btf=BTF, machine=machine, pad=5000)

    image = read_image(saved(tmp_path, content))

    assert (image.arch, image.release, image.btf) == (arch, "7.0.1", BTF)


def patched(image: bytes, offset: int, form: str, value: int) -> bytes:
    changed = bytearray(image)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


GOOD = images.bzimage(RELEASE, images.vmlinux("x", with_btf=BTF, pad=9000))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"#!/bin/sh\n" * 1000, "no kernel image", id="text"),
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param(GOOD[:6000], "truncated", id="truncated"),
        pytest.param(patched(GOOD, 0x248, "<I", 0xFFFFFFF0), "truncated", id="payload-offset"),
        pytest.param(patched(GOOD, 0x24C, "<I", 0), "truncated", id="payload-empty"),
        pytest.param(patched(GOOD, 0x206, "<H", 0x0200), "boot protocol", id="old-protocol"),
        pytest.param(patched(GOOD, 0x236, "<H", 0), "32-bit", id="i386"),
        pytest.param(patched(GOOD, 0x20E, "<H", 0xFFF0), "no kernel version", id="version"),
        pytest.param(patched(GOOD, 0x20E, "<H", 0), "no kernel version", id="no-version"),
        pytest.param(patched(GOOD, 0x700 + 200, "<Q", 0), "damaged gzip", id="bad-payload"),
        pytest.param(
            images.bzimage(RELEASE, b"not an ELF file" * 400), "does not unpack", id="no-elf"
        ),
        pytest.param(
            images.bzimage(RELEASE, images.vmlinux("x", machine=8)), "kernel for", id="mips"
        ),
        pytest.param(
            images.bzimage(RELEASE, images.vmlinux("x", with_btf=b"junk" * 9)),
            "not BTF",
            id="junk-btf",
        ),
        pytest.param(b"\x89LZO\0" + bytes(9000), "cannot unpack lzo", id="lzo"),
        pytest.param(images.vmlinux("?", pad=9000), "banner", id="no-banner"),
        pytest.param(
            gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(bytes(9000))))))
            + bytes(4096),
            "compressed more than",
            id="nested",
        ),
    ],
)
def test_what_is_no_kernel_is_refused_in_one_line(
    tmp_path: Path, content: bytes, says: str
) -> None:
    """Whatever a person passes as vmlinuz, they get a message with the path, not a traceback."""
    path = saved(tmp_path, content)

    with pytest.raises(NotAKernelError, match=says) as caught:
        read_image(path)

    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    """The two most common slips."""
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NotAKernelError, match="cannot read"):
            read_image(path)


@pytest.mark.parametrize("packer", list(images.PACKERS))
def test_a_bomb_stops_at_the_limit(packer: str) -> None:
    """Forty kB must not take all the memory of a CI machine."""
    bomb = images.PACKERS[packer](bytes(40 << 20))

    with pytest.raises(HarnessError, match="more than 1 MiB"):
        unpack(bomb, limit=1 << 20)


@pytest.mark.parametrize("packer", list(images.PACKERS))
def test_a_truncated_stream_is_refused(packer: str) -> None:
    """Half a kernel must not pass for a whole one."""
    packed = images.PACKERS[packer](images.noise(1 << 20))

    with pytest.raises(HarnessError, match="damaged"):
        unpack(packed[: len(packed) // 2])


def test_what_follows_a_stream_is_ignored() -> None:
    """bzImage appends the unpacked size to every payload."""
    assert unpack(zlib.compress(b"x", wbits=31) + b"rest") == b"x"


def test_btf_file_may_be_raw_or_elf(tmp_path: Path) -> None:
    """BTFHub's files are ELF, /sys/kernel/btf/vmlinux is not."""
    raw, elf = tmp_path / "raw", tmp_path / "elf"
    raw.write_bytes(BTF)
    elf.write_bytes(images.vmlinux("x", with_btf=BTF))

    assert read_btf(raw) == read_btf(elf) == BTF


@pytest.mark.parametrize("content", [b"x" * 99, BTF[:-3], images.vmlinux("x"), b""])
def test_other_files_are_no_btf(tmp_path: Path, content: bytes) -> None:
    """A truncated BTF would resolve against the wrong kernel."""
    with pytest.raises(NotAKernelError):
        read_btf(saved(tmp_path, content))


SEEDS = [
    GOOD,
    images.vmlinux("7.0.1", with_btf=BTF, pad=5000),
    images.arm64_image("6.12.1", with_btf=BTF),
    images.zboot(images.arm64_image("6.12.1", with_btf=BTF)),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 1 << 20),
    section=st.integers(0, 3 * 64),
)
def test_no_damage_gives_anything_but_our_error(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, int]], cut: int, section: int
) -> None:
    """Headers are where offsets live: hit them as often as the rest."""
    content = bytearray(seed)
    for at, value in changes:
        content[at % len(content)] = value
        content[at % 0x260] ^= value & 1
        content[-1 - (at + section) % 320] = value
    path = saved(tmp_path, bytes(content[: max(4096, cut)]))

    try:
        image = read_image(path)
    except NotAKernelError:
        return
    assert image.arch in ("x86_64", "arm64")
