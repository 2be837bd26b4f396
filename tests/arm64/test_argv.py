# SPDX-License-Identifier: Apache-2.0
"""What a guest of arm64 is started with, and which kernels the words mean."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest

from harness import accel, catalogue, closure, paths, qemu
from harness.accel import Choice
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.errors import UsageError
from harness.place import Local
from harness.qemu import Accelerator, Arch, Boot, Machine

_BOOT = Boot(vmlinuz=Path("k"), initrd=Path("i"), console=Path("log"), channel=Path("ga"))
_ARM64 = Machine(arch=Arch.ARM64)


def _after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_console_and_channel_are_the_two_uarts_of_the_virt_board() -> None:
    """Every Debian arm64 kernel has the PL011 driver built in; the second UART costs a -serial."""
    words = qemu.argv(_ARM64, _BOOT)

    assert _after(words, "-machine") == "virt"
    assert words.count("-serial") == 2
    assert {"console=ttyAMA0", "km.channel=ttyAMA1"} <= set(_after(words, "-append").split())


def test_quirks_of_x86_s_timers_are_not_arm64_s_nor_kvm_s() -> None:
    quirks = {"no_timer_check", "tsc=nowatchdog"}

    assert quirks <= set(qemu.cmdline(Machine()).split())
    assert not quirks & set(qemu.cmdline(Machine(accelerator=Accelerator.KVM)).split())
    assert not quirks & set(qemu.cmdline(_ARM64).split())


def test_kvm_has_its_host_s_cpu_and_interrupt_controller() -> None:
    """An arm64 host without a GICv2 refuses the board's default."""
    words = qemu.argv(dataclasses.replace(_ARM64, accelerator=Accelerator.KVM), _BOOT)

    assert _after(words, "-cpu") == "host"
    assert _after(words, "-machine") == "virt,gic-version=host"


def test_what_costs_most_to_emulate_is_left_out_of_an_emulated_cpu() -> None:
    assert _after(qemu.argv(_ARM64, _BOOT), "-cpu").split(",")[0] == "max"
    assert "pauth=off" in _after(qemu.argv(_ARM64, _BOOT), "-cpu").split(",")


@pytest.mark.parametrize("host", ["x86_64", "riscv64"])
def test_another_architecture_is_emulated_whatever_dev_kvm_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    """No probe: QEMU would only say that KVM is not for this CPU."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accel, "_KVM", tmp_path / "kvm")
    monkeypatch.setattr(platform, "machine", lambda: host)

    choice = accel.choose(
        Local(prefix=("false",)), Path("k"), Path("a"), "QEMU 10", Cache(root=tmp_path),
        pytest.fail, Arch.ARM64,
    )  # fmt: skip

    assert choice == Choice(
        accelerator=Accelerator.TCG,
        reason=f"arm64 is not the architecture of this machine, which is {host}",
    )


def test_programs_of_another_architecture_are_compiled_against_its_tree() -> None:
    """A Makefile is told the compiler and the architecture; a native one needs no telling."""
    root = BaseRoot(
        directory=Path("/b"), arch=Arch.ARM64, guest=Path("/g"), sysroot=Path("/s/0123")
    )

    assert root.guest_tree == Path("/g")
    assert root.toolchain.make_words == (
        "ARCH=arm64", "CC=clang --target=aarch64-linux-gnu --sysroot=/s/0123 -fuse-ld=lld",
    )  # fmt: skip
    assert root.toolchain.identity == "0123"
    assert BaseRoot(directory=Path("/b")).toolchain.make_words == ()
    assert BaseRoot(directory=Path("/b")).guest_tree == Path("/b")


def test_a_kernel_of_each_architecture_has_a_name_of_its_own() -> None:
    """Results, evidence and images go by the name."""
    known = catalogue.load(paths.catalogue_dir())

    every = catalogue.select(known, "all", "all")

    assert len({kernel.name for kernel in every}) == len(every) == len(known.kernels)
    assert {kernel.arch for kernel in every} == {"x86_64", "arm64"}
    assert [k.name for k in catalogue.select(known, "5.10-oldest", "all")] == [
        "5.10-oldest", "5.10-oldest-arm64",
    ]  # fmt: skip
    assert len(catalogue.select(known, "stable", "all")) == 2


def test_a_full_name_says_its_architecture_itself() -> None:
    known = catalogue.load(paths.catalogue_dir())

    for arch in ("x86_64", "arm64", "all"):
        (kernel,) = catalogue.select(known, "6.1-newest-arm64", arch)
        assert kernel.arch == "arm64"
    with pytest.raises(UsageError, match="unknown architecture 'riscv64'"):
        catalogue.select(known, "all", "riscv64")


def test_this_machine_s_libraries_do_not_go_into_another_architecture_s_guest(
    tmp_path: Path,
) -> None:
    """They could only confuse its loader."""
    assert closure.borrowed([Path("/bin/true").resolve()], tmp_path, arch="arm64") == {}
