# SPDX-License-Identifier: Apache-2.0
"""What obtaining a kernel will mean, told without the network: for plans and lists."""

from __future__ import annotations

from dataclasses import dataclass

from harness.cache import Cache
from harness.catalogue import DebianSource, Kernel, OciSource, Source
from harness.supply import bundle
from harness.supply.lock import Lock, Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """The lock's and the cache's word; whether a server still has the file is not asked."""

    name: str
    version: str  # Debian's version or the image's digest; "" when it is still to be resolved
    release: str  # `uname -r`, "" likewise
    source: str  # a sentence: where it comes from, or will be looked for
    cached: bool
    download_bytes: int  # still to be downloaded; 0 when that is not known either


def foresee(kernel: Kernel, *, cache: Cache, lock: Lock | None) -> Outlook:
    """What `obtain` would do for this kernel."""
    locked = lock.get(kernel.name) if lock else None
    if locked is None:
        places = ", then ".join(_place(source) for source in kernel.sources)
        return Outlook(
            name=kernel.name, version="", release="", source=f"not locked: {places}",
            cached=False, download_bytes=0,
        )  # fmt: skip
    if locked.oci:
        return Outlook(
            name=kernel.name, version=locked.version, release=locked.release,
            source=f"container image {locked.oci}", cached=False, download_bytes=0,
        )  # fmt: skip
    parts = [file for file in locked.files if file.role is not Role.DEBUG]
    cached = bundle.is_cached(locked.files, cache)
    missing = [file for file in parts if not (cache.root / "debs" / file.sha256).is_dir()]
    return Outlook(
        name=kernel.name,
        version=locked.version,
        release=locked.release,
        source=f"Debian {locked.files[0].suite}: {locked.called}",
        cached=cached,
        download_bytes=0 if cached else sum(file.size for file in missing),
    )


def _place(source: Source) -> str:
    if isinstance(source, DebianSource):
        return f"Debian {' or '.join(source.suites)}"
    if isinstance(source, OciSource):
        return f"container image {source.image}"
    return f"Debian's snapshot of {source.timestamp[:8]}"
