# SPDX-License-Identifier: Apache-2.0
"""What a source hands over: the files of one kernel, and the facts read from its image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VMLINUZ = "vmlinuz"
BTF = "vmlinux.btf"
CONFIG = "config"
SYSTEM_MAP = "System.map"


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFiles:
    """One kernel, ready to be booted and resolved against."""

    name: str  # the catalogue's name, or one made from the --kernel-dir directory's
    series: str  # "5.10", from the release
    release: str  # what `uname -r` will print, read from the image
    arch: str  # "x86_64" | "arm64"
    vmlinuz: Path
    btf: Path | None  # raw BTF (what /sys/kernel/btf/vmlinux holds)
    btf_detached: bool  # the running kernel will not have it
    config: Path | None
    system_map: Path | None
    source: str  # a sentence: suite, package, version
    sha256: str  # of vmlinuz
    note: str = ""  # what a reader should know: "not as locked: wanted X, used Y"
