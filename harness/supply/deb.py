# SPDX-License-Identifier: Apache-2.0
"""Take single files out of a .deb, or any tar archive, that may be hostile.

The target's name is ours, never the archive's; links and devices are skipped, sizes are bounded.
"""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from harness import process
from harness.errors import HarnessError

MAX_MEMBER_BYTES = 2 << 30  # a -dbg package's vmlinux has about 1 GB
_MAX_MEMBERS = 100_000
_DEB_TIMEOUT_S = 600.0
_CHUNK_BYTES = 1 << 20

# Where distributions keep a kernel's files; the key is the name we give it.
KERNEL_FILES: Mapping[str, re.Pattern[str]] = {
    "vmlinuz": re.compile(
        r"(?:boot/(?:vmlinu[xz]|bzImage|Image)(?:-[^/]+)?"
        r"|(?:usr/)?lib/modules/[^/]+/vmlinuz(?:\.unsigned)?)"
    ),
    "config": re.compile(r"boot/config-[^/]+|(?:usr/)?lib/modules/[^/]+/config"),
    "System.map": re.compile(r"boot/System\.map-[^/]+|(?:usr/)?lib/modules/[^/]+/System\.map"),
}
DEBUG_VMLINUX = re.compile(r"usr/lib/debug/(?:boot/vmlinux-[^/]+|lib/modules/[^/]+/vmlinux)")


def extract_deb(
    deb: Path, into: Path, wanted: Mapping[str, re.Pattern[str]] = KERNEL_FILES
) -> dict[str, str]:
    """Extract the members that match `wanted` into `into`; returns our name -> the member's."""
    with _opened(deb) as stream:
        return extract_tar(stream, into, wanted, what=str(deb))


def extract_tar(
    stream: IO[bytes],
    into: Path,
    wanted: Mapping[str, re.Pattern[str]],
    *,
    what: str,
    prefix: str = "",
) -> dict[str, str]:
    """Extract from a tar stream; the first match of each wanted name counts, reading ends early.

    prefix: the directory that the archive was taken from, put before its members' names.
    """
    found: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for count, member in enumerate(archive):
                if count > _MAX_MEMBERS:
                    raise HarnessError(f"'{what}' has more than {_MAX_MEMBERS} members")
                name = _match(member, wanted, found, prefix)
                if not name:
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise HarnessError(f"'{member.name}' in '{what}' has {member.size} bytes")
                content = archive.extractfile(member)
                if content is None:
                    continue
                _copy(content, into / name, member, what)
                found[name] = member.name
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, EOFError) as error:
        raise HarnessError(f"'{what}' is no readable archive: {error}") from error
    return found


def _match(
    member: tarfile.TarInfo,
    wanted: Mapping[str, re.Pattern[str]],
    found: Mapping[str, str],
    prefix: str,
) -> str:
    if not member.isreg():
        return ""
    path = f"{prefix}/{member.name.removeprefix('./').lstrip('/')}".lstrip("/")
    hits = [name for name, pattern in wanted.items() if pattern.fullmatch(path)]
    return hits[0] if hits and hits[0] not in found else ""


def _copy(content: IO[bytes], target: Path, member: tarfile.TarInfo, what: str) -> None:
    left = member.size
    with target.open("xb") as file:
        while left > 0:
            chunk = content.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise HarnessError(f"'{what}' ends within '{member.name}'")
            file.write(chunk)
            left -= len(chunk)


@contextlib.contextmanager
def _opened(deb: Path) -> Iterator[IO[bytes]]:
    """The tar stream of a .deb; dpkg-deb knows every compression there is."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        try:
            child = process.held(
                ["dpkg-deb", "--fsys-tarfile", deb],
                stdout=writing,
                env={"LC_ALL": "C"},
                spared=False,
            )
            with child:
                os.close(writing)
                writing = -1
                yield stream
        finally:
            if writing >= 0:
                os.close(writing)
