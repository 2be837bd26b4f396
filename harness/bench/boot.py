# SPDX-License-Identifier: Apache-2.0
"""How fast a guest of ours answers its first command, against a bare QEMU and virtme-ng.

Same kernel, QEMU, accelerator, CPUs and memory; rounds are interleaved, so that whatever else the
machine does meets every contender alike; medians and their ratios count, absolute times do not.
"""

from __future__ import annotations

import os
import select
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tabulate import tabulate

from harness import baseroot, initramfs, qemu, rundir, vm
from harness.baseroot import BaseRoot
from harness.bench import virtme
from harness.cache import Cache
from harness.errors import HarnessError
from harness.place import Local
from harness.qemu import Accelerator, Machine
from harness.results import Verdict
from harness.supply import KernelFiles, Lock
from harness.supply.lock import Role

GOAL_BARE = 1.3  # ours takes at most this many times a bare QEMU's time
GOAL_VIRTME = 0.5  # and this share of virtme-ng's
_READY = b"READY"
_TIMEOUT_S = {Accelerator.TCG: 180.0, Accelerator.KVM: 40.0}
# What a guest cannot do without: a console is open already, so one line says that it is up.
_BARE_INIT = "#!/bin/busybox sh\necho READY\nexec /bin/busybox poweroff -f\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to boot the kernel, and how long it took."""

    name: str
    what: str  # from what to what was measured
    goal: float | None = None  # our median / this one's must not be above; None: it is ours
    samples_s: tuple[float, ...] = ()
    unknown: str = ""  # why it could not be measured

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class BootBench:
    """What was measured, ours first."""

    kernel: str  # release
    qemu: str  # version line
    machine: Machine
    contenders: tuple[Contender, ...]

    @property
    def verdict(self) -> Verdict:
        """FAIL when a goal is missed, UNKNOWN when one could not be asked."""
        verdicts = {self.judge(rival) for rival in self.contenders[1:]}
        for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            if verdict in verdicts:
                return verdict
        return Verdict.PASS

    def ratio(self, rival: Contender) -> float | None:
        """Our median over the rival's; None when either is unknown."""
        ours = self.contenders[0]
        if not ours.samples_s or not rival.samples_s:
            return None
        return ours.median_s / rival.median_s

    def judge(self, rival: Contender) -> Verdict:
        ratio = self.ratio(rival)
        if ratio is None or rival.goal is None:
            return Verdict.UNKNOWN
        return Verdict.PASS if ratio <= rival.goal else Verdict.FAIL


def measure(
    kernel: KernelFiles,
    package: Path | None,
    cache: Cache,
    machine: Machine,
    *,
    rounds: int,
    on_progress: Callable[[str], None],
) -> BootBench:
    """Boot every contender `rounds` times in turn, after one round that does not count.

    package: the kernel's .deb with its modules (virtme-ng needs them), None when there is none.
    """
    base = baseroot.obtain(cache, on_progress)
    archive = baseroot.guest_archive(base, cache, on_progress, full=False)
    bare = _bare_archive(base, cache)
    limit_s = _TIMEOUT_S[machine.accelerator]
    boots: dict[str, Callable[[Path], float]] = {
        "ours": lambda scratch: _boot_ours(kernel, archive, base, machine, scratch),
        "bare QEMU": lambda scratch: _boot_bare(kernel, bare, base, machine, scratch, limit_s),
    }
    contenders = {
        "ours": Contender(
            name="ours",
            what="start → first guest command answered (guest without traffic programs)",
        ),
        "bare QEMU": Contender(
            name="bare QEMU", what="start → a line on its console (busybox alone)", goal=GOAL_BARE
        ),
        "virtme-ng": Contender(
            name="virtme-ng", what="start → first command's output", goal=GOAL_VIRTME
        ),
    }
    try:
        if package is None:
            raise HarnessError("this kernel's modules are not at hand")
        ready = virtme.prepare(package, base, cache, on_progress)
    except HarnessError as error:
        contenders["virtme-ng"] = replace(contenders["virtme-ng"], unknown=error.message)
    else:
        boots["virtme-ng"] = lambda scratch: virtme.boot(ready, machine, scratch, timeout_s=limit_s)
    for number in range(rounds + 1):
        # Each goes first, second and last equally often: what ran before leaves its mark.
        names = list(boots)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            boot = boots[name]
            if contenders[name].unknown:
                continue
            on_progress(f"round {number} of {rounds}: {name}" if number else f"warming up: {name}")
            contenders[name] = _sampled(contenders[name], boot, cache, counts=number > 0)
    return BootBench(
        kernel=kernel.release, qemu=baseroot.check(base), machine=machine,
        contenders=tuple(contenders.values()),
    )  # fmt: skip


def modules_package(name: str, lock: Lock, cache: Cache) -> Path | None:
    """The cached .deb that a catalogue kernel's image, and with it its modules, came from."""
    for locked in lock.kernels:
        for file in locked.files:
            path = cache.root / "debs" / file.sha256 / "package.deb"
            if locked.name == name and file.role is Role.IMAGE and path.is_file():
                return path
    return None


def render(bench: BootBench) -> str:
    """The table, with the verdict against each goal."""
    rows = []
    for contender in bench.contenders:
        if contender.unknown or not contender.samples_s:
            rows.append([contender.name, contender.what, "", "", "", "", "unknown"])
            continue
        ratio = bench.ratio(contender)
        goal = contender.goal
        rows.append([
            contender.name, contender.what, f"{contender.median_s:.2f}",
            f"{min(contender.samples_s):.2f} – {max(contender.samples_s):.2f}",
            "" if goal is None or ratio is None else f"{ratio:.2f}",
            "" if goal is None else f"≤ {goal:g}",
            "" if goal is None else str(bench.judge(contender)),
        ])  # fmt: skip
    machine = bench.machine
    emulated = " (emulated)" if machine.accelerator is Accelerator.TCG else ""
    head = (
        f"Guest-ready time{emulated}: Linux {bench.kernel}, {bench.qemu}, {machine.accelerator}, "
        f"{machine.vcpus} CPUs, {machine.memory_mib} MiB, "
        f"{max(len(c.samples_s) for c in bench.contenders)} interleaved rounds"
    )
    titles = ["", "from → to", "median s", "range s", "ours / it", "goal", ""]
    reasons = [f"{c.name}: {c.unknown}" for c in bench.contenders if c.unknown]
    table = tabulate(rows, headers=titles, tablefmt="simple", disable_numparse=True)
    return "\n".join([head, "", table, *(["", *reasons] if reasons else [])])


def _sampled(
    contender: Contender, boot: Callable[[Path], float], cache: Cache, *, counts: bool
) -> Contender:
    try:
        with rundir.run_directory(cache) as scratch:
            duration_s = boot(scratch)
    except HarnessError as error:
        return replace(contender, samples_s=(), unknown=error.message)
    return replace(contender, samples_s=(*contender.samples_s, duration_s)) if counts else contender


def _boot_ours(
    kernel: KernelFiles, archive: Path, base: BaseRoot, machine: Machine, scratch: Path
) -> float:
    started = time.monotonic()
    initrd = scratch / "initrd"
    initramfs.concatenate([archive], initrd)
    where = Local(prefix=base.qemu_prefix, environment=base.environment, root=base.directory)
    with vm.booted(
        machine, vmlinuz=kernel.vmlinuz, initrd=initrd, where=where, run_dir=scratch
    ) as booted:
        booted.guest.run(["/bin/true"], timeout_s=_TIMEOUT_S[machine.accelerator])
        return time.monotonic() - started


def _boot_bare(
    kernel: KernelFiles, archive: Path, base: BaseRoot, machine: Machine, scratch: Path,
    limit_s: float,
) -> float:  # fmt: skip
    """The same arguments without the channel; its console is a pipe that we read."""
    console = scratch / "console"
    os.mkfifo(console)
    boot = qemu.Boot(vmlinuz=kernel.vmlinuz, initrd=archive, console=console, channel=None)
    where = Local(prefix=base.qemu_prefix, environment=base.environment, root=base.directory)
    with os.fdopen(os.open(console, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as output:
        started = time.monotonic()
        with where.hold(
            qemu.argv(machine, boot), scratch,
            accelerator=machine.accelerator, memory_mib=machine.memory_mib,
        ) as held:  # fmt: skip
            said = b""
            while _READY not in said:
                if time.monotonic() - started > limit_s:
                    raise HarnessError(f"the bare guest said nothing within {limit_s:g} s")
                # Before QEMU opens the pipe nothing is readable; after its end, an empty read is.
                ready = select.select([output], [], [], 0.25)[0]
                chunk = output.read(1 << 16) if ready else None
                ended = held.ended()
                if not chunk and ended is not None:
                    raise HarnessError(f"the bare guest never said that it is up: {ended}")
                said = (said + (chunk or b""))[-4096:]
            return time.monotonic() - started


def _bare_archive(base: BaseRoot, cache: Cache) -> Path:
    """busybox and one line of shell: the least that says it is up."""

    def fill(directory: Path) -> None:
        init = directory / "init"
        init.write_text(_BARE_INIT, encoding="utf-8")
        init.chmod(0o755)
        files = {"/init": init, "/bin/busybox": base.directory / "usr/bin/busybox"}
        initramfs.pack(files, directory / "bare.cpio")

    return cache.entry("bench-bare", f"{base.directory.name}-1", fill) / "bare.cpio"
