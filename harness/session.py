# SPDX-License-Identifier: Apache-2.0
"""One command, or a shell, under one kernel. Standard library only: kernel containers run this too.

What differs from a run on this machine: it happens in a throw-away guest, as root, with a person's
directory as a copy in /src; nothing the command changes comes back.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import initramfs, process, qemu, source_tree, vm
from harness.errors import HarnessError
from harness.guest import AgentGuest, GuestLostError
from harness.place import Local, Place
from harness.qemu import Accelerator, Arch, Machine

COMMAND_TIMEOUT_S = 600.0
SOURCE = "src"  # the person's directory is /src in the guest
# The agent captures 16 MiB; what gzip adds to bytes that do not compress has to fit beside them.
OUTPUT_LIMIT_BYTES = (16 << 20) - (64 << 10)
_MEMORY_MIB = Machine().memory_mib
_TRAILER_BYTES = 80  # guestbin/command.c
_TRAILER = re.compile(rb"km-command (\d+) ([01]) (\d+) (\d+) (\d+) *\n")
_OUTSIDE_S = 120.0  # beside the command: packing 16 MiB of noise in an emulated guest takes 10 s
_PROFILE = "PS1='guest# '\ncd {}\n"  # replaces the base archive's
_SERVER_ENDED = re.compile(r"km: guest down \(server status (0x[0-9a-f]+|0)\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """What every boot of one kernel takes."""

    vmlinuz: Path
    base: Path  # the guest's base archive
    arch: Arch = Arch.X86_64


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What to run in the guest."""

    argv: tuple[str, ...]  # bytes that are no UTF-8 as Python's surrogates
    directory: str = "/"  # the guest's
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a command ended. status as a shell gives it: 128 + signal when one killed it."""

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool  # killed at its deadline; what it wrote until then is here
    lost_bytes: int  # written past OUTPUT_LIMIT_BYTES and not kept
    accelerator: Accelerator
    boot_s: float
    duration_s: float  # the command's, with the way of its output


def run_command(
    command: Command,
    files: Files,
    *,
    where: Place,
    run_dir: Path,
    accelerators: Sequence[Accelerator] = (Accelerator.TCG,),
    timeout_s: float = COMMAND_TIMEOUT_S,
    source: Path | None = None,
    source_limit_mib: int = source_tree.LIMIT_MIB,
    on_note: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Boot the kernel and run `command` to its end.

    run_dir: empty, ours for the length of the call; the console stays there. accelerators: tried
    in that order, each by booting; an emulated boot that is lost, once more. source: a directory that
    the guest has as /src. Raises GuestLostError when the guest went away, HarnessError when the guest
    cannot be made.
    """
    initrd = run_dir / "initrd"
    carried_mib = _make_initrd(command, files.base, source, source_limit_mib, initrd)
    with contextlib.ExitStack() as stack:
        machine, booted = _first_that_boots(
            stack, files, initrd, where, run_dir, accelerators,
            memory_mib=_MEMORY_MIB + 2 * carried_mib, on_note=on_note,
        )  # fmt: skip
        on_note(f"{machine.accelerator}: the guest answered after {booted.boot_s:.1f} s")
        return _run(booted.guest, timeout_s, machine.accelerator, booted.boot_s)


def shell(
    files: Files,
    *,
    where: Local,
    run_dir: Path,
    accelerators: Sequence[Accelerator] = (Accelerator.TCG,),
    source: Path | None = None,
    source_limit_mib: int = source_tree.LIMIT_MIB,
    directory: str | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> int:
    """A shell on the guest's console, which is our terminal; the shell's exit status.

    It has no deadline: it ends with `exit`, or with us. directory: where it starts, /src when
    there is a source.
    """
    start = directory or ("/" if source is None else f"/{SOURCE}")
    initrd = run_dir / "initrd"
    carried_mib = _make_initrd(start, files.base, source, source_limit_mib, initrd)
    memory_mib = _MEMORY_MIB + 2 * carried_mib
    accelerator = accelerators[0]
    if len(accelerators) > 1:  # a console cannot tell that nothing came up: ask the agent first
        with contextlib.ExitStack() as stack:
            machine, _ = _first_that_boots(
                stack, files, initrd, where, run_dir, accelerators,
                memory_mib=memory_mib, on_note=on_note,
            )  # fmt: skip
            accelerator = machine.accelerator
    machine = Machine(arch=files.arch, accelerator=accelerator, memory_mib=memory_mib)
    console = run_dir / "shell.log"
    size = shutil.get_terminal_size()
    boot = qemu.Boot(
        vmlinuz=where.kernel_path(files.vmlinuz), initrd=initrd, console=console, channel=None,
        append=(f"COLUMNS={size.columns}", f"LINES={size.lines}"),
    )  # fmt: skip
    words = qemu.argv(machine, boot, interactive=_terminal())
    # In our process group and on our terminal: QEMU makes it raw, so that ^C is the guest's.
    command = where.confined(
        words, run_dir, accelerator=accelerator, memory_mib=memory_mib, writes=console.name
    )
    with process.held(
        command, stdin=0, stdout=1, stderr=2, env=where.environment, group=False
    ) as child:
        status = child.wait()
    return _shell_status(console, status)


def script(command: Command) -> bytes:
    """The shell script that becomes the command, in the guest."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(command.environment.items())
        if _NAME.fullmatch(name)
    ]
    lines += [
        f"cd {shlex.quote(command.directory)} || exit 126",
        f"exec {' '.join(shlex.quote(word) for word in command.argv)}",
    ]
    return "\n".join(lines).encode(errors="surrogateescape") + b"\n"


def parse_answer(answer: bytes) -> tuple[int, bool, bytes, bytes, int]:
    """(status, timed out, stdout, stderr, lost bytes) out of what km-command printed."""
    match = _TRAILER.fullmatch(answer[-_TRAILER_BYTES:])
    if match is None:
        raise GuestLostError(f"the guest's command runner ended without a word: {answer[-200:]!r}")
    status, timed_out, out, err, lost = (int(number) for number in match.groups())
    if out + err + _TRAILER_BYTES != len(answer):
        raise GuestLostError(f"the guest announced {out} + {err} bytes and sent {len(answer)}")
    return status, bool(timed_out), answer[:out], answer[out : out + err], lost


def _make_initrd(
    command: Command | str, base: Path, source: Path | None, limit_mib: int, initrd: Path
) -> int:
    """Write the initrd; how many MiB it carries beside the base archive.

    command: a string is the directory that a shell starts in.
    """
    archives = [base]
    with tempfile.TemporaryDirectory(prefix="carried-", dir=initrd.parent) as name:
        scratch = Path(name)
        empty = scratch / "empty"
        empty.mkdir()
        carried: dict[str, Path] = {f"/{SOURCE}": empty}
        if isinstance(command, str):
            (scratch / "profile").write_text(_PROFILE.format(shlex.quote(command)))
            carried["/etc/profile"] = scratch / "profile"
        else:
            (scratch / "command").write_bytes(script(command))
            (scratch / "stdin").write_bytes(command.stdin)
            carried |= {f"/.kernel-matrix/{n}": scratch / n for n in ("command", "stdin")}
        archives.append(scratch / "carried.cpio")
        initramfs.pack(carried, archives[-1])
        if source is not None:
            archives.append(scratch / "source.cpio")
            source_tree.pack(source, SOURCE, archives[-1], limit_mib=limit_mib)
        initramfs.concatenate(archives, initrd)
        size = sum(archive.stat().st_size for archive in archives[1:])
    return math.ceil(size / (1 << 20))


def _first_that_boots(
    stack: contextlib.ExitStack,
    files: Files,
    initrd: Path,
    where: Place,
    run_dir: Path,
    accelerators: Sequence[Accelerator],
    *,
    memory_mib: int,
    on_note: Callable[[str], None],
) -> tuple[Machine, vm.Vm]:
    tries = [*accelerators, *(a for a in accelerators[-1:] if a is Accelerator.TCG)]
    for position, accelerator in enumerate(tries):
        machine = Machine(arch=files.arch, accelerator=accelerator, memory_mib=memory_mib)
        for name in ("ga", "console.log"):
            (run_dir / name).unlink(missing_ok=True)
        try:
            booted = stack.enter_context(
                vm.booted(
                    machine, vmlinuz=files.vmlinuz, initrd=initrd, where=where, run_dir=run_dir
                )
            )
        except HarnessError as error:
            if position == len(tries) - 1:
                raise
            if accelerator is not Accelerator.TCG:
                on_note(f"{accelerator} does not work here ({error.message})")
            elif isinstance(error, GuestLostError):  # it may be the emulator's doing (`cell`)
                on_note(f"lost at boot, tried once more: {error.message}")
            else:
                raise
        else:
            return machine, booted
    raise HarnessError("no accelerator to boot with")


def _run(
    guest: AgentGuest, timeout_s: float, accelerator: Accelerator, boot_s: float
) -> Outcome:  # fmt: skip
    runner = f"/usr/bin/km-command {round(timeout_s * 1000)} {OUTPUT_LIMIT_BYTES} | gzip -1"
    result = guest.run(["/bin/sh", "-c", runner], timeout_s=timeout_s + _OUTSIDE_S)
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        answer = unpacker.decompress(result.stdout, OUTPUT_LIMIT_BYTES + _TRAILER_BYTES)
    except zlib.error as error:
        raise GuestLostError(f"the command's output came back as no gzip data: {error}") from error
    if not unpacker.eof or result.truncated:
        raise GuestLostError(
            f"the command's output came back cut after {len(answer)} bytes: "
            f"{result.error_text.strip()[-200:] or 'no reason given'}"
        )
    status, timed_out, stdout, stderr, lost = parse_answer(answer)
    return Outcome(
        status=status, stdout=stdout, stderr=stderr, timed_out=timed_out, lost_bytes=lost,
        accelerator=accelerator, boot_s=boot_s, duration_s=result.duration_s,
    )  # fmt: skip


def _terminal() -> str:
    name = os.environ.get("TERM", "")
    return name if re.fullmatch(r"[A-Za-z0-9._+-]{1,40}", name) else "linux"


def _shell_status(console: Path, qemu_status: int) -> int:
    """The guest's init says on the console how the shell ended."""
    try:
        ended = _SERVER_ENDED.findall(console.read_text(errors="replace"))
    except OSError:
        ended = []
    if not ended:
        raise GuestLostError(f"the guest ended without its shell (QEMU: status {qemu_status})")
    code = os.waitstatus_to_exitcode(int(ended[-1], 16))
    return 128 - code if code < 0 else code
