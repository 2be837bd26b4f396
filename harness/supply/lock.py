# SPDX-License-Identifier: Apache-2.0
"""`kernels.lock`: which release each catalogue entry meant when it was last resolved.

It names files by their path within the archive and their sha256, never by a host, so that any
mirror, or the snapshot archive at the moment noted, can serve them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.catalogue import Table, read_table, series_key
from harness.errors import HarnessError, UsageError

_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUITE = re.compile(r"[a-z][a-z0-9./-]*")
_POOL_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._+~/-]*\.deb")
_TIMESTAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_BY_DIGEST = re.compile(r"[a-z0-9][a-z0-9._:/-]*@sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[0-9]{1,3}\.[0-9]{1,4}-[a-z][a-z0-9-]{0,60}")  # "6.1-oldest-arm64"
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~:_-]*")


class Archive(StrEnum):
    """Which of Debian's archives holds a file; also the name snapshot.debian.org uses."""

    MAIN = "debian"
    SECURITY = "debian-security"


class Role(StrEnum):
    """What we take from a package."""

    IMAGE = "image"  # vmlinuz, and for older kernels config and System.map
    BASE = "base"  # config of kernels whose image package is split
    DEBUG = "debug"  # vmlinux with DWARF, to make BTF from


@dataclass(frozen=True, kw_only=True, slots=True)
class DebFile:
    """One .deb of Debian's."""

    role: Role
    package: str
    archive: Archive
    suite: str
    filename: str  # "pool/main/l/linux/….deb"
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedKernel:
    """What a catalogue entry was resolved to: packages, or a container image."""

    name: str  # the catalogue's
    version: str  # Debian's: "5.10.223-1"; of an image, the kernel's release
    seen: str  # when it was in the archive: "20261122T131500Z"
    files: tuple[DebFile, ...]
    release: str  # `uname -r`, as the image says
    vmlinuz_sha256: str
    oci: str = ""  # the image by digest, instead of files

    @property
    def called(self) -> str:
        """For a sentence: package and version, or the image."""
        image = next((file for file in self.files if file.role is Role.IMAGE), None)
        return f"{image.package} {self.version}" if image else self.oci


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock file's content, by the catalogue's names."""

    kernels: tuple[LockedKernel, ...] = ()

    def get(self, name: str) -> LockedKernel | None:
        return next((kernel for kernel in self.kernels if kernel.name == name), None)

    def released(self) -> frozenset[str]:
        """The series with a real release, not just a candidate."""
        return frozenset(
            kernel.name.split("-")[0]
            for kernel in self.kernels
            if not is_candidate(kernel.version)
        )  # fmt: skip

    def updated(self, kernels: Iterable[LockedKernel]) -> Lock:
        """This lock with those entries put in or replaced."""
        merged = {kernel.name: kernel for kernel in (*self.kernels, *kernels)}
        return Lock(kernels=tuple(sorted(merged.values(), key=_order)))


def is_candidate(version: str) -> bool:
    """Is this Debian version a release candidate's ("7.3~rc7-1~exp1")?"""
    return re.match(r"[0-9.]+~rc", version) is not None


def read_lock(path: Path) -> Lock | None:
    """The lock at `path`, None when there is no such file."""
    if not path.exists():
        return None
    top = read_table(path)
    version = top.number("version")
    if version != _VERSION:
        raise UsageError(
            f"{path}: version {version} is not {_VERSION}", hint="make it again: inv kernels lock"
        )
    kernels = tuple(_kernel(table) for table in top.tables("kernel"))
    top.finish()
    return Lock(kernels=kernels)


def write_lock(path: Path, lock: Lock) -> None:
    """Write `path` anew, whole or not at all."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Made by `inv kernels lock`; do not edit.",
        f"version = {_VERSION}",
    ]
    for kernel in lock.kernels:
        lines += [
            "",
            "[[kernel]]",
            f'name = "{kernel.name}"',
            f'version = "{kernel.version}"',
            f'release = "{kernel.release}"',
            f'seen = "{kernel.seen}"',
            f'vmlinuz_sha256 = "{kernel.vmlinuz_sha256}"',
            *([f'oci = "{kernel.oci}"'] if kernel.oci else []),
        ]
        for file in kernel.files:
            lines += [
                "",
                "[[kernel.file]]",
                f'role = "{file.role}"',
                f'package = "{file.package}"',
                f'archive = "{file.archive}"',
                f'suite = "{file.suite}"',
                f'filename = "{file.filename}"',
                f"size = {file.size}",
                f'sha256 = "{file.sha256}"',
            ]
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        aside.rename(path)
    except OSError as error:
        raise HarnessError(f"cannot write '{path}': {error.strerror}") from error


def _kernel(table: Table) -> LockedKernel:
    kernel = LockedKernel(
        name=table.text("name", pattern=_NAME),
        version=table.text("version", pattern=_TOKEN),
        release=table.text("release", pattern=_TOKEN),
        seen=table.text("seen", pattern=_TIMESTAMP),
        vmlinuz_sha256=table.text("vmlinuz_sha256", pattern=_SHA256),
        oci=table.text("oci", pattern=_BY_DIGEST) if table.has("oci") else "",
        files=tuple(_file(file) for file in table.tables("file")),
    )
    table.finish()
    if kernel.oci and not kernel.files:
        return kernel
    if kernel.oci or [file.role for file in kernel.files].count(Role.IMAGE) != 1:
        raise UsageError(f"{table.where}: '{kernel.name}' needs one file with role 'image'")
    return kernel


def _file(table: Table) -> DebFile:
    try:
        role, archive = Role(table.text("role")), Archive(table.text("archive"))
    except ValueError as error:
        raise UsageError(f"{table.where}: {error}") from None
    file = DebFile(
        role=role,
        archive=archive,
        package=table.text("package", pattern=_TOKEN),
        suite=table.text("suite", pattern=_SUITE),
        filename=table.text("filename", pattern=_POOL_PATH),
        size=table.number("size"),
        sha256=table.text("sha256", pattern=_SHA256),
    )
    table.finish()
    return file


def _order(kernel: LockedKernel) -> tuple[bool, tuple[int, int], bool, str]:
    series, pick = kernel.name.split("-")[:2]
    return kernel.name.endswith("-arm64"), series_key(series), pick == "newest", kernel.name
