# SPDX-License-Identifier: Apache-2.0
"""Hold a booted guest: start QEMU somewhere, watch its console, hand out the guest's agent."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import console, cputime, qemu
from harness.console import Trouble
from harness.errors import HarnessError
from harness.guest import AgentGuest, GuestLostError
from harness.place import Held, Place
from harness.qemu import Accelerator, Machine

# Many times what the slowest Debian kernel takes on an idle machine (4 s under TCG, 1 s under KVM):
# a machine at load 12 has taken 60 s.
BOOT_TIMEOUT_S = {Accelerator.TCG: 90.0, Accelerator.KVM: 30.0}
_COUNTED_SLOWER = 2.5  # one thread for all CPUs: 14 s where others take 7
# Of a guest's console; the wordiest boot (initcall_debug) writes 1 MiB.
CONSOLE_LIMIT_BYTES = 8 << 20
_KEPT_BEGINNING, _KEPT_END = 1 << 20, 3 << 20  # of a longer one, for the report
_CHUNK_BYTES = 1 << 20
_WATCH_EVERY_S = 0.25
_LAST_WORDS_S = 2.0  # for a panic's trace: with panic=-1 QEMU ends after it
_QUIET_S = 0.5
# A processor that the kernel gave up spins. A QEMU that hardly ran (stopped, or on a machine that
# has too much to do) makes a kernel complain in the same words.
_SPINS_AT_LEAST = 0.1  # of one processor
_STALL_S = 10.0  # an RCU stall is told after 21 s
_STUCK = re.compile(r"stuck for (\d+)s")
_SOCKET_PATH_LIMIT = 100  # sun_path is 108 bytes with its NUL (unix(7))


@dataclass(frozen=True, kw_only=True, slots=True)
class Vm:
    """A guest that answers, and what is known of its boot."""

    guest: AgentGuest
    boot_s: float  # from QEMU's start to the first answered request
    held: Held
    console: Path
    take_killed: Callable[[], tuple[str, ...]]  # for want of memory since the last take


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
    GuestLostError when the guest does not come up within `boot_timeout_s`; always when its console
    has a kernel that gave up, or over CONSOLE_LIMIT_BYTES; and as soon as `cancelled` says
    that nobody wants to know any more.
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
        watch = _Watch(held, log, CONSOLE_LIMIT_BYTES, cancelled, side_by_side=machine.side_by_side)
        stream = stack.enter_context(_accepted(listener, watch, started, limit_s))
        guest = AgentGuest(stream, watch)
        guest.wait_ready(limit_s, since=started)
        yield Vm(
            guest=guest, boot_s=time.monotonic() - started, held=held, console=log,
            take_killed=watch.take_killed,
        )  # fmt: skip


def kept_console(log: Path) -> bytes:
    """A console as it is kept: of one that was flooded its beginning and its end."""
    size = log.stat().st_size
    with log.open("rb") as file:
        if size <= _KEPT_BEGINNING + _KEPT_END:
            return file.read(_KEPT_BEGINNING + _KEPT_END)
        beginning = file.read(_KEPT_BEGINNING)
        file.seek(size - _KEPT_END)
        return console.shortened(
            beginning, file.read(_KEPT_END), size - _KEPT_BEGINNING - _KEPT_END
        )


class _Watch:
    """Raises GuestLostError as soon as waiting for the guest makes no sense any more."""

    def __init__(
        self,
        held: Held,
        path: Path,
        limit_bytes: int,
        cancelled: Callable[[], bool],
        *,
        side_by_side: bool,
    ) -> None:
        self._held = held
        self._path = path
        self._limit = limit_bytes
        self._cancelled = cancelled
        self._side_by_side = side_by_side
        self._log = console.Log()
        self._share = cputime.Share(f"guest={qemu.name_of(path)}")
        self._seen = 0
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _WATCH_EVERY_S
        self._raise_if_cancelled()
        self._share.sample(now)
        ending = self._held.ended()  # before the console is read: nothing follows its end
        self._read_console()
        if self._log.trouble is not None:
            starved = _starved(self._log.trouble, self._share)
            self._wait_for_last_words()
            raise starved or self._told(self._log.trouble)
        if self._seen > self._limit:
            raise GuestLostError(
                f"the guest flooded its console: over {self._limit >> 10:,} KiB",
                reason="console-flood",
                hint="the console log has the beginning and the end of it",
            )
        if ending is not None:
            self._log.close()
            if self._log.trouble is not None:
                raise self._told(self._log.trouble)
            raise GuestLostError(ending, hint="the console log has the guest's last words")

    def _told(self, found: console.Finding) -> GuestLostError:
        return _emulators(found) if found.stale_code and self._side_by_side else _given_up(found)

    def take_killed(self) -> tuple[str, ...]:
        """What the guest's kernel killed for want of memory since the last take."""
        self._read_console()
        return self._log.take_killed()

    def _wait_for_last_words(self) -> None:
        """A trace follows the line that decides: until QEMU ends, or the console is quiet."""
        now = time.monotonic()
        end, quiet = now + _LAST_WORDS_S, now + _QUIET_S
        while time.monotonic() < min(end, quiet):
            self._raise_if_cancelled()
            if self._held.ended() is not None:
                break
            select.select([], [], [], 0.05)
            before = self._seen
            self._read_console()
            if self._seen > before:
                quiet = time.monotonic() + _QUIET_S
        self._read_console()
        self._log.close()

    def _raise_if_cancelled(self) -> None:
        if self._cancelled():
            raise GuestLostError("interrupted", reason="infra")

    def _read_console(self) -> None:
        """What is new, up to the limit: QEMU may write faster than anybody reads."""
        with self._path.open("rb") as file:
            file.seek(self._seen)
            while self._seen <= self._limit:
                new = file.read(_CHUNK_BYTES)
                if not new:
                    return
                self._seen += len(new)
                self._log.feed(new)


def _starved(found: console.Finding, share: cputime.Share) -> GuestLostError | None:
    """Why a kernel's complaint is not believed, None when it is."""
    if found.trouble not in (Trouble.SOFT_LOCKUP, Trouble.RCU_STALL):
        return None
    stuck = _STUCK.search(found.line)
    seconds = min(max(float(stuck[1]), 2.0), 20.0) if stuck else _STALL_S
    got = share.lately(seconds)
    if got is None or got >= _SPINS_AT_LEAST:
        return None
    return GuestLostError(
        f"this machine let QEMU run for {got * seconds:.1f} s of {seconds:g} s, so this says "
        f"nothing of the kernel: {found.line}",
        reason="infra", excerpt=found.excerpt,
        hint="did something stop QEMU? Run fewer guests at once (--jobs)",
    )  # fmt: skip


def _emulators(found: console.Finding) -> GuestLostError:
    """QEMU discards the translation of code that is written, and writes then (QEMU 10, cputlb.c,
    notdirty_write): a CPU that translates in between goes on with what was there before. So one may
    trap at a breakpoint through which the kernel patched its text, long after all were told of it.
    """
    return GuestLostError(
        "an emulated CPU ran code that the guest's memory does not hold any more, so this says "
        f"nothing of the kernel: {found.before}",
        reason="infra", excerpt=found.excerpt,
        hint="a fault of QEMU's, rare: ask again, or where KVM works",
    )  # fmt: skip


def _given_up(found: console.Finding) -> GuestLostError:
    """How a guest was lost, in its kernel's words or its init's."""
    if found.trouble is Trouble.AGENT_ENDED:
        message = f"the guest's agent ended and the guest shut down: {found.line}"
    elif found.before.startswith("Out of memory"):
        message = f"the guest ran out of memory and lost its agent: {found.before}"
    elif found.before:
        message = f"the kernel gave up: {found.before}; then: {found.line}"
    else:
        message = f"the kernel gave up: {found.line}"
    hint = "the console log has the trace"
    if found.trouble is Trouble.OUT_OF_MEMORY:
        hint = "the console log says who had the memory"
    return GuestLostError(
        message, reason=found.trouble or "guest-lost", hint=hint, excerpt=found.excerpt
    )


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
def _accepted(
    listener: socket.socket, watch: _Watch, started: float, limit_s: float
) -> Iterator[socket.socket]:
    while True:
        watch()
        if time.monotonic() > started + limit_s:
            raise GuestLostError(
                f"QEMU did not open the guest's channel within the boot's {limit_s:g} s",
                reason="infra",
            )
        if select.select([listener], [], [], 0.1)[0]:
            break
    stream, _ = listener.accept()
    with stream:
        yield stream
