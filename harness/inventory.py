# SPDX-License-Identifier: Apache-2.0
"""The kernels that can be had: list, fetch, lock, build containers, find one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tabulate import tabulate

from harness import baseroot, catalogue, paths, supply
from harness import images as kernel_images
from harness.cache import Cache
from harness.catalogue import Kernel, Pick
from harness.errors import UnavailableError, UsageError
from harness.progress import Listener, Note, Phase
from harness.qemu import Arch
from harness.supply import KernelFiles, Lock


def kernels_text(words: str, arch: str, cache: Cache) -> str:
    """The catalogue as a table: what each name means, where it comes from, what is cached."""
    known = load_lock()
    rows = []
    for kernel in chosen(words or "all", arch):
        seen = supply.foresee(kernel, cache=cache, lock=known)
        rows.append([kernel.name, kernel.tier, seen.release or "–", _state(seen), seen.source])
    headers = ["name", "tier", "release", "cache", "source"]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def plan_lines(kernels: Iterable[Kernel], cache: Cache) -> list[str]:
    """A line for each kernel of a plan, and one for the downloads."""
    known = load_lock()
    seen = [supply.foresee(kernel, cache=cache, lock=known) for kernel in kernels]
    wide = max((len(one.name) for one in seen), default=0)
    lines = [f"  {one.name:<{wide}} {one.release or '–':<26} {one.source}" for one in seen]
    megabytes = sum(one.download_bytes for one in seen) / 1e6
    if megabytes:
        lines.append(f"  to download: {megabytes:.0f} MB")
    return lines


def chosen(words: str, arch: str = "x86_64") -> list[Kernel]:
    """The catalogue's kernels that the words name."""
    known = load_lock()
    released = known.released() if known else None
    return catalogue.select(catalogue.load(paths.catalogue_dir()), words, arch, released=released)


def shards(words: str, size: int) -> str:
    """The shards of a run over those kernels as JSON, `["1/3", "2/3", "3/3"]`: a CI job each."""
    if size < 1:
        raise UsageError(f"a shard of {size} kernels is none")
    count = -(-len(chosen(words)) // size)
    return json.dumps([f"{number}/{count}" for number in range(1, count + 1)])


def fetch(words: str, arch: str, cache: Cache, emit: Listener) -> tuple[list[str], int]:
    """Fetch kernels into the cache: a line for each, and status 3 when one could not be had."""
    lines: list[str] = []
    status = 0
    for kernel, files in _obtained(words, arch, cache, emit):
        if isinstance(files, UnavailableError):
            lines.append(f"{kernel.name:<14} unavailable: {files.message}")
            status = 3
        else:
            lines.append(f"{kernel.name:<14} {files.release:<26} {files.vmlinuz}")
    return lines, status


def lock(words: str, arch: str, cache: Cache, emit: Listener) -> tuple[list[str], int]:
    """Resolve the catalogue anew and write the lock: what changed, what could not be had."""
    found = supply.resolve_lock(
        chosen(words, arch), lock_path(), cache=cache, on_progress=noting(emit)
    )
    lines = [f"{lock_path()}: {len(found.changed)} changed: {', '.join(found.changed) or 'none'}"]
    lines += [f"unavailable: {name}: {reason}" for name, reason in found.unavailable]
    return lines, 0


def find_kernel(words: str, cache: Cache, emit: Listener) -> KernelFiles:
    """One kernel: a directory, a name, or a series (its newest)."""
    if Path(words).is_dir() and ("/" in words or not words[:1].isdigit()):
        return supply.from_directory(Path(words), cache=cache)
    known = load_lock()
    found = chosen(words)
    if len({kernel.series for kernel in found}) != 1:
        raise UsageError(f"'{words}' names several kernels", hint="name one, such as 6.1-newest")
    kernel = next((k for k in found if k.pick is Pick.NEWEST), found[0])
    return supply.obtain(kernel, cache=cache, lock=known, on_progress=_saying(kernel, emit))


def images(
    words: str, arch: str, cache: Cache, emit: Listener, *, remove: bool
) -> tuple[list[str], int]:
    """Build (or remove) the kernel containers: a line for each, status 3 when a kernel lacks."""
    if remove:
        return [f"removed {name}" for name in kernel_images.remove_images()], 0
    lines: list[str] = []
    status = 0
    for kernel, files in _obtained(words, arch, cache, emit):
        if isinstance(files, UnavailableError):
            lines.append(f"{kernel.name:<28} unavailable: {files.message}")
            status = 3
            continue
        root = baseroot.obtain(cache, noting(emit), Arch(kernel.arch))
        name = kernel_images.ensure_image(files, root, cache, noting(emit))
        lines.append(f"{name:<28} {files.release}")
    return lines, status


def _obtained(
    words: str, arch: str, cache: Cache, emit: Listener
) -> Iterator[tuple[Kernel, KernelFiles | UnavailableError]]:
    known = load_lock()
    for kernel in chosen(words, arch):
        try:
            yield (
                kernel,
                supply.obtain(kernel, cache=cache, lock=known, on_progress=_saying(kernel, emit)),
            )
        except UnavailableError as error:
            yield kernel, error


def lock_path() -> Path:
    """The lock file of the catalogue in force."""
    return paths.catalogue_dir() / "kernels.lock"


def load_lock() -> Lock | None:
    """What the lock file pins, None without one."""
    path = lock_path()
    return supply.read_lock(path) if path.exists() else None


def noting(emit: Listener) -> Callable[[str], None]:
    """Progress texts as notes."""
    return lambda text: emit(Note(text=text))


def _saying(kernel: Kernel, emit: Listener) -> Callable[[str], None]:
    return lambda text: emit(Phase(kernel=kernel.name, phase="fetch", detail=text))


def _state(seen: supply.Outlook) -> str:
    if seen.cached:
        return "yes"
    return f"{seen.download_bytes / 1e6:.0f} MB away" if seen.download_bytes else "no"
