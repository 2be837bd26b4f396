# SPDX-License-Identifier: Apache-2.0
"""Machine and boot files → QEMU's arguments."""

from __future__ import annotations

from pathlib import Path

from harness import qemu
from harness.qemu import Accelerator, Boot, Machine


def _boot(name: str = "run") -> Boot:
    directory = Path("/x") / name
    return Boot(
        vmlinuz=directory / "vmlinuz", initrd=directory / "initrd",
        console=directory / "console.log", channel=directory / "ga", append=("quiet", "a=b"),
    )  # fmt: skip


def _after(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_the_channel_is_the_second_serial_port() -> None:
    """The first is the console, which is kept whatever the guest says on the other."""
    words = qemu.argv(Machine(), _boot())

    assert _after(words, "-serial") == ["chardev:console", "chardev:channel"]
    assert _after(words, "-chardev")[1] == "socket,id=channel,path=/x/run/ga"


def test_a_guest_has_no_network_and_no_disk() -> None:
    """DNS traffic stays on the guest's loopback."""
    words = qemu.argv(Machine(), _boot())

    assert "-nodefaults" in words
    assert not {"-netdev", "-nic", "-drive", "-hda", "-virtfs"} & set(words)


def test_an_oops_is_a_panic_and_a_panic_ends_qemu() -> None:
    """A kernel that is not sound any more must not go on to give verdicts."""
    line = qemu.cmdline(Machine(), append=("quiet",))

    assert {"panic=-1", "oops=panic", "rdinit=/init"} <= set(line.split())
    assert line.endswith(" quiet")
    assert "-no-reboot" in qemu.argv(Machine(), _boot())


def test_the_cpu_follows_the_accelerator() -> None:
    """qemu64 under TCG loses boots of 6.12."""
    assert _after(qemu.argv(Machine(accelerator=Accelerator.TCG), _boot()), "-cpu") == ["max"]
    assert _after(qemu.argv(Machine(accelerator=Accelerator.KVM), _boot()), "-cpu") == ["host"]


def test_instructions_are_counted_only_when_asked_for() -> None:
    """An idle guest's clock must not run at the pace of its timers where a check waits for time."""
    assert _after(qemu.argv(Machine(counted=True), _boot()), "-icount") == ["shift=0,sleep=off"]
    assert "-icount" not in qemu.argv(Machine(), _boot())


def test_a_comma_in_a_path_stays_in_the_path() -> None:
    """QEMU splits option values at commas; a path must not become an option."""
    words = qemu.argv(Machine(), _boot("a,server=on"))

    assert _after(words, "-chardev")[1] == "socket,id=channel,path=/x/a,,server=on/ga"


def test_a_shell_has_the_terminal_and_no_agent() -> None:
    """`inv shell`: the console is ours, ^C is the guest's."""
    boot = Boot(vmlinuz=Path("k"), initrd=Path("i"), console=Path("log"), channel=None)
    words = qemu.argv(Machine(), boot, interactive="xterm")

    assert _after(words, "-serial") == ["chardev:console"]
    assert _after(words, "-chardev")[0].startswith("stdio,id=console,signal=off")
    assert "km.shell=xterm" in _after(words, "-append")[0].split()
