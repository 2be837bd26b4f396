# SPDX-License-Identifier: Apache-2.0
"""A program of another file tree with every library it needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from harness.errors import HarnessError

_LIBRARY_DIRS = (
    "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib",
    "usr/lib/x86_64-linux-gnu/systemd",
)  # fmt: skip


def closure(root: Path, programs: Iterable[str]) -> dict[str, Path]:
    """Programs of the file tree `root` with every library they need: path in the guest → file.

    programs: absolute paths inside `root`. Raises HarnessError for one that is missing.
    """
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        inside = waiting.pop()
        if inside in found:
            continue
        file = _inside(root, inside)
        found[inside] = file
        interpreter, needed = _dynamic_needs(file)
        if interpreter:
            waiting.append(interpreter)
        waiting += [_library(root, name, needed_by=inside) for name in needed]
    return found


def _inside(root: Path, inside: str) -> Path:
    path = root / inside.lstrip("/")
    try:
        return path.resolve(strict=True)
    except OSError as error:
        raise HarnessError(f"'{inside}' is not in the guest's root '{root}'") from error


def _dynamic_needs(file: Path) -> tuple[str, list[str]]:
    """(program interpreter or "", DT_NEEDED names) of an ELF file; nothing for other files."""
    with file.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return "", []
        try:
            elf = ELFFile(stream)
            interpreter = next(
                (s.get_interp_name() for s in elf.iter_segments() if isinstance(s, InterpSegment)),
                "",
            )
            dynamic = elf.get_section_by_name(".dynamic")
            needed = (
                [
                    str(tag.needed)  # type: ignore[attr-defined]  # set by pyelftools at run time
                    for tag in dynamic.iter_tags("DT_NEEDED")
                ]
                if isinstance(dynamic, DynamicSection)
                else []
            )
        except (ELFError, UnicodeDecodeError) as error:
            raise HarnessError(f"'{file}' is a broken ELF file: {error}") from error
    return interpreter, needed


def _library(root: Path, name: str, *, needed_by: str) -> str:
    for directory in _LIBRARY_DIRS:
        if (root / directory / name).exists():
            return f"/{directory}/{name}"
    raise HarnessError(f"no library '{name}', which '{needed_by}' needs, in '{root}'")
