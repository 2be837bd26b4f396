# SPDX-License-Identifier: Apache-2.0
"""The evidence files beside a results.json, packed so that one HTML file can hold them.

Paths in results were written by others: only files inside the report's directory are read.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

from harness.results import Run, Verdict

_KEPT: Final = 192 << 10  # bytes of one file; of a longer one the end is kept
_PACKED_MAX: Final = 4 << 20  # bytes of all files, packed


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """An evidence file."""

    id: str  # of its element in the page
    path: str
    href: str  # "" for a path that leads out of the report's directory
    size: int | None  # None: it is not beside the report
    cut: bool  # only its end is held
    packed: str  # base64 of gzip, "" when the page does not hold it


def gather(run: Run, directory: Path | None) -> dict[str, File]:
    """Every file that the results name, by its path; those of what did not pass come first."""
    found: dict[str, File] = {}
    room = _PACKED_MAX
    for path in dict.fromkeys(_paths(run)):
        file = _file(f"file-{len(found)}", path, directory, room)
        room -= len(file.packed)
        found[path] = file
    return found


def _paths(run: Run) -> Iterable[str]:
    cells = [(cell, check) for cell in run.cells for check in cell.checks]
    asked = [check for _, check in cells] + list(run.checks)
    for check in asked:
        if check.verdict not in (Verdict.PASS, Verdict.SKIPPED):
            yield from (item.path for item in check.evidence if item.path)
    for cell in run.cells:
        yield from (path for path in (cell.console, *cell.consoles_alone) if path)
    for check in asked:
        yield from (item.path for item in check.evidence if item.path)


def _file(name: str, path: str, directory: Path | None, room: int) -> File:
    safe = _inside(path)
    href = quote(str(safe)) if safe else ""
    absent = File(id=name, path=path, href=href, size=None, cut=False, packed="")
    if safe is None or directory is None:
        return absent
    try:
        whole = (directory / safe).resolve(strict=True)
        if not whole.is_relative_to(directory.resolve()) or not whole.is_file():
            return absent
        size = whole.stat().st_size
        with whole.open("rb") as file:
            file.seek(max(0, size - _KEPT))
            content = file.read(_KEPT)
        if size > _KEPT:
            content = content.partition(b"\n")[2] or content  # not from the middle of a line
    except OSError:
        return absent
    packed = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
    return File(
        id=name, path=path, href=href, size=size, cut=size > _KEPT,
        packed=packed if len(packed) <= room else "",
    )  # fmt: skip


def _inside(path: str) -> PurePosixPath | None:
    """The path when it is a plain relative one."""
    pure = PurePosixPath(path)
    plain = bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
    return pure if plain and "\0" not in path and "\\" not in path else None
