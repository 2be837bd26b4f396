# SPDX-License-Identifier: Apache-2.0
"""A kernel that someone built: --kernel-dir."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

from harness import intake
from harness.cache import Cache, sha256_of
from harness.errors import UsageError
from harness.supply import bundle
from harness.supply.files import BTF, CONFIG, SYSTEM_MAP, VMLINUZ, KernelFiles
from harness.vmlinuz import MAX_FILE_BYTES, NotAKernelError, read_btf

# In order of preference; a build tree keeps the image deeper down.
_IMAGES = (
    "vmlinuz", "bzImage", "Image", "Image.gz", "vmlinuz.efi",
    "vmlinuz-*", "arch/x86/boot/bzImage", "arch/arm64/boot/Image",
    "boot/vmlinuz-*", "vmlinux",
)  # fmt: skip
_MOST_CONFIG_BYTES = 16 * intake.MIB  # Debian's has 300 kB; it goes into the guest's memory
_MOST_SYSTEM_MAP_BYTES = 256 * intake.MIB  # one of a kernel with everything built in has 20 MB


def from_directory(path: Path, *, cache: Cache | None = None) -> KernelFiles:
    """The kernel in `path`: an image, and optionally vmlinux.btf, config, System.map beside it."""
    cache = cache or Cache.default()
    if not path.is_dir():
        raise UsageError(f"'{path}' is no directory", hint="--kernel-dir wants a directory")
    image = _image_in(path)
    suffix = image.name.removeprefix("vmlinuz") if image.name.startswith("vmlinuz-") else ""
    config = _beside(image.parent, path, [f"config{suffix}", CONFIG, ".config"])
    system_map = _beside(image.parent, path, [f"System.map{suffix}", SYSTEM_MAP])
    # Both are hashed for every cell.
    _refuse_unreadable(config, _MOST_CONFIG_BYTES)
    _refuse_unreadable(system_map, _MOST_SYSTEM_MAP_BYTES)
    try:
        with intake.opened(image, most_bytes=MAX_FILE_BYTES) as (file, _):
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except intake.NoFileError as error:
        raise UsageError(error.message, hint=error.hint) from error
    except OSError as error:
        raise UsageError(f"cannot read '{image}': {error.strerror}") from error

    def fill(directory: Path) -> None:
        # Named by its hash, so that a rebuilt kernel cannot meet an older one's BTF.
        with (
            intake.opened(image, most_bytes=MAX_FILE_BYTES) as (source, _),
            (directory / VMLINUZ).open("xb") as copy,
        ):
            shutil.copyfileobj(source, copy, 1 << 20)
        bundle.describe(directory)

    try:
        directory = cache.entry("images", sha256, fill)
    except NotAKernelError as error:
        # The copy in the cache is the one that was read; the person knows the original.
        words = re.sub(r"'[^']*\.partial/[^']*'", f"'{image}'", error.message)
        raise UsageError(words, hint=error.hint) from error
    kernel = bundle.in_directory(_name(path), directory, source=f"directory {path}")
    beside = _beside(image.parent, path, [BTF, f"vmlinux{suffix}.btf"])
    # A kernel's own BTF is what it will really run with, so it goes first.
    detached = _raw_btf(beside, cache) if beside is not None and kernel.btf is None else None
    return replace(
        kernel,
        btf=kernel.btf or detached,
        btf_detached=detached is not None,
        config=config,
        system_map=system_map,
    )


def _raw_btf(path: Path, cache: Cache) -> Path:
    """The raw BTF of a file that may also be an ELF object around it, as BTFHub's are."""
    try:
        content = read_btf(path)
        key = sha256_of(path)
    except (NotAKernelError, OSError) as error:
        raise UsageError(f"'{path}' is no BTF: {error}") from error
    directory = cache.entry("raw-btf", key, lambda aside: _write(aside / BTF, content))
    return directory / BTF


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _image_in(path: Path) -> Path:
    for pattern in _IMAGES:
        found = sorted(candidate for candidate in path.glob(pattern) if candidate.is_file())
        if len(found) > 1:
            raise UsageError(
                f"'{path}' holds more than one kernel: '{found[0].name}', '{found[1].name}'",
                hint="give each its own directory",
            )
        if found:
            return found[0]
    raise UsageError(
        f"no kernel image in '{path}'",
        hint="put a vmlinuz or bzImage there, and vmlinux.btf if it was built without BTF",
    )


def _beside(first: Path, second: Path, names: list[str]) -> Path | None:
    for directory in (first, second):
        for name in names:
            if (directory / name).is_file():
                return directory / name
    return None


def _refuse_unreadable(path: Path | None, most_bytes: int) -> None:
    """UsageError for a file that cannot be opened, or has more bytes than its kind may have."""
    if path is None:
        return
    try:
        with intake.opened(path, most_bytes=most_bytes):
            pass
    except intake.NoFileError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _name(path: Path) -> str:
    """The directory's own name, made safe for file names and image tags."""
    name = re.sub(r"[^a-z0-9.-]+", "-", path.resolve().name.lower()).strip("-.")
    return name[:60] or "kernel"
