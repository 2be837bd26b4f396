# SPDX-License-Identifier: Apache-2.0
"""Guests that are lost in every way we know: the right verdict, in time, and nothing left."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping

import pytest

from harness import sitting, vm
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.checks import Context
from harness.progress import Note
from harness.qemu import Machine
from harness.results import Cause, Verdict
from harness.supply import KernelFiles
from tests.faults.cells import (
    console_tail,
    evidence,
    kept_console,
    lost,
    run_each,
    shell,
    unharmed,
)
from tests.faults.debugger import DEAD, DEAF, OOPS, SPIN, Debugged
from tests.vm.matrix import (
    AFTERWARDS,
    PATIENCE_S,
    Matrix,
    check_that,
    until,
    verdicts,
)


def test_a_kernel_that_panics_at_boot_tells_nothing_of_the_subject(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, backend: str
) -> None:
    """unknown, not fail; known within seconds of the panic, not at the end of the boot's deadline."""
    asked = matrix(
        oldest, newest, backend=backend, checks=(AFTERWARDS,), append=("rdinit=/nonexistent",),
        boot_timeout_s=120.0,
    )  # fmt: skip
    asked.machine = Machine(vcpus=1)  # a second emulated CPU once stood still as it was brought up
    started = time.monotonic()

    run = asked.run()

    assert time.monotonic() - started < 120
    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["boot"] == ("unknown", "panic")
        assert found["splat"] == ("unknown", "not-reached")
        assert cell.attempts == _tries(asked)
        assert "Kernel panic - not syncing" in console_tail(cell)
        assert "Kernel panic - not syncing" in kept_console(asked, cell)


def _tries(asked: Matrix) -> int:
    """Of a boot that comes to nothing: an emulated one may be the emulator's doing."""
    notes = [event.text for _, event in asked.events if isinstance(event, Note)]
    return 2 if any(text.startswith("accelerator: tcg ") for text in notes) else 1


def test_a_kernel_that_hangs_silently_ends_at_the_boot_s_deadline(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    asked = matrix(
        oldest, newest, checks=(AFTERWARDS,), append=("rdinit=/bin/cat",), boot_timeout_s=8.0
    )

    run = asked.run()

    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["boot"] == ("unknown", "hang")
        assert found["splat"] == ("unknown", "not-reached")
        assert cell.attempts == _tries(asked)
        assert 8 * cell.attempts < cell.duration_s < 8 * cell.attempts + PATIENCE_S
        assert (asked.report_dir / cell.console).is_file()


@pytest.mark.parametrize("backend", ["docker"], indirect=True)
def test_a_kernel_that_hangs_in_a_container_is_the_same_verdict(
    matrix: Callable[..., Matrix], newest: KernelFiles, backend: str
) -> None:
    asked = matrix(
        newest, backend=backend, checks=(AFTERWARDS,), append=("rdinit=/bin/cat",),
        boot_timeout_s=6.0,
    )  # fmt: skip

    (cell,) = asked.run().cells

    assert verdicts(cell.checks)["boot"] == ("unknown", "hang")
    assert cell.attempts == _tries(asked)
    assert 6 * cell.attempts < cell.duration_s < 6 * cell.attempts + PATIENCE_S
    assert (asked.report_dir / cell.console).is_file()


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_a_crash_while_a_check_had_the_subject_in_it_fails_within_five_seconds(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, backend: str,
    which: str,
) -> None:  # fmt: skip
    """Panic → verdict in five seconds: the console decides, not the command's deadline."""
    crashed: list[float] = []

    def crash(context: Context) -> None:
        crashed.append(time.monotonic())
        context.guest.run(["/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"], timeout_s=60)

    kernel = oldest if which == "oldest" else newest
    asked = matrix(kernel, backend=backend, checks=(check_that("crash", crash), AFTERWARDS))

    (cell,) = asked.run().cells

    found = verdicts(cell.checks)
    assert (found["boot"][0], found["crash"]) == ("pass", ("fail", "panic"))
    assert found["splat"] == ("unknown", "not-reached")
    assert cell.attempts == 1
    assert cell.deciding is not None
    assert "sysrq triggered crash" in cell.deciding.summary
    assert "sysrq triggered crash" in kept_console(asked, cell)
    # The kernel takes a second or two itself, from the write to the panic's line.
    assert cell.phases_s["crash"] < 5 + _crash_slack_s()


def _crash_slack_s() -> float:
    """Nothing on a machine that has nothing else to do."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return 10.0 if load > 0.5 else 0.0


def test_a_guest_that_survives_its_commands_is_asked_on(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """What a command does wrong costs its own check only; the next ones are asked in that guest."""
    listings: list[str] = []
    dates: list[str] = []

    def endless(context: Context) -> None:
        context.guest.run(["/bin/sh", "-c", "sleep 601 & sleep 602"], timeout_s=2)

    def look(context: Context) -> None:
        ended = "! ps | grep -q '[s]leep 60'"
        until(lambda: context.guest.run(["/bin/sh", "-c", ended], timeout_s=20).status == 0)
        listings.append(context.guest.run(["/bin/ps"], timeout_s=20).text)

    def flood(context: Context) -> None:
        """Without an end, into the agent's capture: 16 MiB of it would take minutes to come out."""
        context.guest.run(["/bin/yes", "flood"], timeout_s=2)

    def clock(context: Context) -> None:
        """Years ahead, years back, while a command runs: every deadline is the host's."""
        for date in ("2035-01-01 00:00", "1980-01-01 00:00"):
            script = f"date -s '{date}'; sleep 1; date +%Y"
            dates.append(
                context.guest.run(["/bin/sh", "-c", script], timeout_s=60).text.split()[-1]
            )

    checks = {"endless": endless, "look": look, "flood": flood, "clock": clock}
    run = matrix(
        oldest, newest, checks=tuple(check_that(name, does) for name, does in checks.items())
    ).run()

    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["endless"] == found["flood"] == ("unknown", str(Cause.TIMEOUT))
        assert found["look"] == found["clock"] == ("pass", "")
        assert cell.attempts == 1
        assert cell.phases_s["clock"] < PATIENCE_S
        said = {check.check: check.summary for check in cell.checks}
        assert "did not end within 2 s in the guest" in said["endless"]
    assert len(listings) == 2
    assert "sleep 60" not in "".join(listings)
    assert dates == ["2035", "1980"] * 2


_CLOBBER_INIT = r"""
stack=$(awk '{ print $(NF - 1) }' /proc/1/syscall)
dd if=/dev/zero of=/proc/1/mem bs=512 count=1 seek=$((stack)) oflag=seek_bytes conv=notrunc
(sleep 0.1 &)  # init wakes up to wait for it, and returns to nowhere
sleep 120
"""


@pytest.fixture(scope="session")
def neighbour(kernel: Callable[[str], KernelFiles]) -> KernelFiles:
    """A kernel whose guest runs beside those that are lost."""
    return kernel("6.1-newest")


def test_a_kernel_that_loses_its_init_panics(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, neighbour: KernelFiles
) -> None:
    """A signal cannot kill init: its stack is overwritten, as a stray pointer would."""
    asked = matrix(oldest, newest, neighbour)
    asked.jobs = 3

    cells = run_each(
        asked,
        {
            oldest.name: shell(_CLOBBER_INIT),
            newest.name: shell(_CLOBBER_INIT),
            neighbour.name: shell("sleep 3"),  # while they panic
        },
    )

    unharmed(asked, cells.pop(neighbour.name))
    for cell in cells.values():
        check = lost(asked, cell, "fail", "panic")
        assert "Attempted to kill init! exitcode=0x0000000b" in check.summary
        assert "Call Trace" in evidence(check, "what decided")


_SEND = "nslookup nobody 127.0.0.1; sleep 120"  # a datagram, which the same CPU receives


@pytest.fixture
def debugged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Debugged]:
    """Every guest gets a debugger; by kernel."""
    places: dict[str, Debugged] = {}
    place_of = sitting.place_of

    def with_debugger(
        backend: str, files: KernelFiles, root: BaseRoot, cache: Cache, say: Callable[[str], None]
    ) -> Debugged:
        places[files.name] = Debugged(place_of(backend, files, root, cache, say))
        return places[files.name]

    monkeypatch.setattr(sitting, "place_of", with_debugger)
    return places


def _patched(
    places: Mapping[str, Debugged], code: bytes, script: str, prepare: str = "true"
) -> Callable[[Context], object]:
    """Let the kernel's udp_rcv begin with that code, then run a script that sends a datagram."""

    def deed(context: Context) -> None:
        find = f"{prepare}; awk '$3 == \"udp_rcv\" {{ print $1; exit }}' /proc/kallsyms"
        found = context.guest.run(["/bin/sh", "-c", find], timeout_s=120)
        stub = places[context.kernel.name].stub
        assert stub is not None
        stub.patch(int(found.text, 16), code)
        context.guest.run(["/bin/sh", "-c", script], timeout_s=120)

    return deed


def test_a_kernel_that_oopses_is_not_asked_on(
    matrix: Callable[..., Matrix], debugged: dict[str, Debugged], oldest: KernelFiles,
    newest: KernelFiles,
) -> None:  # fmt: skip
    """oops=panic, and the oops is what the verdict tells of."""
    oops = _patched(debugged, OOPS, _SEND)

    asked = matrix(oldest, newest)

    cells = run_each(asked, {oldest.name: oops, newest.name: oops})

    for cell in cells.values():
        check = lost(asked, cell, "fail", "panic")
        assert "BUG: kernel NULL pointer dereference, address: 0000000000000000" in check.summary
        assert "Kernel panic - not syncing: Fatal exception in interrupt" in check.summary
        assert "udp_rcv" in console_tail(cell)


def test_a_processor_that_is_lost_to_the_kernel_fails_the_check(
    matrix: Callable[..., Matrix], debugged: dict[str, Debugged], oldest: KernelFiles,
    newest: KernelFiles,
) -> None:  # fmt: skip
    """One that spins is a soft lockup; one that does so with interrupts off stalls RCU."""
    soon = "echo 3 >/proc/sys/kernel/watchdog_thresh"
    soon_too = "echo 12 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
    asked = matrix(oldest, newest)
    cells = run_each(
        asked,
        {
            newest.name: _patched(debugged, SPIN, _SEND, soon),
            oldest.name: _patched(debugged, DEAF, f"taskset 2 sh -c '{_SEND}'", soon_too),
        },
    )

    spins = lost(asked, cells[newest.name], "fail", "hang")
    assert "soft lockup - CPU#" in spins.summary
    assert "udp_rcv" in kept_console(asked, cells[newest.name])
    stands = lost(asked, cells[oldest.name], "fail", "hang")
    assert re.search(r"rcu: INFO: rcu_\w+ detected stalls on CPUs/tasks", stands.summary)


def test_a_guest_that_falls_silent_is_a_hang_that_accuses_nobody(
    matrix: Callable[..., Matrix], debugged: dict[str, Debugged], oldest: KernelFiles,
    newest: KernelFiles,
) -> None:  # fmt: skip
    """Both processors stand still, or the agent alone: 30 s without an answer."""
    both = f"taskset 1 sh -c '{_SEND}' & exec taskset 2 sh -c '{_SEND}'"
    asked = matrix(oldest, newest)

    cells = run_each(
        asked,
        {
            newest.name: _patched(debugged, DEAD, both),
            oldest.name: shell("kill -STOP $(pidof qemu-ga); sleep 120"),
        },
    )

    for cell in cells.values():
        check = lost(asked, cell, "unknown", "hang", within_s=30 + 2 * PATIENCE_S)
        assert "did not answer 'guest-exec" in check.summary
        assert "within 30 s" in check.summary
        assert cell.phases_s["deed"] > 30
        assert cell.attempts == 1


_EAT = "tail /dev/zero"  # the last line of endless nothing: all of it
_FILL = """
echo 1 >/proc/sys/vm/oom_dump_tasks
for place in /dev/shm /run /tmp; do dd if=/dev/zero of=$place/all bs=1M & done
wait
dd if=/dev/zero of=/all bs=1M
sleep 120
"""


def test_a_guest_out_of_memory_says_so(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, neighbour: KernelFiles
) -> None:
    """The kernel kills the eater, and the guest goes on; the agent, or gives up, and it does not."""
    statuses: list[int] = []

    def eat(context: Context) -> None:
        if context.kernel.name != neighbour.name:
            statuses.append(context.guest.run(["/bin/sh", "-c", _EAT], timeout_s=120).status)

    asked = matrix(oldest, newest, neighbour)
    asked.jobs = 3
    asked.machine = Machine(memory_mib=384)
    give_up = shell(f"echo 1 >/proc/sys/vm/panic_on_oom; {_EAT}")
    deeds = {
        oldest.name: give_up,
        newest.name: shell(_FILL),
        neighbour.name: shell("sleep 3"),  # while they fill up
    }
    deed = check_that("deed", lambda context: deeds[context.kernel.name](context))
    asked.checks = (check_that("eat", eat), deed, AFTERWARDS)

    cells = {cell.kernel.name: cell for cell in asked.run().cells}

    assert statuses == [128 + signal.SIGKILL] * 2
    unharmed(asked, cells.pop(neighbour.name))
    for cell in cells.values():
        eaten = next(check for check in cell.checks if check.check == "eat")
        assert eaten.verdict is Verdict.PASS
        assert re.search(
            r"the guest ran out of memory meanwhile: .*Killed process \d+ \(tail\)", eaten.summary
        )
        assert cell.attempts == 1
    assert "panic_on_oom" in lost(asked, cells[oldest.name], "unknown", "out-of-memory").summary
    assert "(qemu-ga)" in lost(asked, cells[newest.name], "unknown", "out-of-memory").summary


def test_a_guest_whose_agent_is_killed_is_lost(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """`kill -9 -1` in a subject's script. The other cell does not notice."""
    asked = matrix(oldest, newest)

    cells = run_each(
        asked, {oldest.name: shell("kill -9 -1; sleep 120"), newest.name: shell("true")}
    )

    check = lost(asked, cells[oldest.name], "unknown", "guest-lost")
    assert "the guest's agent ended and the guest shut down" in check.summary
    assert cells[oldest.name].attempts == 2
    unharmed(asked, cells[newest.name])


_COMPLAIN = r"""
echo on >/proc/sys/kernel/printk_devkmsg  # no limit to their rate
while :; do
	echo '<4>WARNING: CPU: 0 PID: 83 at kernel/bpf/verifier.c:2230 mark_reg_read+0x1f/0x60'
done >/dev/kmsg
"""


def test_a_guest_that_floods_its_console_is_ended_and_what_is_kept_is_bounded(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """100 MB, for which an emulated guest takes a quarter of an hour: with a lower limit here.

    A flood of complaints is the kernel's doing. (These are a recorded one, through the kernel's log.)
    """
    monkeypatch.setattr(vm, "CONSOLE_LIMIT_BYTES", 1 << 20)
    monkeypatch.setattr(vm, "_KEPT_BEGINNING", 1 << 18)
    monkeypatch.setattr(vm, "_KEPT_END", 1 << 18)
    flood = "yes 'flood flood flood flood flood flood flood' | head -c 104857600 >/dev/console"
    asked = matrix(oldest, newest)

    cells = run_each(asked, {oldest.name: shell(flood), newest.name: shell(_COMPLAIN)})

    plain = lost(asked, cells[oldest.name], "unknown", "guest-lost", within_s=4 * PATIENCE_S)
    assert "flooded its console: over 1,024 KiB" in plain.summary
    assert cells[oldest.name].attempts == 2
    complaints = lost(asked, cells[newest.name], "fail", "kernel-splat", within_s=4 * PATIENCE_S)
    assert "which began with: WARNING: CPU: 0 PID: 83 at kernel/bpf" in complaints.summary
    for cell in cells.values():
        kept = (asked.report_dir / cell.console).read_bytes()
        assert len(kept) < (1 << 19) + 200
        assert b"bytes of this console are left out here" in kept
