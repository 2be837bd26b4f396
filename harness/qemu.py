# SPDX-License-Identifier: Apache-2.0
"""Boot files and a machine → QEMU's argv. Pure: nothing is run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Arch(StrEnum):
    X86_64 = "x86_64"
    ARM64 = "arm64"


_MACHINE_ARCH = {"x86_64": Arch.X86_64, "aarch64": Arch.ARM64}  # uname -m


def host_arch() -> Arch | None:
    """Of this machine: only guests of it can run under KVM. None: an architecture without guests."""
    return _MACHINE_ARCH.get(platform.machine())


class Accelerator(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the guest sees of hardware.

    counted: the guest's clock advances by one ns with each instruction that is executed, whatever
    the host does meanwhile, and jumps to the next timer when all CPUs are idle. So times in the
    guest are counts of instructions, of all its CPUs together. With TCG only, which then runs the
    CPUs in turn in one thread (QEMU's "TCG Instruction Counting").
    """

    arch: Arch = Arch.X86_64
    accelerator: Accelerator = Accelerator.TCG
    vcpus: int = 2
    memory_mib: int = 768
    counted: bool = False

    @property
    def side_by_side(self) -> bool:
        """Whether CPUs are emulated in a thread each, beside each other (QEMU's MTTCG)."""
        return self.accelerator is Accelerator.TCG and self.vcpus > 1 and not self.counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """Files of one boot, as QEMU will see them, and words for the kernel command line."""

    vmlinuz: Path
    initrd: Path
    console: Path  # written by QEMU: everything the first serial port said
    channel: Path | None  # Unix socket we listen on; None: an interactive guest without agent
    append: tuple[str, ...] = ()


PROGRAM = {Arch.X86_64: "qemu-system-x86_64", Arch.ARM64: "qemu-system-aarch64"}

# panic=-1 with -no-reboot ends QEMU at once; an oops and a lockup are panics, so that a kernel that
# is not sound any more cannot go on to give verdicts. loglevel=5: warnings reach the console, the
# chatter of a boot (0.4 s under TCG) stays in the kernel's buffer, where the splat check reads it.
_CMDLINE = (
    "panic=-1", "oops=panic", "softlockup_panic=1", "loglevel=5",
    "rcupdate.rcu_cpu_stall_timeout=21", "rdinit=/init", "net.ifnames=0",
)  # fmt: skip
# An emulated timer may tick late on a busy machine; the kernel takes that for a broken IO-APIC and
# panics ("IO-APIC + timer doesn't work", seen once on 7.3.4 at load 12). An emulated CPU answers too
# late for the TSC's watchdog of 7.3 ("Watchdog remote CPU 1 read timed out", at every boot), and 1
# boot in 500 stood still in it: watchdog_check_skew waited, by a clock that its own CPU has to
# advance, for a CPU that waited in stop_machine for this one. Emulated CPUs have one TSC: the host's.
_EMULATED = {Arch.X86_64: ("no_timer_check", "tsc=nowatchdog"), Arch.ARM64: ()}
_CONSOLE = {Arch.X86_64: "ttyS0", Arch.ARM64: "ttyAMA0"}
# `virt` has the second PL011 when a second -serial is given (QEMU 9.1); every Debian arm64 kernel
# has the driver built in.
_CHANNEL = {Arch.X86_64: "ttyS1", Arch.ARM64: "ttyAMA1"}
# x86: TCG's qemu64 loses boots of 6.12 (measured). arm64: without what costs most to emulate and
# no check needs: pointer authentication in QEMU's own algorithm, and wide vector registers, which
# every switch of tasks would have to save.
_EMULATED_CPU = {Arch.X86_64: "max", Arch.ARM64: "max,pauth=off,sve=off,sme=off"}


def cmdline(
    machine: Machine, *, interactive: str | None = None, append: tuple[str, ...] = ()
) -> str:
    """The kernel command line. interactive: the TERM of a shell on the console."""
    role = (
        f"km.channel={_CHANNEL[machine.arch]}" if interactive is None else f"km.shell={interactive}"
    )
    emulated = _EMULATED[machine.arch] if machine.accelerator is Accelerator.TCG else ()
    return " ".join((f"console={_CONSOLE[machine.arch]}", *_CMDLINE, *emulated, role, *append))


def argv(machine: Machine, boot: Boot, *, interactive: str | None = None) -> list[str]:
    """QEMU's arguments, program name left out.

    Nothing is there that a guest does not need: no disk, no network card, no monitor, no display.
    """
    # fmt: off
    words = [
        "-nodefaults", "-no-user-config", "-no-reboot",
        "-name", f"guest={_quoted(name_of(boot.console))}",
        "-display", "none",
        "-accel", machine.accelerator,
        "-cpu", "host" if machine.accelerator is Accelerator.KVM else _EMULATED_CPU[machine.arch],
        *(["-icount", "shift=0,sleep=off"] if machine.counted else []),
        "-smp", str(machine.vcpus),
        "-m", f"{machine.memory_mib}M",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-kernel", str(boot.vmlinuz),
        "-initrd", str(boot.initrd),
        "-append", cmdline(machine, interactive=interactive, append=boot.append),
        "-machine", _board(machine),
    ]
    if interactive is not None:
        words += ["-chardev", f"stdio,id=console,signal=off,logfile={_quoted(boot.console)}"]
    else:
        words += ["-chardev", f"file,id=console,path={_quoted(boot.console)}"]
    words += ["-serial", "chardev:console"]
    if boot.channel is not None:
        words += [
            "-chardev", f"socket,id=channel,path={_quoted(boot.channel)}",
            "-serial", "chardev:channel",
        ]
    # fmt: on
    return words


def name_of(console: Path) -> str:
    """A guest's: its directory's. A container's QEMU has it too, where that has another path."""
    return console.parent.name


def _board(machine: Machine) -> str:
    if machine.arch is Arch.X86_64:
        return "q35"
    # KVM has only the interrupt controller of its host.
    return "virt,gic-version=host" if machine.accelerator is Accelerator.KVM else "virt"


def _quoted(path: Path | str) -> str:
    """QEMU splits option values at commas; a doubled comma is a comma."""
    return str(path).replace(",", ",,")
