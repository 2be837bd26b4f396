# SPDX-License-Identifier: Apache-2.0
"""Take single files out of a .deb, or any tar archive, that may be hostile.

The target's name is ours, never the archive's; links and devices are skipped, sizes are bounded.
"""

from __future__ import annotations

import re
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from harness import process
from harness.errors import HarnessError

MAX_MEMBER_BYTES = 2 << 30  # a -dbg package's vmlinux has about 1 GB
MAX_TOTAL_BYTES = 16 << 30  # unpacked; a -dbg package has 5 GB
_MAX_MEMBERS = 100_000  # a distribution's root has 50,000
_HEADERS_BYTES = 256 << 10  # of one member, its long names and attributes included
_TAR_TIMEOUT_S = 1800.0
_CHUNK_BYTES = 1 << 20
_EMPTY_READS = 100
_BLOCK_BYTES = 512

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
    words = ("dpkg-deb", "--fsys-tarfile", deb)  # which knows every compression there is
    with process.streamed(words, env={"LC_ALL": "C"}) as (stream, _):
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
    names: set[str] = set()
    metered = _Metered(stream, what)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", metered), mode="r|") as archive:
            for member in _members(archive, metered, what):
                name = _match(member, wanted, found, prefix)
                if not name:
                    continue
                if member.name in names:
                    raise HarnessError(f"'{what}' holds '{member.name}' twice")
                names.add(member.name)
                if member.size > MAX_MEMBER_BYTES:
                    raise HarnessError(f"'{member.name}' in '{what}' has {member.size} bytes")
                content = archive.extractfile(member)
                if content is None or name in found:
                    continue
                _copy(content, into / name, member, what)
                found[name] = member.name
                if len(found) == len(wanted):
                    break
    # tarfile lets more through than its own errors when numbers in headers are none.
    except (tarfile.TarError, EOFError, ValueError, LookupError, OverflowError) as error:
        raise HarnessError(f"'{what}' is no readable archive: {error}") from error
    except RecursionError as error:
        raise HarnessError(f"'{what}' is no readable archive: headers without end") from error
    return found


class _Metered:
    """A stream that ends in an error past what may be read of it.

    tarfile reads a member's headers into memory whole, however long they say they are; so before
    it is asked for the next member, it gets what is left of this one and a little for headers.
    """

    def __init__(self, stream: IO[bytes], what: str) -> None:
        self._stream = stream
        self._what = what
        self._left = _HEADERS_BYTES
        self._total = MAX_TOTAL_BYTES
        self._empty = 0
        self._until = time.monotonic() + _TAR_TIMEOUT_S

    def allow(self, size: int) -> None:
        """A member of this size was met: it may be read or skipped, then come headers."""
        self._left = _HEADERS_BYTES + size + _BLOCK_BYTES

    def read(self, size: int) -> bytes:
        found = self._stream.read(size)
        if not found:
            self._empty += 1
            if self._empty > _EMPTY_READS:  # tarfile skips what is not there read by read
                raise EOFError("it ends too early")
        self._left -= len(found)
        self._total -= len(found)
        if self._left < 0:
            raise HarnessError(f"'{self._what}' has a member with over {_HEADERS_BYTES} of headers")
        if self._total < 0:
            raise HarnessError(f"'{self._what}' unpacks to over {MAX_TOTAL_BYTES >> 30} GiB")
        if time.monotonic() > self._until:
            raise HarnessError(f"'{self._what}' took over {_TAR_TIMEOUT_S:g} s to unpack")
        return found


def _members(archive: tarfile.TarFile, metered: _Metered, what: str) -> Iterator[tarfile.TarInfo]:
    """Each member, none kept: tarfile would remember all of them."""
    for _ in range(_MAX_MEMBERS):
        member = archive.next()
        if member is None:
            return
        if member.issparse() or member.size < 0:
            raise HarnessError(f"'{member.name}' in '{what}' is no plain file")
        has_data = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        metered.allow(member.size if has_data else 0)
        archive.members = []  # type: ignore[attr-defined]
        if sum(map(len, archive.pax_headers.values())) > _HEADERS_BYTES:
            raise HarnessError(f"'{what}' has over {_HEADERS_BYTES} bytes of global headers")
        yield member
    raise HarnessError(f"'{what}' has more than {_MAX_MEMBERS} members")


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
    return hits[0] if hits and (hits[0] not in found or found[hits[0]] == member.name) else ""


def _copy(content: IO[bytes], target: Path, member: tarfile.TarInfo, what: str) -> None:
    left = member.size
    with target.open("xb") as file:
        while left > 0:
            chunk = content.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise HarnessError(f"'{what}' ends within '{member.name}'")
            file.write(chunk)
            left -= len(chunk)
