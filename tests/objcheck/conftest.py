# SPDX-License-Identifier: Apache-2.0
"""objcheck and its test objects, built from source, and real guests to ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import baseroot, catalogue, initramfs, paths, process, rundir, supply, vm
from harness.cache import Cache
from harness.errors import UnavailableError
from harness.guest import AgentGuest
from harness.place import Local
from harness.qemu import Machine

_ROOT = Path(__file__).parents[2]
_SOURCES = Path(__file__).parent / "src"
_INCLUDES = [f"-I{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
GUEST_OBJECTS = "/objects"


@pytest.fixture(scope="session")
def objcheck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/usr/include/bpf/libbpf.h").exists():
        pytest.skip("needs libbpf-dev")
    out = tmp_path_factory.mktemp("guestbin")
    process.run(["make", "-C", _ROOT / "harness/guestbin", f"OUT={out}"], timeout_s=120)
    return out / "objcheck"


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every source compiled, with warnings as errors; the atomics need the newer instructions."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    out = tmp_path_factory.mktemp("objects")
    for source in sorted(_SOURCES.glob("*.bpf.c")):
        cpu = "v3" if source.name == "atomics.bpf.c" else "v2"
        process.run(
            ["clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", f"-mcpu={cpu}",
             *_INCLUDES, "-c", source, "-o", out / source.with_suffix(".o").name],
            timeout_s=60,
        )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, objcheck: Path, objects: Path) -> Iterator[AgentGuest]:
    """A booted guest of the catalogue's kernel `request.param`, with objcheck and the objects."""
    cache = Cache.default()
    directory = paths.catalogue_dir()
    known = {kernel.name: kernel for kernel in catalogue.load(directory).kernels}
    lock = supply.read_lock(directory / "kernels.lock")
    try:
        files = supply.obtain(known[request.param], cache=cache, lock=lock)
    except UnavailableError as error:
        pytest.skip(f"{request.param} cannot be had here: {error.message}")
    root = baseroot.obtain(cache, print)
    base = baseroot.guest_archive(root, cache, print)
    with rundir.run_directory(cache) as run_dir:
        archive, initrd = run_dir / "objects.cpio", run_dir / "initrd"
        initramfs.pack({"/usr/bin/objcheck": objcheck, GUEST_OBJECTS: objects}, archive)
        initramfs.concatenate([base, archive], initrd)
        where = Local(prefix=root.qemu_prefix, environment=root.environment)
        # One CPU: with two, emulated, 7.3.4 died once in an interrupt while fentry patched its text.
        with vm.booted(
            Machine(vcpus=1), vmlinuz=files.vmlinuz, initrd=initrd, where=where, run_dir=run_dir
        ) as booted:
            yield booted.guest
