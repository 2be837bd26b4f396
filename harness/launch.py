# SPDX-License-Identifier: Apache-2.0
"""A command, or a shell, under one kernel: what `inv run` and `inv shell` do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness import accel, baseroot, inventory, pipeline, results, rundir, session, sitting, slot
from harness.bench import boot
from harness.cache import Cache
from harness.errors import UsageError
from harness.inventory import noting
from harness.place import Local, Place
from harness.progress import Listener, Note, Phase
from harness.qemu import Arch, Machine
from harness.supply import KernelFiles


def run_command(
    words: str,
    argv: Sequence[str],
    cache: Cache,
    emit: Listener,
    *,
    timeout_s: float,
    src: str,
    backend: str,
) -> session.Outcome:
    """Run a command under a kernel."""
    files, boot_files, where, choice = _session(words, cache, emit, backend=backend)
    emit(Phase(kernel=files.name, phase="run", detail=" ".join(argv)))
    with rundir.run_directory(cache) as run_dir:
        outcome = session.run_command(
            session.Command(argv=tuple(argv), directory=f"/{session.SOURCE}" if src else "/"),
            boot_files, where=where, run_dir=run_dir, accelerators=(choice.accelerator,),
            timeout_s=timeout_s, source=Path(src) if src else None,
        )  # fmt: skip
    if outcome.timed_out:
        emit(Note(text=f"the command did not end within {timeout_s:g} s and was killed"))
    if outcome.lost_bytes:
        emit(Note(text=f"{outcome.lost_bytes} bytes of output were over the limit and are lost"))
    return outcome


def shell(words: str, cache: Cache, emit: Listener) -> Callable[[str], int]:
    """Everything a shell under a kernel needs; call the answer with the directory for /src."""
    _, boot_files, where, choice = _session(words, cache, emit, backend="local")
    if not isinstance(where, Local):
        raise UsageError("a shell runs on this machine", hint="leave --backend away")
    local = where

    def start(src: str) -> int:
        with rundir.run_directory(cache) as run_dir:
            return session.shell(
                boot_files, where=local, run_dir=run_dir, accelerators=(choice.accelerator,),
                source=Path(src) if src else None,
            )  # fmt: skip

    return start


def _session(
    words: str, cache: Cache, emit: Listener, *, backend: str
) -> tuple[KernelFiles, session.Files, Place, accel.Choice]:
    say = noting(emit)
    backend = pipeline.choose_backend(backend, emit)
    files = inventory.find_kernel(words, cache, emit)
    arch = Arch(files.arch)
    root = baseroot.obtain(cache, say, arch)  # may take a minute: after what may be wrong use
    archive = baseroot.guest_archive(root, cache, say)
    where = sitting.place_of(backend, files, root, cache, say)
    choice = accel.choose(where, files.vmlinuz, archive, baseroot.check(root), cache, say, arch)
    return files, session.Files(vmlinuz=files.vmlinuz, base=archive, arch=arch), where, choice


def bench_boot(
    words: str, rounds: int, cache: Cache, emit: Listener
) -> tuple[str, results.Verdict]:
    """Guest-ready time against the other ways to boot a kernel: (table, verdict on the goals)."""
    files, _, _, choice = _session(words, cache, emit, backend="local")
    if files.arch != baseroot.NATIVE:
        raise UsageError(
            f"'{files.name}' is a kernel for {files.arch}",
            hint=f"inv bench boot compares ways to boot one for {baseroot.NATIVE}",
        )
    lock = inventory.load_lock()
    package = boot.modules_package(files.name, lock, cache) if lock is not None else None
    with slot.hold(cache, alone=True):
        found = boot.measure(
            files, package, cache, Machine(accelerator=choice.accelerator), rounds=rounds,
            on_progress=noting(emit),
        )  # fmt: skip
    return boot.render(found), found.verdict
