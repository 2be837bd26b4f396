# SPDX-License-Identifier: Apache-2.0
"""The packages of the system that the harness uses, and which of them this machine lacks.

The list is `data/system-packages.txt`; `./inv` reads the same file before there is a Python.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness import process
from harness.errors import HarnessError

LIST = Path(__file__).parent / "data" / "system-packages.txt"
_FIELDS = 4  # package, needed-by, seen-by, purpose


class Need(StrEnum):
    """What a package is needed by."""

    VENV = "venv"  # making .venv
    RUN = "run"  # fetching and booting kernels
    BUILD = "build"  # compiling objects and the guest's programs
    ARM64 = "arm64"  # building and booting arm64 guests
    TESTS = "tests"  # `inv test` alone
    OPTIONAL = "optional"  # a backend, or something with a fallback


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One line of the list."""

    name: str  # Debian's and Ubuntu's
    need: Need
    seen_by: str  # a command, or with a slash a file pattern
    purpose: str

    @property
    def present(self) -> bool:
        if "/" in self.seen_by:
            return any(Path("/").glob(self.seen_by.lstrip("/")))
        return process.which(self.seen_by) is not None


def packages() -> tuple[Package, ...]:
    """Every package of the list."""
    return parse(LIST.read_text(encoding="utf-8"), where=LIST.name)


def parse(text: str, *, where: str) -> tuple[Package, ...]:
    """The lines of the list; HarnessError names the line that is none."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(None, _FIELDS - 1)
        if len(fields) != _FIELDS or fields[1] not in set(Need):
            raise HarnessError(
                f"{where}:{number}: no 'package needed-by seen-by purpose' in '{line}'"
            )
        name, need, seen_by, purpose = fields
        found.append(Package(name=name, need=Need(need), seen_by=seen_by, purpose=purpose))
    return tuple(found)


def missing(wanted: Iterable[Package], needs: Collection[Need]) -> tuple[Package, ...]:
    """Those of `wanted` that one of `needs` asks for and this machine lacks."""
    return tuple(package for package in wanted if package.need in needs and not package.present)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Package → installed version, where dpkg knows them; nothing on other distributions."""
    if process.which("dpkg-query") is None:
        return {}
    # A status of 1 says that some of the names are not installed, which is no failure.
    done = process.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status} ${Version}\\n",
         *names],
        timeout_s=20, check=False,
    )  # fmt: skip
    rows = (line.split() for line in done.text.splitlines())
    return {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}


def install_command(names: Iterable[str]) -> str:
    """What a person types here to have these packages."""
    words = " ".join(names)
    if process.which("apt-get") is None:
        return f"install by this distribution's means (Debian's names): {words}"
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install --no-install-recommends {words}"
