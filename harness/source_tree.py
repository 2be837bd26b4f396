# SPDX-License-Identifier: Apache-2.0
"""A person's directory as an archive of the guest's file system. Standard library only."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import NoReturn

from harness import process
from harness.errors import HarnessError

LIMIT_MIB = 256  # the guest holds it twice while it unpacks
_HEADER_BYTES = 512  # an entry's header and padding, roughly: a million empty files count too


def pack(tree: Path, inside: str, archive: Path, *, limit_mib: int = LIMIT_MIB) -> int:
    """Write a newc archive of what is under `tree`, as /`inside`/…; its size in bytes.

    The directory /`inside` itself (one name) has to be in an earlier archive. Symbolic links stay
    links, wherever they point; sockets, pipes and devices are left out. Nothing is copied aside:
    cpio reads the files through a link in a scratch directory.
    """
    names = _names(tree, inside, limit_mib << 20)
    with tempfile.TemporaryDirectory(prefix="tree-", dir=archive.parent) as scratch:
        Path(scratch, inside).symlink_to(tree.absolute())
        packed = process.run(
            ["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0",
             f"--file={archive}"],
            stdin=b"".join(name + b"\0" for name in names), cwd=Path(scratch),
            timeout_s=300, check=False,
        )  # fmt: skip
    if packed.status != 0 or packed.stderr:
        said = packed.stderr.decode(errors="replace").strip().splitlines()
        # "/usr/bin/cpio: src/name: Permission denied"
        _refuse(tree, said[0].partition(": ")[2] if said else f"status {packed.status}")
    return archive.stat().st_size


def _names(tree: Path, inside: str, limit_bytes: int) -> list[bytes]:
    """Everything to pack, parents first, as cpio is to name it."""
    if not tree.is_dir():
        _refuse(tree, "it is no directory")
    names: list[bytes] = []
    size = 0

    def failed(error: OSError) -> NoReturn:
        _refuse(tree, f"{error.filename}: {error.strerror}")

    for directory, directories, files in os.walk(tree, onerror=failed):
        directories.sort()
        for name in (*directories, *sorted(files)):
            path = Path(directory, name)
            try:
                status = path.lstat()
            except OSError as error:
                failed(error)
            if not _portable(status.st_mode):
                continue
            size += _HEADER_BYTES + (status.st_size if stat.S_ISREG(status.st_mode) else 0)
            if size > limit_bytes:
                raise HarnessError(
                    f"'{tree}' holds over {limit_bytes >> 20} MiB, too much for a guest",
                    hint="carry a smaller directory, or raise KERNEL_MATRIX_SRC_LIMIT_MIB",
                )
            names.append(os.fsencode(Path(inside, path.relative_to(tree))))
    return names


def _portable(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _refuse(tree: Path, why: str) -> NoReturn:
    raise HarnessError(
        f"cannot carry '{tree}' into the guest: {why}",
        hint="make it readable, or run as its owner (docker run --user)",
    )
