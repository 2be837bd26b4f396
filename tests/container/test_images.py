# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import dataclasses
import io
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import harness
from harness import images, kernel_container
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.errors import HarnessError
from harness.supply import KernelFiles
from tests.conftest import NEWEST
from tests.container.dying_engine import End, dying_engine

PACKAGE = Path(harness.__file__).parent


@pytest.fixture
def files(tmp_path: Path) -> KernelFiles:
    vmlinuz = tmp_path / "vmlinuz"
    vmlinuz.write_bytes(b"kernel")
    return KernelFiles(
        name="5.10-newest", series="5.10", release="5.10.0-46", arch="x86_64", vmlinuz=vmlinuz,
        btf=None, btf_detached=False, config=None, system_map=None, source="test", sha256="ab",
    )  # fmt: skip


def imported(module: str) -> set[str]:
    """Every module that a module of ours names in an import, as a dotted path."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "harness":
            names |= {f"harness.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", images.MODULES)
def test_a_container_has_all_that_its_modules_import(module: str) -> None:
    """The image has no pip: an import of docker or filelock would end every container."""
    for name in imported(module):
        top, _, rest = name.partition(".")
        assert rest in images.MODULES if top == "harness" else top in sys.stdlib_module_names


def test_the_context_holds_kernel_archive_and_modules_readable_for_all(
    files: KernelFiles, tmp_path: Path
) -> None:
    """docker run --user 1234 reads them too."""
    (tmp_path / "base.cpio").write_bytes(b"archive")
    stream = io.BytesIO()

    images.build_context(files, tmp_path / "base.cpio", "FROM x\n", stream)

    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        members = {member.name: member for member in tar}
        vmlinuz = tar.extractfile("vmlinuz")
        assert vmlinuz is not None
        assert vmlinuz.read() == b"kernel"
    assert {
        "Dockerfile",
        "base.cpio",
        "harness/__main__.py",
        "harness/harness/container.py",
    } <= set(members)
    assert {member.mode for member in members.values()} == {0o644}


def test_the_root_s_archive_has_no_setuid_and_not_the_cache_s_manifest(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / ".manifest").touch()
    (root / "su").touch()
    (root / "su").chmod(0o4755)
    (root / "bin").symlink_to("usr/bin")
    stream = io.BytesIO()

    images.root_archive(root, stream)

    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        found = {m.name: (m.mode, m.uid) for m in tar if not m.issym()}
    assert found == {".": (0o755, 0), "./tmp": (0o1777, 0), "./su": (0o755, 0)}


def test_every_input_changes_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = [images.recipe_digest(*inputs) for inputs in (("a", "b"), ("a", "c"), ("b", "b"))]
    monkeypatch.setattr(images, "MODULES", images.MODULES[:-1])
    recipes.append(images.recipe_digest("a", "b"))

    assert len(set(recipes)) == len(recipes)
    assert recipes[-1] == images.recipe_digest("a", "b")


def test_no_engine_is_one_line_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")

    with pytest.raises(HarnessError, match="no Docker engine answers") as caught:
        images.remove_images()

    assert "--backend local" in caught.value.hint


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (End.HALF_A_CHUNK, "the Docker engine failed at 'kernel-test:x': .*IncompleteRead"),
        (End.HALF_A_LINE, "the Docker engine failed at 'kernel-test:x': "),
        (End.REFUSAL, "cannot build 'kernel-test:x': no space left"),
    ],
)
def test_an_engine_that_dies_in_a_build_is_trouble_as_any_other(
    files: KernelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: End, says: str
) -> None:
    """Any other exception than a HarnessError would have ended the run."""
    (tmp_path / "base.cpio").write_bytes(b"archive")
    with dying_engine(tmp_path, ending) as engine:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'engine'}")
        with (
            pytest.raises(HarnessError, match=says),
            images._client() as client,
            images._engine_errors("'kernel-test:x'"),
        ):
            images._build(client, "kernel-test:x", files, tmp_path / "base.cpio", "base", "recipe")

    assert engine.begun.is_set()


@pytest.mark.vm
def test_an_image_is_built_once_and_again_when_its_base_changes(
    image: Callable[[str], str], kernel: Callable[[str], KernelFiles], root: BaseRoot,
    cache: Cache, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An image that is up to date costs a look; one that is not must not give verdicts."""
    tag = image(NEWEST)
    said: list[str] = []
    started = time.monotonic()
    again = images.ensure_image(kernel(NEWEST), root, cache, said.append)
    took_s = time.monotonic() - started
    ours = dataclasses.replace(kernel(NEWEST), name="test-stale")
    client = kernel_container.engine()
    assert client is not None
    try:
        first = client.images.get(images.ensure_image(ours, root, cache, said.append)).id
        monkeypatch.setenv(
            images.BASE_IMAGE_SETTING, f"{images.BASE_REPOSITORY}:{root.directory.name}"
        )
        stale = {i.name: i.up_to_date for i in images.list_images(root, cache)}
        second = client.images.get(images.ensure_image(ours, root, cache, said.append)).id
        listed = {i.name: i for i in images.list_images(root, cache)}
    finally:
        client.images.remove(f"{images.REPOSITORY}:test-stale")
        client.close()

    assert (again, took_s < 2) == (tag, True)
    assert first != second
    assert not stale["test-stale"]
    assert listed["test-stale"].up_to_date
    assert listed["test-stale"].release == ours.release
    assert said == ["building the kernel container kernel-test:test-stale"] * 2


@pytest.mark.vm
def test_a_series_alone_means_its_newest_release(image: Callable[[str], str]) -> None:
    image(NEWEST)
    client = kernel_container.engine()
    assert client is not None
    try:
        assert (
            client.images.get("kernel-test:7.3").id
            == client.images.get("kernel-test:7.3-newest").id
        )
    finally:
        client.close()


@pytest.mark.vm
def test_a_named_base_that_the_engine_lacks_is_named(
    image: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is pulled behind the person's back."""
    monkeypatch.setenv(images.BASE_IMAGE_SETTING, "no-such-image:at-all")

    with pytest.raises(HarnessError, match="no image 'no-such-image:at-all'"):
        image(NEWEST)
