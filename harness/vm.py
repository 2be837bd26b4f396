# SPDX-License-Identifier: Apache-2.0
"""Hold a booted guest: start QEMU somewhere, watch its console, hand out the guest's agent."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import console, qemu
from harness.errors import HarnessError
from harness.guest import AgentGuest, GuestLostError
from harness.place import Held, Place
from harness.qemu import Accelerator, Machine

# Many times what the slowest Debian kernel takes on an idle machine (4 s under TCG, 1 s under KVM):
# a machine at load 12 has taken 60 s.
BOOT_TIMEOUT_S = {Accelerator.TCG: 90.0, Accelerator.KVM: 30.0}
_COUNTED_SLOWER = 2.5  # one thread for all CPUs: 14 s where others take 7
_CONSOLE_LIMIT = 64 << 20
_SOCKET_PATH_LIMIT = 100  # sun_path is 108 bytes with its NUL (unix(7))


@dataclass(frozen=True, kw_only=True, slots=True)
class Vm:
    """A guest that answers, and what is known of its boot."""

    guest: AgentGuest
    boot_s: float  # from QEMU's start to the first answered request
    held: Held
    console: Path


@contextlib.contextmanager
def booted(
    machine: Machine,
    *,
    vmlinuz: Path,
    initrd: Path,
    where: Place,
    run_dir: Path,
    append: tuple[str, ...] = (),
    boot_timeout_s: float | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Vm]:
    """Boot a kernel and yield the guest once it answers; QEMU is gone when the block ends.

    initrd lies in `run_dir`; the console is written to `run_dir/console.log`. Raises
    GuestLostError when the guest does not come up within `boot_timeout_s`, and from then on as
    soon as `cancelled` says that nobody wants to know any more.
    """
    limit_s = BOOT_TIMEOUT_S[machine.accelerator] if boot_timeout_s is None else boot_timeout_s
    limit_s *= _COUNTED_SLOWER if machine.counted else 1
    log = run_dir / "console.log"
    log.touch()
    with contextlib.ExitStack() as stack:
        channel = run_dir / "ga"
        listener = stack.enter_context(_listening(channel))
        boot = qemu.Boot(
            vmlinuz=where.kernel_path(vmlinuz), initrd=initrd, console=log,
            channel=channel, append=append,
        )  # fmt: skip
        started = time.monotonic()
        held = stack.enter_context(
            where.hold(
                qemu.argv(machine, boot), run_dir,
                accelerator=machine.accelerator, memory_mib=machine.memory_mib,
            )
        )  # fmt: skip
        watch = _Watch(held, log, cancelled)
        stream = stack.enter_context(_accepted(listener, watch, started + limit_s))
        guest = AgentGuest(stream, watch)
        guest.wait_ready(started + limit_s - time.monotonic())
        yield Vm(guest=guest, boot_s=time.monotonic() - started, held=held, console=log)


class _Watch:
    """Raises GuestLostError as soon as waiting for the guest makes no sense any more."""

    def __init__(self, held: Held, log: Path, cancelled: Callable[[], bool]) -> None:
        self._held = held
        self._log = log
        self._cancelled = cancelled
        self._seen = 0
        self._text = ""
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.25
        if self._cancelled():
            raise GuestLostError("interrupted", reason="infra")
        ending = self._held.ended()
        self._read_console()
        trouble = console.find_trouble(self._text)
        if trouble is not None and trouble.trouble is not None:
            raise GuestLostError(
                f"the kernel gave up: {trouble.line}",
                reason=trouble.trouble, hint="the console log has the trace",
            )  # fmt: skip
        if ending is not None:
            raise GuestLostError(ending, hint="the console log has the guest's last words")
        if self._seen > _CONSOLE_LIMIT:
            raise GuestLostError(
                f"the guest wrote over {_CONSOLE_LIMIT >> 20} MiB to its console",
                reason="console-flood",
            )

    def _read_console(self) -> None:
        """Keep the console's last 64 KiB: a kernel that panics says little afterwards."""
        with self._log.open("rb") as file:
            file.seek(self._seen)
            new = file.read()
        self._seen += len(new)
        if new:
            self._text = (self._text + new.decode(errors="replace"))[-65536:]


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    if len(str(path)) > _SOCKET_PATH_LIMIT:
        raise HarnessError(
            f"'{path}' is too long for a Unix socket",
            hint="name a shorter cache directory in KERNEL_MATRIX_CACHE",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _accepted(listener: socket.socket, watch: _Watch, deadline: float) -> Iterator[socket.socket]:
    while True:
        watch()
        if time.monotonic() > deadline:
            raise GuestLostError("QEMU did not open the guest's channel", reason="infra")
        if select.select([listener], [], [], 0.1)[0]:
            break
    stream, _ = listener.accept()
    with stream:
        yield stream
