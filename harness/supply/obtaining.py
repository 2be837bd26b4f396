# SPDX-License-Identifier: Apache-2.0
"""From a catalogue entry to files: the lock's release first, then each source in order."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from harness.cache import Cache
from harness.catalogue import DebianSource, Kernel, OciSource, SnapshotSource
from harness.errors import HarnessError, UnavailableError
from harness.supply import bundle, debian, mirror, oci, snapshot
from harness.supply.apt import MissingFileError, Package, Suite, kernel_packages
from harness.supply.bundle import Progress, Urls
from harness.supply.files import KernelFiles
from harness.supply.lock import DebFile, Lock, LockedKernel, read_lock, write_lock

_PARALLEL_UPDATES = 4
_MOST_ALTERNATIVES = 10


def obtain(
    kernel: Kernel, *, cache: Cache, lock: Lock | None, on_progress: Progress = lambda text: None
) -> KernelFiles:
    """The files of `kernel`: as locked if that can still be had, else from the first source.

    Raises UnavailableError with the reason of every source that was tried.
    """
    reasons: list[str] = []
    hints: list[str] = []
    locked = lock.get(kernel.name) if lock else None
    if locked is not None and debian.upstream_series(locked.version) != kernel.series:
        raise HarnessError(
            f"the lock gives '{kernel.name}' version '{locked.version}'",
            hint="make it again: inv kernels lock",
        )
    if locked is not None:
        try:
            return _as_locked(kernel, locked, cache, on_progress)
        except UnavailableError as error:
            reasons.append(f"locked {locked.version}: {error.message}")
            hints.append(error.hint)
    for source in kernel.sources:
        try:
            found = _from_source(kernel, source, cache, on_progress)
        except UnavailableError as error:
            reasons.append(error.message)
            hints.append(error.hint)
            continue
        if locked is None:
            return found
        note = f"not as locked: wanted {locked.called}, used {found.source}"
        return replace(found, note="; ".join(filter(None, [note, found.note])))
    raise UnavailableError(
        f"{kernel.name}: {'; '.join(dict.fromkeys(reasons))}",
        hint=next(filter(None, hints), "name one you have with --kernel-dir"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LockReport:
    """What resolving did."""

    lock: Lock  # as written
    changed: tuple[str, ...]  # names whose entry is new or other than before
    unavailable: tuple[tuple[str, str], ...]  # name, reason; an older entry is kept
    notes: tuple[tuple[str, str], ...]  # name, what a reader should know of the choice


def resolve_lock(
    kernels: Iterable[Kernel],
    path: Path,
    *,
    cache: Cache,
    on_progress: Progress = lambda text: None,
) -> LockReport:
    """Resolve each kernel against its Debian sources and write the lock file at `path`."""
    lock = read_lock(path) or Lock()
    entries: list[LockedKernel] = []
    unavailable: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for kernel in kernels:
        old = lock.get(kernel.name)
        try:
            entry, note = _resolve(kernel, old, cache, on_progress)
        except UnavailableError as error:
            unavailable.append((kernel.name, error.message))
        else:
            if entry != old:
                entries.append(entry)
            if note:
                notes.append((kernel.name, note))
    lock = lock.updated(entries)
    write_lock(path, lock)
    return LockReport(
        lock=lock,
        changed=tuple(entry.name for entry in entries),
        unavailable=tuple(unavailable),
        notes=tuple(notes),
    )


def _as_locked(
    kernel: Kernel, locked: LockedKernel, cache: Cache, on_progress: Progress
) -> KernelFiles:
    def urls(file: DebFile) -> Iterable[str]:
        """The mirror; once that has moved on, the snapshot of when it had the file."""
        reasons: list[str] = []
        try:
            yield f"{mirror.find_mirror().url(file.archive)}/{file.filename}"
        except UnavailableError as error:
            reasons.append(error.message)
        try:
            base = snapshot.reached(kernel.snapshot_url)
        except UnavailableError as error:
            reasons.append(error.message)
            raise UnavailableError("; ".join(reasons), hint=error.hint) from None
        yield snapshot.file_url(base, file, locked.seen)

    if locked.oci:
        found, _ = oci.obtain(kernel.name, locked.oci, kernel.arch, cache, on_progress)
    else:
        found = bundle.from_packages(kernel.name, locked.files, urls, cache, on_progress)
        source = f"Debian {locked.files[0].suite}: {locked.called}"
        found = replace(found, source=source)
    if found.sha256 != locked.vmlinuz_sha256:
        raise HarnessError(
            f"the image of '{kernel.name}' has sha256 {found.sha256}, "
            f"the lock says {locked.vmlinuz_sha256}",
            hint="make the lock again: inv kernels lock",
        )
    return found


def _from_source(
    kernel: Kernel, source: DebianSource | SnapshotSource | OciSource, cache: Cache,
    on_progress: Progress,
) -> KernelFiles:  # fmt: skip
    if isinstance(source, OciSource):
        return oci.obtain(kernel.name, source.image, kernel.arch, cache, on_progress)[0]
    return _resolved(kernel, source, cache, on_progress)[1]


def _resolved(
    kernel: Kernel, source: DebianSource | SnapshotSource, cache: Cache, on_progress: Progress
) -> tuple[debian.Choice, KernelFiles]:
    """What the entry means at this source, and its files.

    A server's index may name packages it no longer has (or not yet): the next one then stands in.
    """
    suites, urls, server = _opened(kernel, source)
    choices = _chosen(kernel, suites, cache, on_progress)
    gone: list[MissingFileError] = []
    for choice in choices[:_MOST_ALTERNATIVES]:
        try:
            found = bundle.from_packages(kernel.name, choice.files, urls, cache, on_progress)
        except MissingFileError as error:
            gone.append(error)
            continue
        sentence = _sentence(server, choice.files[0], choice.version)
        if gone:
            note = f"{choices[0].version} is listed, but its package is missing there"
            found = replace(found, note="; ".join(filter(None, [note, found.note])))
        return choice, replace(found, source=sentence)
    others = f", and {len(gone) - 1} older or newer ones neither" if len(gone) > 1 else ""
    raise UnavailableError(f"{gone[0].message}{others}")


def _opened(kernel: Kernel, source: DebianSource | SnapshotSource) -> tuple[list[Suite], Urls, str]:
    """The suites of a source, where its files are, and what to call it."""
    if isinstance(source, DebianSource):
        ours = mirror.find_mirror()
        suites = [_mirror_suite(ours, name) for name in source.suites]
        return suites, lambda file: [f"{ours.url(file.archive)}/{file.filename}"], "Debian"
    base = snapshot.reached(kernel.snapshot_url)
    stamp = source.timestamp
    return (
        [snapshot.suite(base, name, stamp) for name in source.suites],
        lambda file: [snapshot.file_url(base, file, stamp)],
        f"Debian's snapshot of {stamp[:8]}",
    )


def _mirror_suite(ours: mirror.Mirror, name: str) -> Suite:
    archive = mirror.archive_of(name)
    return Suite(url=ours.url(archive), archive=archive, name=name, past=False)


def _chosen(
    kernel: Kernel, suites: Sequence[Suite], cache: Cache, on_progress: Progress
) -> list[debian.Choice]:
    """What the kernel means in these suites, best first; a suite that fails is an error: it may hold it."""
    on_progress(f"reading the index of {', '.join(suite.name for suite in suites)}")
    with ThreadPoolExecutor(_PARALLEL_UPDATES) as pool:
        results = list(pool.map(lambda suite: _index(suite, kernel.arch, cache), suites))
    packages: list[Package] = []
    for result in results:
        if isinstance(result, UnavailableError):
            raise UnavailableError(result.message, hint=result.hint)
        packages += result
    return debian.choose(kernel, packages)


@functools.cache
def _index(suite: Suite, arch: str, cache: Cache) -> tuple[Package, ...] | UnavailableError:
    """A suite's kernel packages, asked for once per process, failures included."""
    try:
        return tuple(kernel_packages(suite, arch, cache))
    except UnavailableError as error:
        return error


def _resolve(
    kernel: Kernel, old: LockedKernel | None, cache: Cache, on_progress: Progress
) -> tuple[LockedKernel, str]:
    """The lock entry, and a note on it."""
    reasons: list[str] = []
    for source in kernel.sources:
        try:
            if isinstance(source, OciSource):
                entry, note = _resolve_image(kernel, source, cache, on_progress), ""
            else:
                entry, note = _resolve_packages(kernel, source, cache, on_progress)
        except UnavailableError as error:
            reasons.append(error.message)
            continue
        # The moment alone is no change: the diff of a refresh stays small.
        same = old is not None and replace(entry, seen=old.seen) == old
        return old if old is not None and same else entry, note
    raise UnavailableError("; ".join(dict.fromkeys(reasons)))


def _resolve_packages(
    kernel: Kernel, source: DebianSource | SnapshotSource, cache: Cache, on_progress: Progress
) -> tuple[LockedKernel, str]:
    choice, found = _resolved(kernel, source, cache, on_progress)
    entry = LockedKernel(
        name=kernel.name,
        version=choice.version,
        seen=source.timestamp if isinstance(source, SnapshotSource) else _now(),
        files=choice.files,
        release=found.release,
        vmlinuz_sha256=found.sha256,
    )
    return entry, found.note


def _resolve_image(
    kernel: Kernel, source: OciSource, cache: Cache, on_progress: Progress
) -> LockedKernel:
    found, pinned = oci.obtain(kernel.name, source.image, kernel.arch, cache, on_progress)
    if not pinned:
        raise UnavailableError(f"image '{source.image}' has no digest that a lock could hold")
    return LockedKernel(
        name=kernel.name,
        version=found.release,
        seen=_now(),
        files=(),
        release=found.release,
        vmlinuz_sha256=found.sha256,
        oci=pinned,
    )


def _sentence(server: str, file: DebFile, version: str) -> str:
    return f"{server} {file.suite}: {file.package} {version}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
