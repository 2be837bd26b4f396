# SPDX-License-Identifier: Apache-2.0
"""Debian's libbpf-tools: CO-RE objects, and their loaders, that this project did not write.

The package of trixie is fetched once through the machine's own mirror and checked by sha256. Each
tool carries its object inside, as bpftool's skeletons do: an ELF file for EM_BPF in .rodata.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cache import Cache
from harness.errors import UnavailableError
from harness.supply import apt, deb, mirror

_FILE = "pool/main/b/bpfcc/libbpf-tools_0.31.0+ds-7_amd64.deb"
_SHA256 = "d41e0d9928776f9ff4ca8564c07279e27d48e1fe3ef022446240128c44afe8a1"
_EM_BPF = 247
# Each tool of the package that is no symbolic link to another one.
TOOLS = (
    "bashreadline", "bindsnoop", "biolatency", "biopattern", "biosnoop", "biostacks", "biotop",
    "bitesize", "cachestat", "capable", "cpudist", "cpufreq", "drsnoop", "execsnoop", "exitsnoop",
    "filelife", "filetop", "fsdist", "fsslower", "funclatency", "futexctn", "gethostlatency",
    "hardirqs", "javagc", "klockstat", "ksnoop", "llcstat", "mdflush", "memleak", "mountsnoop",
    "numamove", "offcputime", "oomkill", "opensnoop", "profile", "readahead", "runqlat", "runqlen",
    "runqslower", "sigsnoop", "slabratetop", "softirqs", "solisten", "statsnoop", "syncsnoop",
    "syscount", "tcpconnect", "tcpconnlat", "tcplife", "tcppktlat", "tcprtt", "tcpstates",
    "tcpsynbl", "tcptop", "tcptracer", "vfsstat", "wakeuptime",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """The unpacked package: NAME, a loader, and NAME.bpf.o, what it carries."""

    directory: Path

    def loader(self, name: str) -> Path:
        return self.directory / name

    def object(self, name: str) -> Path:
        return self.directory / f"{name}.bpf.o"


@pytest.fixture(scope="session")
def tools(cache: Cache) -> Tools:
    def fill(directory: Path) -> None:
        package = directory / "package.deb"
        apt.download(f"{mirror.find_mirror().main}/{_FILE}", package, sha256=_SHA256)
        wanted = {name: re.compile(rf"usr/sbin/{name}-libbpf") for name in TOOLS}
        deb.extract_deb(package, directory, wanted)
        package.unlink()
        for name in TOOLS:
            loader = directory / name
            loader.chmod(0o755)
            (embedded,) = _embedded(loader.read_bytes())
            (directory / f"{name}.bpf.o").write_bytes(embedded)

    try:
        return Tools(directory=cache.entry("third-party", _SHA256[:20], fill))
    except UnavailableError as error:
        pytest.skip(f"the mirror does not give libbpf-tools: {error.message}")


def _embedded(content: bytes) -> Iterator[bytes]:
    """ELF64 little-endian files for EM_BPF within other files, which end with the section table."""
    at = 0
    while (at := content.find(b"\x7fELF\x02\x01\x01", at)) >= 0:
        (machine,) = struct.unpack_from("<H", content, at + 18)
        (table,) = struct.unpack_from("<Q", content, at + 40)
        size, count = struct.unpack_from("<HH", content, at + 58)
        if machine == _EM_BPF:
            yield content[at : at + table + size * count]
        at += 1
