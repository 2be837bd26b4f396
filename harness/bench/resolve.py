# SPDX-License-Identifier: Apache-2.0
"""How fast an object is resolved, against `bpftool gen min_core_btf` on the same pairs.

Rounds are interleaved pair by pair, so that whatever else the machine does meets both alike. Four
figures per kernel: *new* (nothing of this BTF is known), *indexed* (its index is in the cache, the
object is new), *kept* (the finished column is), and bpftool, which writes a minimised BTF but
decides nothing about poison, guards or attach targets.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tabulate import tabulate

from harness import process, resolve
from harness.btf import BpfObject
from harness.btf.elf import read_btf_bytes
from harness.btf.table import KernelFile
from harness.errors import HarnessError

GOAL_COLD_S: Final = 10.0  # for 100 kernels
GOAL_KEPT_S: Final = 2.0  # for 100 kernels
_KERNELS: Final = 100
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolveBench:
    """What was measured; times in seconds of wall clock, one per kernel and round."""

    path: str
    relocations: int
    kernels: int
    new_s: tuple[float, ...]
    indexed_s: tuple[float, ...]
    kept_s: tuple[float, ...]
    bpftool_s: tuple[float, ...]  # empty: not installed
    # All kernels in one call, as `inv resolve` does it: with an empty cache, then a full one.
    run_cold_s: float
    run_kept_s: float

    @property
    def cold_per_100_s(self) -> float:
        return self.run_cold_s * _KERNELS / self.kernels

    @property
    def kept_per_100_s(self) -> float:
        return self.run_kept_s * _KERNELS / self.kernels

    @property
    def good(self) -> bool:
        """Whether all goals are met; a rival that is not there is no goal."""
        rival = not self.bpftool_s or (
            statistics.median(self.kept_s) <= statistics.median(self.bpftool_s)
        )
        return rival and self.cold_per_100_s < GOAL_COLD_S and self.kept_per_100_s < GOAL_KEPT_S


def measure(path: Path, kernels: Sequence[KernelFile], *, rounds: int = 1) -> ResolveBench:
    """Measure one object on these kernels, in directories of our own."""
    if not kernels:
        raise HarnessError("no BTF to measure on", hint="name files or a directory of them")
    bpftool = process.which("bpftool")
    new, indexed, kept, rival = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-resolve-") as name:
        place = Path(name)
        raw = [_raw(kernel, place / f"{number}.btf") for number, kernel in enumerate(kernels)]
        fresh = _copy(path, place / "other.o")
        for turn in range(rounds):
            for number, kernel in enumerate(raw):
                cache = place / f"cache-{turn}-{number}"
                new.append(_timed(path, [kernel], cache))
                kept.append(_timed(path, [kernel], cache))
                indexed.append(_timed(fresh, [kernel], cache))
                if bpftool is not None:
                    rival.append(_rival(bpftool, kernel.btf, path, place / "min.btf"))
                shutil.rmtree(cache)
        cold = _timed(path, raw, place / "cache")
        warm = _timed(path, raw, place / "cache")
    return ResolveBench(
        path=str(path),
        relocations=len(BpfObject.from_file(path).ext.relocations),
        kernels=len(kernels),
        new_s=tuple(new),
        indexed_s=tuple(indexed),
        kept_s=tuple(kept),
        bpftool_s=tuple(rival),
        run_cold_s=cold,
        run_kept_s=warm,
    )


def render(bench: ResolveBench) -> str:
    """The figures as a table."""
    rows = [
        ("ours, nothing known", bench.new_s),
        ("ours, index in the cache", bench.indexed_s),
        ("ours, result in the cache", bench.kept_s),
        ("bpftool gen min_core_btf", bench.bpftool_s),
    ]
    table = tabulate(
        [
            (what, f"{statistics.median(times) * 1e3:.1f}", f"{max(times) * 1e3:.1f}")
            if times
            else (what, "not installed", "")
            for what, times in rows
        ],
        headers=("per kernel", "median ms", "most ms"),
        tablefmt="plain",
    )
    return (
        f"{bench.path}: {bench.relocations} relocations on {bench.kernels} kernels\n{table}\n"
        f"all in one call: {bench.run_cold_s:.2f} s with an empty cache, "
        f"{bench.run_kept_s:.2f} s with a full one "
        f"(for {_KERNELS} kernels {bench.cold_per_100_s:.1f} s, goal {GOAL_COLD_S:g}; "
        f"{bench.kept_per_100_s:.2f} s, goal {GOAL_KEPT_S:g})\n"
    )


def _timed(path: Path, kernels: Sequence[KernelFile], cache: Path) -> float:
    start = time.perf_counter()
    resolve.resolve_many([path], kernels, cache_dir=cache)
    return time.perf_counter() - start


def _rival(bpftool: Path, btf: Path, path: Path, out: Path) -> float:
    argv: list[str | Path] = [bpftool, "gen", "min_core_btf", btf, out, path]
    start = time.perf_counter()
    process.run(argv, timeout_s=_TIMEOUT_S, check=False)
    return time.perf_counter() - start


def _raw(kernel: KernelFile, to: Path) -> KernelFile:
    """bpftool wants a raw file; both get the same."""
    to.write_bytes(read_btf_bytes(kernel.btf))
    return KernelFile(name=kernel.name, btf=to)


def _copy(path: Path, to: Path) -> Path:
    """The same object to a resolver, another one to a cache: a byte longer."""
    to.write_bytes(path.read_bytes() + b"\0")
    return to
