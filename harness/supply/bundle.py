# SPDX-License-Identifier: Apache-2.0
"""From downloaded packages to one cached directory per kernel: image, BTF, config, facts."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness import process
from harness.cache import Cache, sha256_of
from harness.errors import HarnessError, UnavailableError
from harness.supply import apt
from harness.supply.deb import DEBUG_VMLINUX, KERNEL_FILES, extract_deb
from harness.supply.files import BTF, CONFIG, SYSTEM_MAP, VMLINUZ, KernelFiles
from harness.supply.lock import DebFile, Role
from harness.vmlinuz import read_image

logger = logging.getLogger(__name__)

_RECIPE = "1"  # raise it when what we make from the same packages changes
_FACTS = "facts.json"
_PAHOLE_TIMEOUT_S = 600.0
# Newer Debian kernels ship a System.map of one line that says where the real one is.
_SYSTEM_MAP_STUB_BYTES = 4096

Urls = Callable[[DebFile], Iterable[str]]  # where a file can be had, best first
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the image says about itself."""

    release: str
    arch: str
    format: str
    sha256: str


def from_packages(
    name: str, files: tuple[DebFile, ...], urls: Urls, cache: Cache, on_progress: Progress
) -> KernelFiles:
    """The kernel that these packages make; downloads what the cache lacks."""
    parts = [file for file in files if file.role is not Role.DEBUG]
    _heal(parts, urls, cache, on_progress)
    key = _key(parts)

    def fill(directory: Path) -> None:
        for file in parts:
            extract_deb(fetch(file, urls, cache, on_progress), directory, KERNEL_FILES)
        describe(directory)

    directory = cache.entry("kernels", key, fill)
    kernel = in_directory(name, directory, source="")
    debug = [file for file in files if file.role is Role.DEBUG]
    if kernel.btf is None and debug:
        return _with_detached_btf(kernel, debug[0], urls, cache, on_progress)
    return kernel


def is_cached(files: tuple[DebFile, ...], cache: Cache) -> bool:
    """Is the kernel of these packages in the cache (unharmed or not: that takes reading it)?"""
    parts = [file for file in files if file.role is not Role.DEBUG]
    return (cache.root / "kernels" / _key(parts)).is_dir()


def fetch(file: DebFile, urls: Urls, cache: Cache, on_progress: Progress) -> Path:
    """The .deb in the cache, downloaded unless it is there with the right hash."""

    def fill(directory: Path) -> None:
        target = directory / "package.deb"
        failures: list[UnavailableError] = []
        try:
            for url in urls(file):
                on_progress(f"downloading {file.package} ({file.size / 1e6:.1f} MB)")
                try:
                    apt.download(url, target, sha256=file.sha256)
                except UnavailableError as error:
                    target.unlink(missing_ok=True)
                    failures.append(error)
                else:
                    return
        except UnavailableError as error:  # no further address can be had
            failures.append(error)
        gone = all(isinstance(error, apt.MissingFileError) for error in failures)
        kind = apt.MissingFileError if failures and gone else UnavailableError
        raise kind(
            "; ".join(error.message for error in failures) or f"no address for {file.package}",
            hint=next((error.hint for error in failures if error.hint), ""),
        )

    return cache.entry("debs", file.sha256, fill) / "package.deb"


def describe(directory: Path) -> None:
    """Read the image in `directory`; put its BTF and facts beside it."""
    vmlinuz = directory / VMLINUZ
    if not vmlinuz.is_file():
        raise HarnessError(f"no kernel image among the files of '{directory.name}'")
    image = read_image(vmlinuz)
    if image.btf is not None:
        (directory / BTF).write_bytes(image.btf)
    system_map = directory / SYSTEM_MAP
    if system_map.exists() and system_map.stat().st_size < _SYSTEM_MAP_STUB_BYTES:
        system_map.unlink()
    facts = {
        "release": image.release,
        "arch": image.arch,
        "format": image.format,
        "sha256": sha256_of(vmlinuz),
    }
    (directory / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def facts_of(directory: Path) -> Facts:
    """The facts that `describe` wrote."""
    return Facts(**json.loads((directory / _FACTS).read_text(encoding="utf-8")))


def in_directory(name: str, directory: Path, *, source: str) -> KernelFiles:
    """The kernel of a directory that `describe` completed."""
    facts = facts_of(directory)
    return KernelFiles(
        name=name,
        series=series_of(facts.release),
        release=facts.release,
        arch=facts.arch,
        vmlinuz=directory / VMLINUZ,
        btf=_present(directory / BTF),
        btf_detached=False,
        config=_present(directory / CONFIG),
        system_map=_present(directory / SYSTEM_MAP),
        source=source,
        sha256=facts.sha256,
    )


def series_of(release: str) -> str:
    """ "5.10.0-32-cloud-amd64" -> "5.10"."""
    match = re.match(r"[0-9]+\.[0-9]+", release)
    return match[0] if match else release


def _heal(files: list[DebFile], urls: Urls, cache: Cache, on_progress: Progress) -> None:
    """Replace a kept .deb of the wrong length, even where what it holds was taken out already."""
    for file in files:
        kept = cache.root / "debs" / file.sha256 / "package.deb"
        if kept.is_file() and kept.stat().st_size != file.size:
            try:
                fetch(file, urls, cache, on_progress)
            except UnavailableError as error:
                # Not fatal: what we need of it may have been taken out long ago.
                logger.warning("'%s' is damaged and cannot be replaced: %s", kept, error)


def _with_detached_btf(
    kernel: KernelFiles, debug: DebFile, urls: Urls, cache: Cache, on_progress: Progress
) -> KernelFiles:
    """Give a kernel that was built without BTF one made from its own debug information."""

    def fill(directory: Path) -> None:
        deb = fetch(debug, urls, cache, on_progress)
        on_progress(f"making BTF for {kernel.release} with pahole")
        found = extract_deb(deb, directory, {"vmlinux": DEBUG_VMLINUX})
        if not found:
            raise UnavailableError(f"{debug.package} holds no vmlinux")
        vmlinux = directory / "vmlinux"
        process.run(
            ["pahole", f"--btf_encode_detached={directory / BTF}", vmlinux],
            timeout_s=_PAHOLE_TIMEOUT_S, hint="apt-get install pahole",
        )  # fmt: skip
        vmlinux.unlink()

    try:
        made = cache.entry("detached-btf", debug.sha256, fill)
    except HarnessError as error:
        logger.warning("no BTF for %s: %s", kernel.name, error)
        return replace(kernel, note=f"no BTF could be made from {debug.package}: {error.message}")
    if (cache.root / "debs" / debug.sha256).is_dir():
        cache.discard("debs", debug.sha256)  # hundreds of MB, of which we keep four
    return replace(kernel, btf=made / BTF, btf_detached=True)


def _key(files: list[DebFile]) -> str:
    identity = "\n".join([_RECIPE, *(f"{file.role} {file.sha256}" for file in files)])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None
