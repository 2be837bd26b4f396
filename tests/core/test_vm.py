# SPDX-License-Identifier: Apache-2.0
"""Waiting for a guest ends as soon as waiting is in vain. A shell script stands in for QEMU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import vm
from harness.errors import HarnessError
from harness.guest import GuestLostError
from harness.place import Local
from harness.qemu import Accelerator, Machine

_PANIC = "[    1.0] Kernel panic - not syncing: Attempted to kill init!"


def _boot(
    run_dir: Path,
    script: str,
    *,
    timeout_s: float = 60.0,
    cancelled: Callable[[], bool] = lambda: False,
    machine: Machine = Machine(),  # noqa: B008  # frozen
) -> GuestLostError:
    """How a guest was lost whose QEMU is `script`, with the console as its first word."""
    where = Local(prefix=("sh", "-c", script, str(run_dir / "console.log")))
    with (
        pytest.raises(GuestLostError) as caught,
        vm.booted(
            machine, vmlinuz=run_dir / "vmlinuz", initrd=run_dir / "initrd", where=where,
            run_dir=run_dir, boot_timeout_s=timeout_s, cancelled=cancelled,
        ),
    ):  # fmt: skip
        pytest.fail("it booted")
    return caught.value


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_PANIC, "panic"),
        ("Kernel panic - not syncing: Out of memory: system-wide panic_on_oom", "out-of-memory"),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s!", "soft-lockup"),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", "rcu-stall"),
    ],
    ids=["panic", "memory", "lockup", "stall"],
)
def test_the_console_decides_while_qemu_still_runs(tmp_path: Path, line: str, reason: str) -> None:
    """Seconds after the line, not at the boot's deadline."""
    started = time.monotonic()

    lost = _boot(tmp_path, f"echo '{line}' >\"$0\"; sleep 600")

    assert lost.reason == reason
    assert time.monotonic() - started < 20


_TRAPPED = (
    "Oops: int3: 0000 [#1] SMP NOPTI",
    "Code: e9 77 fa ff ff 0f <1f> 44 00 00 48 81",
    "Kernel panic - not syncing: Fatal exception in interrupt",
)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(), "infra"),
        (Machine(vcpus=1), "panic"),
        (Machine(counted=True), "panic"),
        (Machine(accelerator=Accelerator.KVM), "panic"),
    ],
    ids=["side by side", "one CPU", "in turn", "real CPUs"],
)
@pytest.mark.parametrize("end", ["sleep 600", "exit 0"])
def test_code_that_memory_does_not_hold_any_more_was_run_by_the_emulator(
    tmp_path: Path, machine: Machine, reason: str, end: str
) -> None:
    """Only where it emulates CPUs side by side: else a trap there is the kernel's own trouble."""
    lines = "\\n".join(_TRAPPED)

    lost = _boot(tmp_path, f"printf '{lines}\\n' >\"$0\"; {end}", machine=machine)

    assert lost.reason == reason
    assert "int3: 0000" in lost.message


def test_a_panic_goes_before_the_end_of_qemu(tmp_path: Path) -> None:
    """With panic=-1 QEMU ends at once: that end is the panic's."""
    lost = _boot(tmp_path, f"echo '{_PANIC}' >\"$0\"; exit 0")

    assert lost.reason == "panic"
    assert "Attempted to kill init!" in lost.message


def test_a_line_written_in_pieces_is_still_read(tmp_path: Path) -> None:
    script = (
        "printf 'Kernel pan' >\"$0\"; sleep 1; printf 'ic - not syncing: x\\n' >>\"$0\"; sleep 600"
    )

    assert _boot(tmp_path, script).reason == "panic"


def test_a_qemu_that_does_not_start_says_why(tmp_path: Path) -> None:
    lost = _boot(tmp_path, "echo 'qemu: no such accelerator' >&2; exit 1")

    assert "status 1: qemu: no such accelerator" in lost.message
    assert lost.reason == "guest-lost"


def test_a_qemu_killed_by_a_signal_says_which(tmp_path: Path) -> None:
    assert "killed by signal 9" in _boot(tmp_path, "kill -KILL $$").message


def test_a_qemu_that_never_opens_the_channel_ends_at_the_deadline(tmp_path: Path) -> None:
    """That is our own trouble, not the kernel's."""
    assert _boot(tmp_path, "exec sleep 600", timeout_s=1.0).reason == "infra"


def test_an_interrupt_is_heard_within_the_wait(tmp_path: Path) -> None:
    started = time.monotonic()

    lost = _boot(tmp_path, "exec sleep 600", cancelled=lambda: time.monotonic() > started + 0.5)

    assert (lost.message, lost.reason) == ("interrupted", "infra")
    assert time.monotonic() - started < 20


def test_a_console_that_floods_ends_the_guest(tmp_path: Path) -> None:
    """100 MB at the host's speed: the watch reads its 8 MiB and ends what writes."""
    started = time.monotonic()

    lost = _boot(tmp_path, 'yes 0123456789 | head -c 100M >"$0"; exec sleep 600')

    assert lost.reason == "console-flood"
    assert "over 8,192 KiB" in lost.message
    assert time.monotonic() - started < 40


def test_a_panic_within_a_flood_is_still_the_panic(tmp_path: Path) -> None:
    """Whatever was written after it, and without a line end before it."""
    script = f"(head -c 300k /dev/zero; echo '{_PANIC}'; head -c 3M /dev/zero) >\"$0\"; sleep 600"

    assert _boot(tmp_path, script).reason == "panic"


def test_what_is_kept_of_a_flooded_console_says_what_is_not(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"begun\n" + bytes(9 << 20) + b"ended\n")

    kept = vm.kept_console(log)

    assert kept.startswith(b"begun\n")
    assert kept.endswith(b"ended\n")
    assert b"5,242,892 bytes of this console are left out here" in kept
    assert len(kept) < (4 << 20) + 100


def test_a_panic_s_trace_is_waited_for(tmp_path: Path) -> None:
    """It is written while we already know: QEMU is not ended in the middle of it."""
    script = f"echo '{_PANIC}' >\"$0\"; sleep 0.2; echo ' panic+0x114/0x2f1' >>\"$0\"; sleep 600"

    lost = _boot(tmp_path, script)

    assert lost.excerpt.splitlines() == [_PANIC, " panic+0x114/0x2f1"]


def test_an_agent_that_was_killed_says_why_the_guest_shut_down(tmp_path: Path) -> None:
    lost = _boot(tmp_path, "echo 'km: guest down (server status 0x9)' >\"$0\"; exit 0")

    assert lost.reason == "guest-lost"
    assert "agent ended" in lost.message


@pytest.mark.parametrize(
    "end",
    [
        "km: guest down (server status 0x9)",
        "[ 9.3] Kernel panic - not syncing: System is deadlocked on memory",  # init wanted some too
    ],
)
def test_an_agent_killed_for_want_of_memory_is_the_memory_s(tmp_path: Path, end: str) -> None:
    script = (
        "(echo '[ 9.1] Out of memory: Killed process 79 (qemu-ga) total-vm:84kB'; "
        "echo '[ 9.2] Out of memory: Killed process 105 (dd) total-vm:3336kB'; "
        f"echo '{end}') >\"$0\"; exit 0"
    )

    lost = _boot(tmp_path, script)

    assert lost.reason == "out-of-memory"
    assert "Killed process 79 (qemu-ga)" in lost.message


def test_a_directory_too_deep_for_a_socket_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    where = Local(prefix=("false",))

    with (
        pytest.raises(HarnessError, match="too long for a Unix socket") as caught,
        vm.booted(Machine(), vmlinuz=deep, initrd=deep, where=where, run_dir=deep),
    ):
        pytest.fail("it booted")

    assert "KERNEL_MATRIX_CACHE" in caught.value.hint
