# SPDX-License-Identifier: Apache-2.0
"""What this machine has, what it lacks, and the command that mends it: facts → rows → text."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import docker.errors
import requests

from harness import accel, baseroot, kernel_container, process, system
from harness.cache import Cache
from harness.errors import HarnessError
from harness.qemu import PROGRAM, Accelerator, Arch
from harness.supply import mirror
from harness.system import Need, Package

_GIB = 1 << 30
_MIN_DISK_BYTES = 3 * _GIB  # base root 0.4, eleven series of kernels 1.5, reports
_MIN_MEMORY_BYTES = 1 * _GIB  # one guest with its QEMU
_MIN_VERSIONS = {"clang": (14, 0), "libbpf": (1, 1)}
_DOCKER_SOCKET = Path("/var/run/docker.sock")


class State(StrEnum):
    """How a row stands."""

    OK = "ok"
    NOTE = "note"  # optional, or worse than it could be: nothing fails by it
    MISSING = "MISSING"  # something required is not there


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFact:
    """A package of the list on this machine."""

    package: Package
    present: bool
    version: str  # "" where no dpkg tells


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was found, unjudged."""

    distribution: str
    kernel: str
    python: str
    packages: tuple[PackageFact, ...]
    tools: dict[str, str]  # "clang", "libbpf" → version, "" without one
    engine: str  # version of the Docker engine that answers, "" when none does
    engine_reason: str  # why none answers
    kvm: accel.Choice | None  # None: /dev/kvm opens, nobody has booted a guest under it yet
    cache: Path
    disk_free: int  # bytes where the cache is, or will be
    memory_available: int  # bytes
    cores: int
    mirror: str  # "" when none was found
    mirror_reason: str
    qemu: str  # version line of the cached base root's QEMU, "" without a base root


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the report."""

    subject: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """Rows in their sections, and what to type."""

    sections: tuple[tuple[str, tuple[Row, ...]], ...]
    commands: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Everything required is there."""
        rows = (row for _, section in self.sections for row in section)
        return all(row.state is not State.MISSING for row in rows)


def report(cache: Cache | None = None) -> DoctorReport:
    """Look at this machine and judge it; nothing is installed, started or downloaded."""
    return judge(gather(cache or Cache.default()))


def gather(cache: Cache) -> Facts:
    """Look at this machine."""
    listed = system.packages()
    known = system.versions(package.name for package in listed)
    engine, engine_reason = _engine()
    found_mirror, mirror_reason = _text_or_reason(lambda: mirror.find_mirror().main)
    return Facts(
        distribution=_distribution(),
        kernel=f"{platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=tuple(
            PackageFact(package=p, present=p.present, version=known.get(p.name, ""))
            for p in listed
        ),
        tools={
            "clang": _version_of(["clang", "--version"]),
            "libbpf": _version_of(["pkg-config", "--modversion", "libbpf"]),
        },
        engine=engine,
        engine_reason=engine_reason,
        kvm=accel.remembered(cache),
        cache=cache.root,
        disk_free=_disk_free(cache.root),
        memory_available=_memory_available(),
        cores=len(os.sched_getaffinity(0)),
        mirror=found_mirror,
        mirror_reason=mirror_reason,
        qemu=_qemu(cache),
    )  # fmt: skip


def judge(facts: Facts) -> DoctorReport:
    """Facts → rows and the commands that mend what is missing."""
    lacking = [f.package for f in facts.packages if not f.present]
    required = [p.name for p in lacking if p.need in (Need.VENV, Need.RUN, Need.BUILD)]
    for_tests = [p.name for p in lacking if p.need is Need.TESTS]
    commands = [system.install_command(required)] if required else []
    if for_tests:
        commands.append(f"{system.install_command(for_tests)}   # for inv test")
    machine = (
        Row(subject="system", state=State.OK, found=f"{facts.distribution}, {facts.kernel}"),
        Row(subject="cores", state=State.OK, found=str(facts.cores)),
        _amount("memory", facts.memory_available, _MIN_MEMORY_BYTES, "", "end other programs"),
        _amount(
            "disk", facts.disk_free, _MIN_DISK_BYTES, f" at {facts.cache}",
            "free some space, or name another place in KERNEL_MATRIX_CACHE",
        ),
        _accelerator(facts.kvm),
        _engine_row(facts),
        _mirror_row(facts),
        _qemu_row(facts),
    )  # fmt: skip
    packages = (
        Row(subject="python", state=State.OK, found=facts.python),
        *(_package_row(fact) for fact in facts.packages if fact.package.need is not Need.VENV),
        *(_tool_row(name, facts.tools.get(name, "")) for name in sorted(_MIN_VERSIONS)),
    )
    return DoctorReport(
        sections=(("machine", machine), ("programs and packages", packages)),
        commands=tuple(commands),
    )


def render(report: DoctorReport) -> str:
    """Rows → text."""
    rows = [row for _, section in report.sections for row in section]
    width = max(len(row.subject) for row in rows)
    lines: list[str] = []
    for title, section in report.sections:
        lines.append(title)
        for row in section:
            remedy = f"  → {row.remedy}" if row.remedy else ""
            lines.append(f"  {row.state:<7}  {row.subject:<{width}}  {row.found}{remedy}")
        lines.append("")
    if report.commands:
        lines += ["to mend:", *(f"  {command}" for command in report.commands), ""]
    count = sum(row.state is State.MISSING for row in rows)
    lines.append("everything required is there" if report.healthy else f"{count} things missing")
    return "\n".join(lines)


def _package_row(fact: PackageFact) -> Row:
    package = fact.package
    if fact.present:
        return Row(subject=package.name, state=State.OK, found=fact.version or "present")
    needed = package.need in (Need.RUN, Need.BUILD)
    where = "" if needed else f" ({package.need})"
    return Row(
        subject=package.name,
        state=State.MISSING if needed else State.NOTE,
        found=f"not here{where}: {package.purpose}",
        remedy="" if package.need is not Need.OPTIONAL else system.install_command([package.name]),
    )


def _tool_row(name: str, version: str) -> Row:
    least = _MIN_VERSIONS[name]
    numbers = tuple(int(n) for n in version.split(".")[:2]) if version else ()
    if not numbers:
        return Row(subject=f"{name} version", state=State.NOTE, found="unknown")
    if numbers < least:
        wanted = ".".join(map(str, least))
        return Row(
            subject=f"{name} version", state=State.MISSING, found=f"{version}, older than {wanted}",
            remedy=f"use a newer distribution release, or build {name} {wanted} yourself",
        )  # fmt: skip
    return Row(subject=f"{name} version", state=State.OK, found=version)


def _amount(subject: str, have: int, least: int, where: str, remedy: str) -> Row:
    found = f"{have / _GIB:.1f} GiB free{where}"
    if have >= least:
        return Row(subject=subject, state=State.OK, found=found)
    return Row(
        subject=subject, state=State.MISSING,
        found=f"{found}, under the {least / _GIB:g} GiB that a run takes", remedy=remedy,
    )  # fmt: skip


def _accelerator(kvm: accel.Choice | None) -> Row:
    if kvm is None:
        return Row(
            subject="KVM", state=State.NOTE,
            found="/dev/kvm opens; only a guest booted under it proves that it works: the next run "
            "tries it",
        )  # fmt: skip
    if kvm.accelerator is Accelerator.KVM:
        return Row(subject="KVM", state=State.OK, found=kvm.reason)
    reason = " ".join(kvm.reason.split())  # QEMU's own words may be several lines
    return Row(
        subject="KVM", state=State.NOTE,
        found=f"{reason}; guests are emulated (TCG), absolute times are not the hardware's",
    )  # fmt: skip


def _engine_row(facts: Facts) -> Row:
    if facts.engine:
        return Row(subject="Docker engine", state=State.OK, found=f"{facts.engine} answers")
    has_client = any(f.present for f in facts.packages if f.package.name == "docker.io")
    if not has_client:
        remedy = system.install_command(["docker.io"])
    elif "permission" in facts.engine_reason:
        remedy = "sudo usermod --append --groups docker $USER, then log in again"
    else:
        remedy = "sudo systemctl start docker"
    return Row(
        subject="Docker engine", state=State.NOTE,
        found=f"{facts.engine_reason}; --backend local needs none", remedy=remedy,
    )  # fmt: skip


def _mirror_row(facts: Facts) -> Row:
    if facts.mirror:
        return Row(subject="Debian mirror", state=State.OK, found=facts.mirror)
    return Row(
        subject="Debian mirror",
        # What is cached still runs, with kernels from --kernel-dir.
        state=State.NOTE if facts.qemu else State.MISSING,
        found=facts.mirror_reason,
        remedy=f"set {mirror.MAIN_VARIABLE} to the address of a Debian mirror",
    )


def _qemu_row(facts: Facts) -> Row:
    if facts.qemu:
        version = facts.qemu.removeprefix("QEMU emulator version ")
        return Row(subject="QEMU", state=State.OK, found=f"{version}, in the base root")
    return Row(
        subject="QEMU", state=State.NOTE,
        found="no base root in the cache yet; the first run makes it",
    )  # fmt: skip


def _engine() -> tuple[str, str]:
    """(version, "") of the engine that answers, or ("", why none does)."""
    client = kernel_container.engine()
    if client is None:
        if not _DOCKER_SOCKET.exists() and "DOCKER_HOST" not in os.environ:
            return "", f"does not run (no {_DOCKER_SOCKET})"
        if _DOCKER_SOCKET.exists() and not os.access(_DOCKER_SOCKET, os.R_OK | os.W_OK):
            return "", f"no permission for {_DOCKER_SOCKET}"
        return "", "does not answer"
    with contextlib.closing(client):
        try:
            return str(client.version().get("Version", "unknown version")), ""
        except (docker.errors.DockerException, requests.RequestException) as error:
            return "", f"does not answer ({type(error).__name__})"


def _qemu(cache: Cache) -> str:
    programs = (cache.root / "base-root").glob(f"[!.]*/usr/bin/{PROGRAM[Arch.X86_64]}")
    roots = sorted((p.parents[2] for p in programs), key=lambda path: path.stat().st_mtime)
    if not roots:
        return ""
    newest = baseroot.BaseRoot(directory=roots[-1])
    return _text_or_reason(lambda: baseroot.check(newest))[0]


def _text_or_reason(ask: Callable[[], str]) -> tuple[str, str]:
    try:
        return ask(), ""
    except HarnessError as error:
        return "", error.message


def _version_of(argv: list[str]) -> str:
    said = _text_or_reason(lambda: process.run(argv, timeout_s=20).text)[0]
    match = re.search(r"\d+(?:\.\d+)+", said)
    return match[0] if match else ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "an unnamed Linux")
    except OSError:
        return "an unnamed Linux"


def _disk_free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _memory_available() -> int:
    """MemAvailable of proc(5), in bytes."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.M)
    return int(match[1]) * 1024 if match else 0
