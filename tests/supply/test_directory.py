# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from harness.cache import Cache
from harness.errors import UsageError
from harness.supply import KernelFiles, from_directory
from tests.supply import images

RELEASE = "4.19.300"
KERNEL = images.bzimage(RELEASE, images.vmlinux(RELEASE, pad=3000))
KERNEL_WITH_BTF = images.bzimage(RELEASE, images.vmlinux(RELEASE, with_btf=images.btf(), pad=3000))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "My Kernel_1"
    path.mkdir()
    return path


def taken(directory: Path) -> KernelFiles:
    return from_directory(directory, cache=Cache(root=directory.parent / "cache"))


@pytest.mark.parametrize(
    "name", ["vmlinuz", "bzImage", "vmlinuz-4.19.300", "boot/vmlinuz-x", "arch/x86/boot/bzImage"]
)
def test_an_image_is_found_under_its_usual_names(mine: Path, name: str) -> None:
    """A distribution's, a build tree's, a build tree's tar-pkg."""
    (mine / name).parent.mkdir(parents=True, exist_ok=True)
    (mine / name).write_bytes(KERNEL_WITH_BTF)

    kernel = taken(mine)

    assert (kernel.name, kernel.series, kernel.release) == ("my-kernel-1", "4.19", RELEASE)
    assert kernel.vmlinuz.read_bytes() == KERNEL_WITH_BTF
    assert kernel.btf is not None
    assert kernel.btf.read_bytes() == images.btf()
    assert not kernel.btf_detached
    assert str(mine) in kernel.source


def test_what_lies_beside_the_image_is_taken(mine: Path) -> None:
    """Each file by the suffix of the image, or without one."""
    (mine / "vmlinuz-x").write_bytes(KERNEL)
    (mine / "config-x").write_text("CONFIG_BPF=y\n")
    (mine / "System.map").write_text("0 T _text\n")
    (mine / "vmlinux.btf").write_bytes(images.btf())

    kernel = taken(mine)

    assert kernel.config == mine / "config-x"
    assert kernel.system_map == mine / "System.map"
    assert kernel.btf is not None
    assert kernel.btf.read_bytes() == images.btf()
    assert kernel.btf_detached


def test_a_detached_btf_may_be_an_elf_file(mine: Path) -> None:
    """BTFHub's are."""
    (mine / "vmlinuz").write_bytes(KERNEL)
    (mine / "vmlinux.btf").write_bytes(images.vmlinux("x", with_btf=images.btf()))

    btf = taken(mine).btf

    assert btf is not None
    assert btf.read_bytes() == images.btf()


def test_the_kernel_s_own_btf_goes_before_a_detached_one(mine: Path) -> None:
    """It is what the object will really be resolved against in the guest."""
    (mine / "vmlinuz").write_bytes(KERNEL_WITH_BTF)
    (mine / "vmlinux.btf").write_bytes(images.btf("other"))

    kernel = taken(mine)

    assert kernel.btf is not None
    assert kernel.btf.read_bytes() == images.btf()
    assert not kernel.btf_detached


def test_a_rebuilt_kernel_is_read_anew(mine: Path) -> None:
    """The cache goes by content, not by path."""
    (mine / "vmlinuz").write_bytes(KERNEL)
    assert taken(mine).btf is None

    (mine / "vmlinuz").write_bytes(KERNEL_WITH_BTF)

    assert taken(mine).btf is not None


def test_an_elf_vmlinux_and_an_arm64_image_are_kernels_too(mine: Path) -> None:
    """What a developer has at hand."""
    (mine / "vmlinux").write_bytes(images.vmlinux("7.0.1", pad=5000))
    assert taken(mine).release == "7.0.1"

    (mine / "Image").write_bytes(images.arm64_image("6.12.9", with_btf=images.btf()))

    assert taken(mine).arch == "arm64"


def test_a_directory_without_a_kernel_is_wrong_use(mine: Path) -> None:
    """Exit status 2, one line."""
    with pytest.raises(UsageError, match="no kernel image in"):
        taken(mine)


def test_what_is_no_directory_is_wrong_use(tmp_path: Path) -> None:
    """Somebody names the image itself."""
    with pytest.raises(UsageError, match="is no directory"):
        taken(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"text\n" * 2000, KERNEL[:5000]])
def test_what_is_no_kernel_is_wrong_use(mine: Path, content: bytes) -> None:
    """A text file as vmlinuz; half a download."""
    (mine / "vmlinuz").write_bytes(content)

    with pytest.raises(UsageError, match="vmlinuz"):
        taken(mine)


def test_what_is_no_btf_is_wrong_use(mine: Path) -> None:
    """It would end in a puzzling verdict much later."""
    (mine / "vmlinuz").write_bytes(KERNEL)
    (mine / "vmlinux.btf").write_bytes(b"no BTF at all, but long enough")

    with pytest.raises(UsageError, match=r"vmlinux\.btf"):
        taken(mine)


def test_two_kernels_in_a_directory_are_ambiguous(mine: Path) -> None:
    """Guessing would test the wrong one."""
    (mine / "vmlinuz-a").write_bytes(KERNEL)
    (mine / "vmlinuz-b").write_bytes(KERNEL)

    with pytest.raises(UsageError, match="more than one"):
        taken(mine)
