# SPDX-License-Identifier: Apache-2.0
"""Whole runs with real guests: the request, what was said meanwhile, and what may not be left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import build, paths, process
from harness.build import Built
from harness.cache import Cache
from harness.checks import Check
from harness.supply import KernelFiles
from tests.vm.matrix import Matrix, leftovers, need_engine

_SOURCES = Path(__file__).parent / "src"
_INCLUDES = [f"-I{path}" for path in Path("/usr/include").glob("*-linux-gnu")]


@pytest.fixture(scope="session")
def observer(cache: Cache) -> Built:
    """Our own subject."""
    return build.from_manifest(paths.default_manifest(), cache, lambda text: None)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An object of a source beside these tests."""
    directory = tmp_path_factory.mktemp("objects")

    def make(name: str) -> Path:
        target = directory / f"{name}.bpf.o"
        if not target.exists():
            process.run(
                ["clang", "-target", "bpf", "-g", "-O2", "-Wall", "-Werror", *_INCLUDES,
                 "-c", _SOURCES / f"{name}.bpf.c", "-o", target],
                timeout_s=60,
            )  # fmt: skip
        return target

    return make


@pytest.fixture(params=["local", "docker"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both, where an engine answers."""
    name = str(request.param)
    if name == "docker":
        need_engine()
    return name


@pytest.fixture
def matrix(cache: Cache, observer: Built, tmp_path: Path) -> Iterator[Callable[..., Matrix]]:
    """Makes runs of the whole pipeline; afterwards nothing of them may be left."""

    def make(
        *kernels: KernelFiles,
        subject: Built | None = None,
        backend: str = "local",
        checks: tuple[Check, ...] = (),
        append: tuple[str, ...] = (),
        boot_timeout_s: float = 300.0,  # ten times what a busy machine needs
    ) -> Matrix:
        return Matrix(
            cache=cache, kernels=kernels, subject=subject or observer, backend=backend,
            checks=checks, append=append, boot_timeout_s=boot_timeout_s,
            report_dir=tmp_path / "report",
        )  # fmt: skip

    yield make
    assert leftovers(cache) == []
