# SPDX-License-Identifier: Apache-2.0
"""Which Debian packages are a kernel, and which of them a catalogue entry means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from debian.debian_support import Version

from harness.catalogue import Btf, Kernel, Pick
from harness.errors import UnavailableError
from harness.supply.apt import DEB_ARCH, Package
from harness.supply.lock import DebFile, Role

# From 6.19 on linux-image-* only depends on linux-binary-*, and before that linux-image-6.12-amd64
# only depends on the current linux-image-6.12.x-amd64. No real image is this small.
_METAPACKAGE_BYTES = 1 << 20

_IMAGE = re.compile(
    r"linux-(?P<kind>image|binary)-(?P<release>[0-9][a-z0-9.+~-]*?)"
    r"(?P<cloud>-cloud)?-(?P<arch>amd64|arm64)(?P<unsigned>-unsigned)?"
)
# Flavours that are not the plain kernel of an architecture.
_OTHER_FLAVOUR = re.compile(r"-(?:rt|16k|64k|dbg|rpi)\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The packages that a catalogue entry means today."""

    version: str
    files: tuple[DebFile, ...]


def upstream_series(version: str) -> str:
    """ "5.10.223-1" -> "5.10", "7.3~rc7-1~exp1" -> "7.3"."""
    match = re.match(r"(?:[0-9]+:)?([0-9]+\.[0-9]+)(?=[.~-])", version)
    return match[1] if match else ""


def choose(kernel: Kernel, packages: Iterable[Package]) -> list[Choice]:
    """What the entry means, best first: its series' oldest or newest image, then the next ones.

    The cloud flavour boots anywhere we do and is half the size; the plain one stands in where a
    series has none. A signed image is preferred to the same one unsigned.
    """
    mine = [package for package in packages if upstream_series(package.version) == kernel.series]
    images = [image for package in mine if (image := _image(package, kernel.arch))]
    candidates = [image for image in images if image.cloud] or images
    if not candidates:
        raise UnavailableError(f"no package of the {kernel.series} series for {kernel.arch}")
    versions = sorted(
        {image.package.version for image in candidates},
        key=Version,
        reverse=kernel.pick is Pick.NEWEST,
    )
    choices: list[Choice] = []
    for version in versions:
        of_version = [image for image in candidates if image.package.version == version]
        image = min(of_version, key=lambda image: (image.unsigned, image.package.name))
        choices.append(_with_companions(kernel, image.package, mine))
    return choices


def _with_companions(kernel: Kernel, image: Package, packages: Iterable[Package]) -> Choice:
    """The image, its split-off base package, and its debug package if BTF is to be made."""
    by_name = {package.name: package for package in packages if package.version == image.version}
    release = image.name.removesuffix("-unsigned").split("-", 2)[2]
    files = [_file(Role.IMAGE, image)]
    if base := by_name.get(f"linux-base-{release}"):
        files.append(_file(Role.BASE, base))
    debug = by_name.get(f"linux-image-{release}-dbg")
    if kernel.btf is Btf.DEBUG_PACKAGE and debug is not None:
        files.append(_file(Role.DEBUG, debug))
    return Choice(version=image.version, files=tuple(files))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    package: Package
    cloud: bool
    unsigned: bool


def _image(package: Package, arch: str) -> _Image | None:
    match = _IMAGE.fullmatch(package.name)
    if match is None or match["arch"] != DEB_ARCH[arch] or _OTHER_FLAVOUR.search(package.name):
        return None
    if package.size < _METAPACKAGE_BYTES:
        return None
    return _Image(
        package=package, cloud=bool(match["cloud"]), unsigned=bool(match["unsigned"])
    )  # fmt: skip


def _file(role: Role, package: Package) -> DebFile:
    return DebFile(
        role=role,
        package=package.name,
        archive=package.archive,
        suite=package.suite,
        filename=package.filename,
        size=package.size,
        sha256=package.sha256,
    )
