# SPDX-License-Identifier: Apache-2.0
"""The console decides whether a guest is lost and whether a kernel complained."""

from __future__ import annotations

import time

import pytest

from harness.console import Log, Trouble, find_splats, find_trouble

_PANIC = """\
[    1.203914] VFS: Cannot open root device "(null)" or unknown-block(0,0): error -6
[    1.205211] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    1.206100] CPU: 1 PID: 1 Comm: swapper/0 Not tainted 5.10.0-30-cloud-amd64 #1 Debian 5.10.218-1
[    1.207000] Rebooting in 1 seconds..
"""
_OLD_WARN = """\
[    4.1] ------------[ cut here ]------------
[    4.100000] WARNING: CPU: 0 PID: 83 at kernel/bpf/verifier.c:2230 mark_reg_read+0x1f/0x60
[    4.100001] Modules linked in:
[    4.100002] CPU: 0 PID: 83 Comm: objcheck Not tainted 5.10.0-30-cloud-amd64
[    4.100003] ---[ end trace 0000000000000000 ]---
[    5.000000] eth0: up
"""
_NEW_WARN = """\
[    4.100000][    T83] WARNING: kernel/bpf/verifier.c:2230 at mark_reg_read+0x1f/0x60, CPU#0: objcheck/83
[    4.100003][    T83] ---[ end trace 0000000000000000 ]---
"""


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("[ 1.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0", Trouble.PANIC),
        ("[ 1.2] Kernel panic - not syncing: Fatal exception in interrupt", Trouble.PANIC),
        (
            "[ 9.1] Kernel panic - not syncing: System is deadlocked on memory",
            Trouble.OUT_OF_MEMORY,
        ),
        (
            "[ 9.1] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled",
            Trouble.OUT_OF_MEMORY,
        ),
        (
            "[ 28.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [dnsmon:91]",
            Trouble.SOFT_LOCKUP,
        ),
        ("[ 21.0] rcu: INFO: rcu_sched self-detected stall on CPU", Trouble.RCU_STALL),
        ("[ 21.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Trouble.RCU_STALL),
        (
            "[ 21.0] rcu: INFO: rcu_tasks detected expedited stalls on CPUs/tasks: {",
            Trouble.RCU_STALL,
        ),
    ],
)
def test_a_kernel_that_cannot_go_on_is_recognised(line: str, trouble: Trouble) -> None:
    """The guest ends within seconds with that verdict instead of waiting for a deadline."""
    found = find_trouble(f"[ 0.1] Linux version 6.1\n{line}\n[ 9.9] Call Trace:\n")

    assert found is not None
    assert found.trouble is trouble
    assert found.line in line
    assert "Call Trace" in found.excerpt


def test_the_panic_itself_is_reported_not_what_follows() -> None:
    """The reader wants the reason in one line."""
    found = find_trouble(_PANIC)

    assert found is not None
    assert found.line.startswith("Kernel panic - not syncing: VFS: Unable to mount root fs")


@pytest.mark.parametrize("text", [_OLD_WARN, _NEW_WARN], ids=["until 6.17", "since 6.18"])
def test_a_warning_is_one_splat_in_either_form(text: str) -> None:
    """The format of WARN changed in 6.18; a trace of many lines is still one complaint."""
    splats = find_splats(text)

    assert len(splats) == 1
    assert splats[0].line.startswith("WARNING: ")
    assert find_trouble(text) is None


@pytest.mark.parametrize(
    "line",
    [
        "[ 2.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[ 2.0] Oops: general protection fault, probably for non-canonical address",
        "[ 2.0] UBSAN: array-index-out-of-bounds in net/ipv4/udp.c:1000:12",
        "[ 2.0] BUG: KASAN: slab-out-of-bounds in bpf_prog_run+0x10/0x20",
        "[ 2.0] INFO: task dnsmon:91 blocked for more than 120 seconds.",
        "[ 2.0] kernel BUG at kernel/bpf/core.c:100!",
        "[ 2.0] WARNING: possible circular locking dependency detected",
    ],
)
def test_every_kind_of_complaint_is_a_splat(line: str) -> None:
    """A kernel that complains while ours is loaded fails, whatever else passed."""
    assert [splat.line for splat in find_splats(line)] == [line.partition("] ")[2]]


def test_an_ordinary_boot_is_no_complaint() -> None:
    """What every Debian kernel prints under TCG must not look like trouble."""
    text = """\
[    0.000000] Command line: console=ttyS0 panic=-1 oops=panic softlockup_panic=1
[    0.048000] tsc: Unable to calibrate against PIT
[    0.000000] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on
[    0.822141] mtrr: your CPUs had inconsistent fixed MTRR settings
[    1.318000] rcu: Hierarchical SRCU implementation.
[    4.413602] Unstable clock detected, switching default tracing clock to "global"
[    5.100000] objcheck[83] is installing a program with bpf_probe_write_user helper
"""
    assert find_trouble(text) is None
    assert find_splats(text) == []


_OOPS = """\
[    6.1] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    6.2] #PF: supervisor read access in kernel mode
[    6.3] Oops: 0000 [#1] SMP NOPTI
[    6.4] Call Trace:
[    6.5] Kernel panic - not syncing: Fatal exception
"""


def test_an_oops_s_panic_is_told_with_the_oops() -> None:
    """ "Fatal exception" alone says nothing."""
    found = find_trouble(_OOPS)

    assert found is not None
    assert found.trouble is Trouble.PANIC
    assert found.before == "BUG: kernel NULL pointer dereference, address: 0000000000000000"


_TRAPPED = """\
[    1.696603] {oops}int3: 0000 [#1] SMP NOPTI
[    1.696603] RIP: 0010:enqueue_task_fair+0xa0b/0xcc0
[    1.696603] Code: e8 ab 1f 02 00 e9 77 fa ff ff {byte} <1f> 44 00 00 48 81 bd 18 04 00 00
[    1.696603] Kernel panic - not syncing: Fatal exception in interrupt
"""


@pytest.mark.parametrize("oops", ["Oops: ", ""], ids=["since 6.10", "before"])
@pytest.mark.parametrize(("byte", "stale"), [("0f", True), ("cc", False)])
def test_a_trap_at_a_breakpoint_says_whether_memory_holds_one(
    oops: str, byte: str, stale: bool
) -> None:
    """One that memory does not hold any more was run by an emulator that missed its removal."""
    found = find_trouble(_TRAPPED.format(oops=oops, byte=byte))

    assert found is not None
    assert (found.trouble, found.stale_code) == (Trouble.PANIC, stale)
    assert found.before == f"{oops}int3: 0000 [#1] SMP NOPTI"


def test_other_oopses_are_not_the_emulator_s() -> None:
    text = _TRAPPED.format(oops="Oops: ", byte="0f").replace("int3: 0000", "0002")

    found = find_trouble(text)

    assert found is not None
    assert not found.stale_code


def test_what_memory_killed_is_told_once() -> None:
    """A command that the kernel killed for want of memory: its check says so."""
    log = Log()
    log.feed(b"[ 5.1] Memory cgroup out of memory: Killed process 70 (own) total-vm:1kB\n")
    log.feed(b"[ 5.2] Out of memory: Killed process 91 (tail) total-vm:650000kB, ")
    log.feed(b"anon-rss:640000kB\n")

    assert log.take_killed() == ("Out of memory: Killed process 91 (tail)",)
    assert log.take_killed() == ()
    assert log.trouble is None


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_console_is_the_same_in_pieces_of_any_size(step: int) -> None:
    data = b"x" * 10_000 + _OOPS.encode()
    log = Log()
    for start in range(0, len(data), step):
        log.feed(data[start : start + step])
    log.close()

    assert log.trouble == find_trouble(data.decode())
    assert log.trouble is not None


def test_reading_a_flood_takes_time_in_proportion() -> None:
    """8 MiB in pieces of 4 KiB: not each piece with all that was read before."""

    def seconds(size: int) -> float:
        log = Log()
        line = b"[    4.100000] flood flood flood flood flood flood flood flood flood\n" * 60
        started = time.process_time()
        for _ in range(size // len(line)):
            log.feed(line)
        return time.process_time() - started

    assert seconds(8 << 20) < 12 * seconds(1 << 20) + 0.5
    assert seconds(8 << 20) < 4
