# SPDX-License-Identifier: Apache-2.0
"""Which accelerator this machine really has, found by booting a guest under it.

A `/dev/kvm` that opens proves nothing: nested and forbidden virtualisation open it too and then
hang or fail. The answer is remembered for this boot of the host, this QEMU and this place.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import initramfs, results, rundir, vm
from harness.cache import Cache
from harness.errors import HarnessError
from harness.place import Place
from harness.qemu import Accelerator, Arch, Machine, host_arch

_KVM = Path("/dev/kvm")
_PROBE_TIMEOUT_S = 12.0  # a guest under working KVM answers in one or two


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The accelerator to use, and why not the better one."""

    accelerator: Accelerator
    reason: str


def choose(
    where: Place,
    vmlinuz: Path,
    guest_archive: Path,
    qemu_version: str,
    cache: Cache,
    on_progress: Callable[[str], None],
    arch: Arch = Arch.X86_64,
) -> Choice:
    """KVM when a guest really comes up under it at that place, else TCG with the reason."""
    refused = _foreign(arch) or _refused()
    if refused:
        return Choice(accelerator=Accelerator.TCG, reason=refused)
    memory = cache.directory("accel") / f"{where.name}.json"
    key = f"{_host_boot()} {qemu_version}"
    with cache.locked(f"accel-{where.name}"):
        known = _remembered(memory, key)
        if known is not None:
            return known
        on_progress("probing KVM by booting a guest under it")
        choice = _probe(where, vmlinuz, guest_archive, cache)
        said = {"key": key, "accelerator": choice.accelerator, "reason": choice.reason}
        results.write_atomically(memory, json.dumps(said).encode())
    return choice


def remembered(cache: Cache) -> Choice | None:
    """What a probe on this boot of the host has found, for the plan; None when none was made."""
    refused = _refused()
    if refused:
        return Choice(accelerator=Accelerator.TCG, reason=refused)
    for memory in sorted((cache.root / "accel").glob("*.json")):
        known = _remembered(memory, f"{_host_boot()} ")
        if known is not None:
            return known
    return None


def native(arch: Arch) -> bool:
    """Whether this machine's CPUs can run such a guest."""
    return arch is host_arch()


def _foreign(arch: Arch) -> str:
    """Why no accelerator can run such a guest here, "" for one of this machine's architecture."""
    if native(arch):
        return ""
    return f"{arch} is not the architecture of this machine, which is {platform.machine()}"


def _refused() -> str:
    """Why KVM need not be tried at all, "" when it must be."""
    if not _KVM.exists():
        return "no /dev/kvm"
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm does not open: {error.strerror}"
    return ""


def _probe(where: Place, vmlinuz: Path, guest_archive: Path, cache: Cache) -> Choice:
    machine = Machine(accelerator=Accelerator.KVM)
    with rundir.run_directory(cache) as run_dir:
        initrd = run_dir / "initrd"
        initramfs.concatenate([guest_archive], initrd)
        try:
            with vm.booted(
                machine, vmlinuz=vmlinuz, initrd=initrd, where=where, run_dir=run_dir,
                boot_timeout_s=_PROBE_TIMEOUT_S,
            ) as booted:  # fmt: skip
                return Choice(
                    accelerator=Accelerator.KVM, reason=f"a guest booted in {booted.boot_s:.1f} s"
                )
        except HarnessError as error:
            why = " ".join(error.message.split())  # QEMU may use several lines, a plan has one
            return Choice(
                accelerator=Accelerator.TCG,
                reason=f"/dev/kvm opens, but no guest came up under it: {why}",
            )


def _host_boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _remembered(memory: Path, key: str) -> Choice | None:
    try:
        said = json.loads(memory.read_text(encoding="utf-8"))
        if not str(said["key"]).startswith(key):
            return None
        return Choice(accelerator=Accelerator(said["accelerator"]), reason=str(said["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
