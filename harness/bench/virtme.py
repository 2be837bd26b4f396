# SPDX-License-Identifier: Apache-2.0
"""virtme-ng, made ready to boot one Debian kernel with the base root's QEMU.

It shares a root file system with the guest over virtiofs, for which Debian's kernels need modules,
and takes what it finds on the machine. So that every machine measures the same, and virtme-ng at
its best, it gets a minimal root without systemd and udev (with both of Debian's the same boot took
twice as long, most of it in `udevadm settle`), a virtiofsd and a kmod of its own.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import process
from harness.baseroot import SUITE, BaseRoot
from harness.cache import Cache, sha256_of
from harness.errors import HarnessError, UnavailableError
from harness.qemu import Accelerator, Machine
from harness.supply import apt, mirror

VERSION = "1.42"
_PACKAGES = ("virtiofsd", "kmod", "bash", "dash", "coreutils", "util-linux", "mount", "grep", "sed")
_RECIPE = 1  # raise it when what is made below changes
_MARKER = "kernel-matrix-guest-ready"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Virtme:
    """virtme-ng with all it needs."""

    python: Path  # directory of its Python packages
    programs: Path  # vng, virtme-run, virtiofsd, modprobe, depmod, qemu: first on its PATH
    root: Path  # the guest's root
    vmlinuz: Path  # …/boot/vmlinuz-RELEASE with …/lib/modules/RELEASE beside it
    busybox: Path


def prepare(
    package: Path, base: BaseRoot, cache: Cache, on_progress: Callable[[str], None]
) -> Virtme:
    """Fetch virtme-ng and its tools, unpack the kernel's .deb. UnavailableError when we cannot."""
    unpacked = _kernel(package, cache)
    images = sorted(unpacked.glob("boot/vmlinuz-*"))
    if not images or not any(unpacked.glob("lib/modules/*/kernel")):
        raise UnavailableError(f"'{package}' holds no image with its modules")

    def fill_python(directory: Path) -> None:
        on_progress(f"installing virtme-ng {VERSION}")
        process.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-input",
             "--disable-pip-version-check", "--target", directory, f"virtme-ng=={VERSION}"],
            timeout_s=300,
        )  # fmt: skip

    def fill_root(directory: Path) -> None:
        on_progress("making a root for virtme-ng's guest")
        _make_root(directory)

    python = cache.entry("bench-virtme", f"virtme-ng-{VERSION}", fill_python)
    root = cache.entry("bench-root", f"{SUITE}-{_RECIPE}-{len(_PACKAGES)}", fill_root)
    programs = cache.directory("bench-programs")
    with cache.locked("bench-programs"):
        _wrap(programs, root, base)
    return Virtme(
        python=python, programs=programs, root=root, vmlinuz=images[0],
        busybox=base.directory / "usr/bin/busybox",
    )  # fmt: skip


def boot(virtme: Virtme, machine: Machine, scratch: Path, *, timeout_s: float) -> float:
    """Seconds from vng's start until its first command's output is here.

    Its own way: `vng --run KERNEL -- COMMAND`. verbose, or a guest without udev shows no output;
    the loglevel of our own guests. HarnessError when nothing comes within `timeout_s`.
    """
    argv: list[str | Path] = [
        sys.executable, virtme.python / "bin/vng", "--verbose", "--run", virtme.vmlinuz,
        "--root", virtme.root, "--cwd", virtme.root, "--user", "root",
        "--qemu", virtme.programs / "qemu-system-x86_64", "--busybox", virtme.busybox,
        "--cpus", str(machine.vcpus), "--memory", f"{machine.memory_mib}M",
        "--append", "loglevel=5",
        *([] if machine.accelerator is Accelerator.KVM else ["--disable-kvm"]),
        "--", "echo", _MARKER,  # its own command line holds that in base64 only
    ]  # fmt: skip
    environment = {
        "PATH": f"{virtme.programs}:{virtme.python / 'bin'}:{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(virtme.python),
        "HOME": str(scratch),  # it keeps a cache there
        "TMPDIR": str(scratch),
    }
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as output:
        started = time.monotonic()
        with process.held(argv, stdout=writing, stderr=writing, env=environment) as child:
            os.close(writing)
            try:
                ready_s = _wait_for(output.fileno(), started, timeout_s) - started
                # The guest powers itself off; what it says meanwhile must not block it.
                _drain(output.fileno(), time.monotonic() + timeout_s)
            finally:
                _end_group(child)
    return ready_s


def _wait_for(output: int, started: float, timeout_s: float) -> float:
    said = b""
    while _MARKER.encode() not in said:
        left_s = started + timeout_s - time.monotonic()
        if left_s <= 0 or not select.select([output], [], [], left_s)[0]:
            raise HarnessError(f"virtme-ng ran no command within {timeout_s:g} s")
        chunk = os.read(output, 1 << 16)
        if not chunk:
            words = said.decode(errors="replace").split()
            raise HarnessError(f"virtme-ng ended: {' '.join(words)[-300:]}")
        said = (said + chunk)[-65536:]
    return time.monotonic()


def _drain(output: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        if select.select([output], [], [], 1.0)[0] and not os.read(output, 1 << 16):
            return


def _end_group(child: process.Child) -> None:
    """vng's QEMU and virtiofsd are its grandchildren: the group is what we can end."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kernel(package: Path, cache: Cache) -> Path:
    """The .deb unpacked: virtme-ng finds the modules by the image's place."""

    def fill(directory: Path) -> None:
        process.run(["dpkg-deb", "--extract", package, directory], timeout_s=120)

    return cache.entry("bench-kernel", sha256_of(package)[:32], fill)


def _make_root(directory: Path) -> None:
    tree = directory / ".tree"  # the root has a /root of its own
    process.run(
        ["mmdebstrap", "--quiet", "--variant=extract",
         *(f"--keyring={keyring}" for keyring in apt.keyrings(past=False)),
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
         "--dpkgopt=path-exclude=/usr/share/locale/*",
         f"--include={','.join(_PACKAGES)}",
         SUITE, str(tree), f"deb {mirror.find_mirror().main} {SUITE} main"],
        timeout_s=600,
    )  # fmt: skip
    shutil.rmtree(tree / "dev", ignore_errors=True)
    for child in list(tree.iterdir()):
        child.rename(directory / child.name)
    tree.rmdir()
    for name in ("dev", "proc", "sys", "tmp", "run", "root", "home", "opt", "srv"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    (directory / "etc/group").write_text("root:x:0:\n", encoding="utf-8")


def _wrap(programs: Path, root: Path, base: BaseRoot) -> None:
    """Programs of both roots as commands of this machine, through their own loader."""
    libraries = root / _LIBRARIES
    loader: list[str | Path] = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    for name in ("modprobe", "depmod"):
        _script(programs / name, [*loader, "--argv0", name, root / "usr/bin/kmod"])
    _script(programs / "virtiofsd", [*loader, root / "usr/libexec/virtiofsd"])
    _script(programs / "qemu-system-x86_64", base.qemu_prefix, base.environment)


def _script(
    path: Path, words: Iterable[str | Path], environment: dict[str, str] | None = None
) -> None:
    exports = "".join(f"export {name}='{value}'\n" for name, value in (environment or {}).items())
    command = " ".join(f"'{word}'" for word in words)
    path.write_text(f'#!/bin/sh\n{exports}exec {command} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
