# SPDX-License-Identifier: Apache-2.0
"""What a cell's answers depend on, as digests by name: the same inputs should give the same answers.

They tell whether a finished cell still holds (`journal`), and whether two answers that differ are a
flaky check (`flaky`). The machine's load and its accelerator are no inputs: nobody chooses them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import msgspec

from harness.cache import sha256_of
from harness.results import KernelFacts
from harness.sitting import Bench
from harness.subject import Subject
from harness.supply import KernelFiles

_CHARS = 16  # of a digest: nobody forges these
# What draws results changes no answer; catalogue and observer have digests of their own.
_NO_INPUT = ("__pycache__", "data", "reporting")


def of_run(bench: Bench) -> dict[str, str]:
    """What all cells of a run share."""
    request = bench.request
    machine = request.machine
    return {
        "harness": _digest([metadata.version("kernel-matrix"), _sources()]),
        "subject": of_subject(bench.built.subject, bench.libraries),
        "checks": _digest(check.name for check in request.checks),
        "guest": _digest([bench.root.directory.name, bench.guest_archive.parent.name,
                          bench.qemu_version]),
        "machine": _digest([bench.backend, str(machine.vcpus), str(machine.memory_mib),
                            str(request.boot_timeout_s)]),
        "command line": _digest(request.append),
    }  # fmt: skip


def of_cell(
    shared: Mapping[str, str], facts: KernelFacts, files: KernelFiles | None
) -> dict[str, str]:
    """Those of one kernel's cell; one without files has none, for it cannot be asked."""
    if files is None:
        return {}
    beside = [path for path in (files.btf, files.config, files.system_map) if path is not None]
    kernel = [facts.name, facts.arch, facts.sha256, *map(_file, beside)]
    return {**shared, "kernel": _digest(kernel)}


def of_subject(subject: Subject, libraries: Mapping[str, Path]) -> str:
    """Of its object, its manifest but for the quarantine, and every file that is carried."""
    manifest = msgspec.structs.replace(subject.manifest, quarantine=())
    words = [msgspec.json.encode(manifest, order="sorted").decode()]
    files = [*subject.carried, *([subject.baseline] if subject.baseline else [])]
    for path in files:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        words += [f"{one.relative_to(path.parent)} {_file(one)}" for one in below]
    words += [f"{inside} {_file(path)}" for inside, path in sorted(libraries.items())]
    return _digest(words)


@functools.cache
def _sources() -> str:
    """The harness itself: its commit does not tell what was changed since."""
    here = Path(__file__).parent
    files = (path for path in sorted(here.rglob("*")) if path.is_file())
    return _digest(
        f"{path.relative_to(here)} {sha256_of(path)}"
        for path in files
        if not set(path.relative_to(here).parts) & set(_NO_INPUT)
    )


def _file(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:_CHARS]
