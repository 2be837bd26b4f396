# SPDX-License-Identifier: Apache-2.0
"""Guests that are lost in every way we know: the right verdict, in time, and nothing left."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from harness import sitting, vm
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.checks import Context
from harness.progress import Phase
from harness.qemu import Machine
from harness.results import Cause, Cell, CheckResult, Verdict
from harness.supply import KernelFiles
from tests.faults.debugger import DEAD, DEAF, OOPS, SPIN, Debugged
from tests.vm.matrix import (
    AFTERWARDS,
    PATIENCE_S,
    Matrix,
    check_that,
    containers,
    engine,
    qemus,
    until,
    verdicts,
)


def _console_tail(cell: Cell) -> str:
    assert cell.deciding is not None
    return next(e.text for e in cell.deciding.evidence if e.title == "end of the console")


def test_a_kernel_that_panics_at_boot_tells_nothing_of_the_subject(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, backend: str
) -> None:
    """unknown, not fail; known within seconds of the panic, not at the end of the boot's deadline."""
    asked = matrix(
        oldest, newest, backend=backend, checks=(AFTERWARDS,), append=("rdinit=/nonexistent",),
        boot_timeout_s=300.0,
    )  # fmt: skip
    started = time.monotonic()

    run = asked.run()

    assert time.monotonic() - started < 120
    for cell in run.cells:
        found = verdicts(cell.checks)
        assert found["boot"] == ("unknown", "panic")
        assert found["splat"] == ("unknown", "not-reached")
        assert cell.attempts == 1
        assert "Kernel panic - not syncing" in _console_tail(cell)
        console = (asked.report_dir / cell.console).read_text(errors="replace")
        assert "Kernel panic - not syncing" in console


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
        assert 8 < cell.duration_s < 8 + PATIENCE_S
        assert (asked.report_dir / cell.console).is_file()


def test_a_kernel_that_hangs_in_a_container_is_the_same_verdict(
    matrix: Callable[..., Matrix], newest: KernelFiles, backend: str
) -> None:
    (cell,) = matrix(
        newest, backend=backend, checks=(AFTERWARDS,), append=("rdinit=/bin/cat",),
        boot_timeout_s=6.0,
    ).run().cells  # fmt: skip

    assert verdicts(cell.checks)["boot"] == ("unknown", "hang")


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_a_crash_while_a_check_had_the_subject_in_it_fails_within_five_seconds(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles, backend: str,
    which: str,
) -> None:  # fmt: skip
    """Panic → verdict in five seconds: the console decides, not the command's deadline."""
    crashed: list[float] = []

    def crash(context: Context) -> None:
        crashed.append(time.monotonic())
        context.guest.run(
            ["/bin/sh", "-c", "echo c > /proc/sysrq-trigger; sleep 600"], timeout_s=600
        )

    kernel = oldest if which == "oldest" else newest
    asked = matrix(kernel, backend=backend, checks=(check_that("crash", crash), AFTERWARDS))

    (cell,) = asked.run().cells

    found = verdicts(cell.checks)
    assert (found["boot"][0], found["crash"]) == ("pass", ("fail", "panic"))
    assert found["splat"] == ("unknown", "not-reached")
    assert cell.attempts == 1
    assert "sysrq triggered crash" in _console_tail(cell).lower()
    # The kernel takes a second or two itself, from the write to the panic's line.
    assert cell.phases_s["crash"] < 5 + _crash_slack_s()


def _crash_slack_s() -> float:
    """Nothing on an idle machine."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return 10.0 if load > 1.5 else 0.0


def test_a_guest_killed_from_outside_is_unknown_and_tried_once_more(
    matrix: Callable[..., Matrix], newest: KernelFiles, backend: str
) -> None:
    """It says nothing of kernel or subject, whoever killed it."""
    killed: list[str] = []

    def wait(context: Context) -> None:
        killed.append(_kill(asked))
        context.guest.run(["/bin/sleep", "600"], timeout_s=600)

    asked = matrix(newest, backend=backend, checks=(check_that("wait", wait), AFTERWARDS))

    (cell,) = asked.run().cells

    found = verdicts(cell.checks)
    assert found["wait"] == ("unknown", "guest-lost")
    assert found["splat"] == ("unknown", "not-reached")
    assert (len(killed), cell.attempts) == (2, 2)
    assert cell.deciding is not None
    assert "killed by signal 9" in cell.deciding.summary
    assert cell.earlier[0].startswith("guest-lost: ")
    assert cell.phases_s["wait"] < PATIENCE_S


def test_a_guest_killed_once_is_judged_by_its_second_attempt(
    matrix: Callable[..., Matrix], oldest: KernelFiles
) -> None:
    """The report still tells of the first."""
    killed: list[str] = []

    def wait(context: Context) -> None:
        if not killed:
            killed.append(_kill(asked))
            context.guest.run(["/bin/sleep", "600"], timeout_s=600)

    asked = matrix(oldest, checks=(check_that("wait", wait), AFTERWARDS))

    (cell,) = asked.run().cells

    assert (cell.verdict, cell.attempts) == (Verdict.PASS, 2)
    assert "killed by signal 9" in cell.earlier[0]
    second = asked.report_dir / cell.console
    assert second.parent.name == "again"
    assert second.is_file()
    assert (second.parent.parent / "console.log").is_file()  # of the first
    assert "again" in [event.phase for _, event in asked.events if isinstance(event, Phase)]


def _kill(asked: Matrix) -> str:
    """Kill the one guest of this process, as an outsider would."""
    if asked.backend == "local":
        (qemu,) = qemus(asked.cache, os.getpid())
        os.kill(qemu, signal.SIGKILL)
        return str(qemu)
    (identity,) = containers(os.getpid())
    with engine() as client:
        assert client is not None
        client.containers.get(identity).kill()
    return identity


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


def _run_each(
    asked: Matrix, deeds: Mapping[str, Callable[[Context], object]]
) -> dict[str, Cell]:  # fmt: skip
    """Run with a check "deed", another one for each kernel, and one afterwards; cells by kernel."""
    deed = check_that("deed", lambda context: deeds[context.kernel.name](context))
    asked.checks = (deed, AFTERWARDS)
    return {cell.kernel.name: cell for cell in asked.run().cells}


def _shell(script: str, timeout_s: float = 300.0) -> Callable[[Context], object]:
    return lambda context: context.guest.run(["/bin/sh", "-c", script], timeout_s=timeout_s)


def _lost(cell: Cell, verdict: str, cause: str) -> CheckResult:
    """The answer of the check that lost the guest; the others are as they have to be."""
    found = verdicts(cell.checks)
    assert found["boot"] == ("pass", "")
    assert found["deed"] == (verdict, cause), cell.checks
    assert found["splat"] == ("unknown", "not-reached")
    return next(check for check in cell.checks if check.check == "deed")


def _evidence(check: CheckResult, title: str) -> str:
    return next(evidence.text for evidence in check.evidence if evidence.title == title)


_CLOBBER_INIT = r"""
stack=$(awk '{ print $(NF - 1) }' /proc/1/syscall)
dd if=/dev/zero of=/proc/1/mem bs=512 count=1 seek=$((stack)) oflag=seek_bytes conv=notrunc
(sleep 0.1 &)  # init wakes up to wait for it, and returns to nowhere
sleep 600
"""


def test_a_kernel_that_loses_its_init_panics(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """A signal cannot kill init: its stack is overwritten, as a stray pointer would."""
    cells = _run_each(
        matrix(oldest, newest),
        {oldest.name: _shell(_CLOBBER_INIT), newest.name: _shell(_CLOBBER_INIT)},
    )

    for cell in cells.values():
        check = _lost(cell, "fail", "panic")
        assert "Attempted to kill init! exitcode=0x0000000b" in check.summary
        assert "Call Trace" in _evidence(check, "what decided")


_SEND = "nslookup nobody 127.0.0.1; sleep 600"  # a datagram, which the same CPU receives


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
        context.guest.run(["/bin/sh", "-c", script], timeout_s=300)

    return deed


def test_a_kernel_that_oopses_is_not_asked_on(
    matrix: Callable[..., Matrix], debugged: dict[str, Debugged], oldest: KernelFiles,
    newest: KernelFiles,
) -> None:  # fmt: skip
    """oops=panic, and the oops is what the verdict tells of."""
    oops = _patched(debugged, OOPS, _SEND)

    cells = _run_each(matrix(oldest, newest), {oldest.name: oops, newest.name: oops})

    for cell in cells.values():
        check = _lost(cell, "fail", "panic")
        assert "BUG: kernel NULL pointer dereference, address: 0000000000000000" in check.summary
        assert "Kernel panic - not syncing: Fatal exception in interrupt" in check.summary
        assert "udp_rcv" in _console_tail(cell)


def test_a_processor_that_is_lost_to_the_kernel_fails_the_check(
    matrix: Callable[..., Matrix], debugged: dict[str, Debugged], oldest: KernelFiles,
    newest: KernelFiles,
) -> None:  # fmt: skip
    """One that spins is a soft lockup; one that does so with interrupts off stalls RCU."""
    soon = "echo 3 >/proc/sys/kernel/watchdog_thresh"
    soon_too = "echo 12 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
    asked = matrix(oldest, newest)
    cells = _run_each(
        asked,
        {
            newest.name: _patched(debugged, SPIN, _SEND, soon),
            oldest.name: _patched(debugged, DEAF, f"taskset 2 sh -c '{_SEND}'", soon_too),
        },
    )

    spins = _lost(cells[newest.name], "fail", "hang")
    assert "soft lockup - CPU#" in spins.summary
    console = asked.report_dir / cells[newest.name].console
    assert "udp_rcv" in console.read_text(errors="replace")
    stands = _lost(cells[oldest.name], "fail", "hang")
    assert re.search(r"rcu: INFO: rcu_\w+ detected stalls on CPUs/tasks", stands.summary)
    for cell in cells.values():
        assert cell.phases_s["deed"] < 2 * PATIENCE_S


def test_a_guest_that_falls_silent_is_a_hang_that_accuses_nobody(
    matrix: Callable[..., Matrix], debugged: dict[str, Debugged], oldest: KernelFiles,
    newest: KernelFiles,
) -> None:  # fmt: skip
    """Both processors stand still, or the agent alone: 30 s without an answer."""
    both = f"taskset 1 sh -c '{_SEND}' & exec taskset 2 sh -c '{_SEND}'"
    cells = _run_each(
        matrix(oldest, newest),
        {
            newest.name: _patched(debugged, DEAD, both),
            oldest.name: _shell("kill -STOP $(pidof qemu-ga); sleep 600"),
        },
    )

    for cell in cells.values():
        check = _lost(cell, "unknown", "hang")
        assert "did not answer 'guest-exec" in check.summary
        assert "within 30 s" in check.summary
        assert 30 < cell.phases_s["deed"] < 30 + 2 * PATIENCE_S
        assert cell.attempts == 1


_EAT = "tail /dev/zero"  # the last line of endless nothing: all of it
_FILL = """
echo 1 >/proc/sys/vm/oom_dump_tasks
for place in /dev/shm /run /tmp; do dd if=/dev/zero of=$place/all bs=1M & done
wait
dd if=/dev/zero of=/all bs=1M
sleep 600
"""


def test_a_guest_out_of_memory_says_so(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """The kernel kills the eater, and the guest goes on; the agent, or gives up, and it does not."""
    statuses: list[int] = []

    def eat(context: Context) -> None:
        statuses.append(context.guest.run(["/bin/sh", "-c", _EAT], timeout_s=300).status)

    asked = matrix(oldest, newest)
    asked.machine = Machine(memory_mib=384)
    give_up = _shell(f"echo 1 >/proc/sys/vm/panic_on_oom; {_EAT}")
    deeds = {oldest.name: give_up, newest.name: _shell(_FILL)}
    deed = check_that("deed", lambda context: deeds[context.kernel.name](context))
    asked.checks = (check_that("eat", eat), deed, AFTERWARDS)

    cells = {cell.kernel.name: cell for cell in asked.run().cells}

    assert statuses == [128 + signal.SIGKILL] * 2
    for cell in cells.values():
        eaten = next(check for check in cell.checks if check.check == "eat")
        assert eaten.verdict is Verdict.PASS
        assert re.search(
            r"the guest ran out of memory meanwhile: .*Killed process \d+ \(tail\)", eaten.summary
        )
        assert cell.attempts == 1
    assert "panic_on_oom" in _lost(cells[oldest.name], "unknown", "out-of-memory").summary
    assert "(qemu-ga)" in _lost(cells[newest.name], "unknown", "out-of-memory").summary


def test_a_guest_whose_agent_is_killed_is_lost(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """`kill -9 -1` in a subject's script. The other cell does not notice."""
    cells = _run_each(
        matrix(oldest, newest),
        {oldest.name: _shell("kill -9 -1; sleep 600"), newest.name: _shell("true")},
    )

    check = _lost(cells[oldest.name], "unknown", "guest-lost")
    assert "the guest's agent ended and the guest shut down" in check.summary
    assert cells[oldest.name].attempts == 2
    assert (cells[newest.name].verdict, cells[newest.name].attempts) == (Verdict.PASS, 1)


def test_a_guest_that_floods_is_ended_and_what_is_kept_is_bounded(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """100 MB of console, which takes an emulated guest a quarter of an hour; noise for the host."""
    monkeypatch.setattr(vm, "CONSOLE_LIMIT_BYTES", 1 << 20)
    flood = (
        "yes 'flood flood flood flood flood flood flood flood' | head -c 104857600 >/dev/console"
    )
    noise = 'yes \'{"return": {}, "id": "0123456789abcdef"}\' | head -c 104857600 >/dev/ttyS1'

    cells = _run_each(
        matrix(oldest, newest), {newest.name: _shell(flood), oldest.name: _shell(noise)}
    )

    assert "flooded its console: over 1,024 KiB" in (
        _lost(cells[newest.name], "unknown", "guest-lost").summary
    )
    assert "carried over 1,024 KiB that answer no request" in (
        _lost(cells[oldest.name], "unknown", "guest-lost").summary
    )


def _stop(asked: Matrix) -> int:
    """SIGSTOP to the one guest of this process, as soon as there is one; its pid."""
    assert until(lambda: qemus(asked.cache, os.getpid()))
    (qemu,) = qemus(asked.cache, os.getpid())
    os.kill(qemu, signal.SIGSTOP)
    return qemu


def test_a_qemu_that_is_stopped_before_it_boots_ends_at_the_boot_s_deadline(
    matrix: Callable[..., Matrix], newest: KernelFiles
) -> None:
    """Nothing at all on the console; and a process that does not hear SIGTERM ends all the same."""
    asked = matrix(newest, checks=(AFTERWARDS,), boot_timeout_s=5.0)
    stopper = threading.Thread(target=_stop, args=(asked,))
    asked.on_event = lambda event: (
        stopper.start()
        if isinstance(event, Phase) and event.phase == "boot" and not stopper.ident
        else None
    )

    (cell,) = asked.run().cells

    stopper.join(PATIENCE_S)
    (boot, _) = cell.checks
    assert boot.verdict is Verdict.UNKNOWN
    assert boot.cause in (Cause.HANG, Cause.INFRA)  # it may be stopped before it opens the channel
    assert "within the boot's 5 s" in boot.summary


def test_a_qemu_that_is_stopped_after_its_boot_accuses_nobody(
    matrix: Callable[..., Matrix], oldest: KernelFiles, newest: KernelFiles
) -> None:
    """Stopped for good, it is a silent guest. Stopped for a while, it wakes up to a soft lockup."""
    asked = matrix(oldest, newest)
    asked.jobs = 1  # one guest at a time, for `_stop`

    def for_good(context: Context) -> None:
        _stop(asked)
        context.guest.run(["/bin/true"], timeout_s=600)

    def for_a_while(context: Context) -> None:
        _shell("echo 1 >/proc/sys/kernel/watchdog_thresh; sleep 3")(context)
        qemu = _stop(asked)
        time.sleep(7)
        os.kill(qemu, signal.SIGCONT)
        context.guest.run(["/bin/sleep", "600"], timeout_s=600)

    cells = _run_each(asked, {oldest.name: for_a_while, newest.name: for_good})

    assert "within 30 s" in _lost(cells[newest.name], "unknown", "hang").summary
    woken = _lost(cells[oldest.name], "unknown", "infra").summary
    assert re.search(r"this machine let QEMU run for \d\.\d s of .*BUG: soft lockup", woken)
