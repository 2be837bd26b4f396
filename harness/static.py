# SPDX-License-Identifier: Apache-2.0
"""What needs no boot: which objects and which kernels' types `inv resolve` brings together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import inventory, prediction, resolve, supply
from harness.btf.table import KernelFile, ResolveReport
from harness.cache import Cache
from harness.errors import UnavailableError, UsageError
from harness.progress import Listener, Note, Phase
from harness.supply import KernelFiles

KERNELS = "kernels"  # --btf kernels: those of the catalogue


def objects(words: str) -> list[Path]:
    """Objects named with commas between, each a file or a directory of `*.o`."""
    found: list[Path] = []
    for word in filter(None, words.split(",")):
        path = Path(word)
        if path.is_dir():
            found += sorted(path.glob("*.o"))
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"no object '{word}'", hint="give a .bpf.o or a directory of them")
    if not found:
        raise UsageError(f"no object in '{words}'", hint="give a .bpf.o or a directory of them")
    return found


def resolve_here(
    paths: Sequence[Path], kernels: Sequence[KernelFile], cache: Cache
) -> ResolveReport:
    """Resolve with the indexes of our cache; UsageError when nothing given can be read."""
    found = resolve.resolve_many(paths, kernels, cache_dir=cache.directory(prediction.INDEX_DIR))
    readable = [one for one in found.objects if not one.failure]
    failures = [column.failure for one in readable for column in one.columns]
    if not readable:
        raise UsageError(found.objects[0].failure, hint="give an object made by clang -target bpf")
    if all(failures):
        raise UsageError(failures[0], hint="give BTF: raw, or the .BTF of an ELF file")
    return found


def bring_together(
    places: Sequence[str],
    kernel_dirs: Sequence[str],
    cache: Cache,
    emit: Listener,
    *,
    kernels: str,
    arch: str,
) -> list[KernelFile]:
    """The types of every kernel asked for; a kernel that cannot be had is said and left out."""
    files = [place for place in places if place != KERNELS]
    for place in files:
        if not Path(place).exists():
            raise UsageError(f"no BTF '{place}'", hint="give a BTF file, a directory or kernels")
    found = list(resolve.kernel_files(Path(place) for place in files))
    given = [supply.from_directory(Path(name), cache=cache) for name in kernel_dirs]
    if KERNELS in places or kernels or not (files or given):
        given += _of_catalogue(kernels or "all", arch, cache, emit)
    for one in given:
        types = prediction.types_of(one, cache)
        if types is None:
            emit(Note(text=f"{one.name}: no BTF, neither its own nor a detached one"))
        else:
            found.append(types.kernel)
    if not found:
        raise UsageError("no BTF to resolve against", hint="--btf FILE, DIRECTORY or kernels")
    return found


def _of_catalogue(words: str, arch: str, cache: Cache, emit: Listener) -> list[KernelFiles]:
    lock = inventory.load_lock()
    found: list[KernelFiles] = []
    for kernel in inventory.chosen(words, arch):

        def say(text: str, name: str = kernel.name) -> None:
            emit(Phase(kernel=name, phase="fetch", detail=text))

        try:
            found.append(supply.obtain(kernel, cache=cache, lock=lock, on_progress=say))
        except UnavailableError as error:
            emit(Note(text=f"unavailable: {error.message}"))
    return found
