# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import json
import os
import sys
import tarfile
import threading
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import pytest
import zstandard

from harness import kernel_container, process
from harness.cache import Cache
from harness.catalogue import Btf, Kernel, OciSource, Pick, Tier
from harness.errors import UnavailableError
from harness.process import InterruptedHarnessError
from harness.supply import KernelFiles, obtain, resolve_lock
from tests.container.dying_engine import DyingEngine, End, dying_engine
from tests.supply import images

RELEASE = "6.6.1"
IMAGE = images.bzimage(RELEASE, images.vmlinux(RELEASE, with_btf=images.btf(), pad=3000))


def layer(files: dict[str, bytes], *links: tuple[str, str]) -> bytes:
    members = [(tarfile.TarInfo(name), content) for name, content in files.items()]
    for name, target in links:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        members.append((info, b""))
    return images.tar(members)


class Layout:
    """A directory in OCI layout (opencontainers image-spec, image-layout.md)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "blobs" / "sha256" / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def manifest(self, *layers: bytes) -> dict[str, object]:
        manifest = {"schemaVersion": 2, "layers": [self.blob(content) for content in layers]}
        return self.blob(json.dumps(manifest).encode())

    def index(self, *manifests: dict[str, object]) -> None:
        (self.root / "index.json").write_text(json.dumps({"manifests": manifests}))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def kernel(image: str | Path, arch: str = "x86_64") -> Kernel:
    return Kernel(
        name="6.6-newest", series="6.6", pick=Pick.NEWEST, arch=arch, tier=Tier.LTS,
        sources=(OciSource(image=str(image), pick=None),), snapshot_url="http://127.0.0.1:9",
        btf=Btf.BUILT_IN, absent=frozenset(),
    )  # fmt: skip


def taken(wanted: Kernel, tmp_path: Path) -> KernelFiles:
    return obtain(wanted, cache=Cache(root=tmp_path / "cache"), lock=None)


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(bytes, id="tar"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda data: zstandard.ZstdCompressor().compress(data), id="zstd"),
    ],
)
def test_a_layout_s_kernel_is_read_from_any_layer(
    layout: Layout, tmp_path: Path, pack: object
) -> None:
    """The link /boot/vmlinuz is not followed; what it points at is a file as well."""
    assert callable(pack)
    low = layer({"boot/vmlinuz-6.6.1": b"overridden", "boot/config-6.6.1": b"C\n"})
    high = layer({"boot/vmlinuz-6.6.1": IMAGE}, ("boot/vmlinuz", "/etc/passwd"))
    layout.index(layout.manifest(pack(low), pack(high)))

    found = taken(kernel(layout.root), tmp_path)

    assert found.release == RELEASE
    assert found.vmlinuz.read_bytes() == IMAGE
    assert found.btf is not None
    assert str(layout.root) in found.source


def test_the_architecture_chooses_the_manifest(layout: Layout, tmp_path: Path) -> None:
    """Images for several are one index."""
    arm = images.arm64_image("6.6.2", with_btf=images.btf())
    amd64 = layout.manifest(layer({"boot/vmlinuz": IMAGE})) | {
        "platform": {"architecture": "amd64"}
    }
    arm64 = layout.manifest(layer({"boot/vmlinuz": arm})) | {"platform": {"architecture": "arm64"}}
    nested = layout.blob(json.dumps({"manifests": [amd64, arm64]}).encode())
    layout.index(nested)

    assert taken(kernel(layout.root), tmp_path).release == RELEASE
    assert taken(kernel(layout.root, arch="arm64"), tmp_path).release == "6.6.2"


def test_an_image_for_another_machine_is_unavailable(layout: Layout, tmp_path: Path) -> None:
    """QEMU would only hang."""
    layout.index(layout.manifest(layer({"boot/vmlinuz": IMAGE})))

    with pytest.raises(UnavailableError, match="x86_64, not arm64"):
        taken(kernel(layout.root, arch="arm64"), tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param({"etc/passwd": b""}, "holds no /boot/vmlinuz", id="no-kernel"),
        pytest.param({"boot/vmlinuz": b"text" * 2000}, "no kernel image", id="no-image"),
        pytest.param({"../boot/vmlinuz": IMAGE}, "holds no /boot/vmlinuz", id="outside"),
    ],
)
def test_an_image_without_a_kernel_is_unavailable(
    layout: Layout, tmp_path: Path, content: dict[str, bytes], says: str
) -> None:
    """The reason tells what to put there."""
    layout.index(layout.manifest(layer(content)))

    with pytest.raises(UnavailableError, match=says):
        taken(kernel(layout.root), tmp_path)


def _damage_blob(layout: Layout) -> None:
    largest = max((layout.root / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(_damage_blob, "damaged", id="blob"),
        pytest.param(lambda layout: layout.index(), "no manifest", id="empty"),
        pytest.param(
            lambda layout: layout.index({"digest": "sha256:../../x"}), "no sha256", id="digest"
        ),
        pytest.param(
            lambda layout: layout.index({"digest": "sha256:" + "0" * 64}), "readable", id="absent"
        ),
        pytest.param(lambda layout: layout.index({}), "digest", id="no-digest"),
        pytest.param(
            lambda layout: (layout.root / "index.json").write_text("[1]"), "JSON object", id="list"
        ),
        pytest.param(
            lambda layout: (layout.root / "index.json").write_text("{"), "readable", id="half"
        ),
    ],
)
def test_a_damaged_layout_is_unavailable(
    layout: Layout, tmp_path: Path, harm: object, says: str
) -> None:
    """Every blob is verified by the digest that names it, and names no path."""
    assert callable(harm)
    layout.index(layout.manifest(layer({"boot/vmlinuz": IMAGE})))
    harm(layout)

    with pytest.raises(UnavailableError, match=says):
        taken(kernel(layout.root), tmp_path)


@contextlib.contextmanager
def sockets_of_the_sdk() -> Iterator[None]:
    """The SDK leaves a socket unclosed when nobody answers; collect it here, in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()


def test_without_an_engine_an_image_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said in a moment: the run goes on with other kernels."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    with sockets_of_the_sdk(), pytest.raises(UnavailableError, match="no container engine"):
        taken(kernel(f"example.org/kernel:{uuid.uuid4().hex}"), tmp_path)


@pytest.fixture
def engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[DyingEngine]:
    """One that has no image and begins to pull each."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'engine'}")
    with sockets_of_the_sdk(), dying_engine(tmp_path, request.param) as begun:
        yield begun


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (End.HALF_A_CHUNK, r"image '[^']*': .*IncompleteRead"),
        (End.HALF_A_LINE, r"image '[^']*': \S"),
        (End.REFUSAL, r"image '[^']*': no space left on device$"),
    ],
    indirect=["engine"],
)
def test_an_engine_that_dies_in_a_pull_costs_that_image(
    engine: DyingEngine, tmp_path: Path, says: str
) -> None:
    """Other kernels of the run are had from elsewhere."""
    with pytest.raises(UnavailableError, match=says):
        taken(kernel(f"example.org/kernel:{uuid.uuid4().hex}"), tmp_path)

    assert engine.begun.is_set()


@pytest.mark.parametrize("engine", [End.SILENCE], indirect=True)
def test_a_pull_does_not_outlive_an_interrupt(
    engine: DyingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry may take hours: nobody can interrupt the SDK while it reads."""
    monkeypatch.setattr(process, "_stopping", threading.Event())
    with ThreadPoolExecutor(max_workers=1) as pool:
        wanted = pool.submit(taken, kernel(f"example.org/kernel:{uuid.uuid4().hex}"), tmp_path)
        assert engine.begun.wait(20)
        process.stop()
        told = wanted.exception(5)

    assert isinstance(told, InterruptedHarnessError)


@pytest.fixture
def imported() -> Iterator[str]:
    """An image with a kernel in the engine of this machine."""
    with sockets_of_the_sdk():
        try:
            client = docker.from_env(timeout=20)
            client.ping()
        except (docker.errors.DockerException, OSError) as error:
            pytest.skip(f"no container engine: {error}")
    name = f"kernel-matrix-test-{uuid.uuid4().hex[:12]}"
    content = layer({"boot/vmlinuz-6.6.1": IMAGE, "boot/config-6.6.1": b"C\n"})
    with contextlib.closing(client):
        client.api.import_image_from_data(content, repository=name, tag="1")
        try:
            yield f"{name}:1"
        finally:
            client.images.remove(f"{name}:1", force=True)


def test_an_engine_s_image_is_read_without_running_it(imported: str, tmp_path: Path) -> None:
    """It may hold no program at all."""
    found = taken(kernel(imported), tmp_path)

    assert found.release == RELEASE
    assert found.config is not None
    with contextlib.closing(docker.from_env()) as client:
        left = client.containers.list(all=True, filters={"ancestor": imported})
    assert left == []


_READS_FOR_EVER = """
import sys, time
from pathlib import Path
from harness.cache import Cache
from harness.supply import oci

def extract(*words):
    print("reads", flush=True)
    time.sleep(600)

oci._extract = extract
oci.obtain("6.6-newest", sys.argv[1], "x86_64", Cache(root=Path(sys.argv[2])), print)
"""


def test_the_container_of_a_harness_that_was_killed_goes_with_the_next_start(
    imported: str, tmp_path: Path
) -> None:
    """It was created to be read, and nobody else would know whose it is."""
    reader, writer = os.pipe()
    with (
        contextlib.closing(docker.from_env()) as client,
        os.fdopen(reader, "rb") as said,
        os.fdopen(writer, "wb") as stdout,
        process.held(
            [sys.executable, "-c", _READS_FOR_EVER, imported, tmp_path / "cache"], stdout=stdout
        ) as child,
    ):
        assert said.readline() == b"reads\n"
        (held,) = client.containers.list(all=True, filters={"ancestor": imported})
        kernel_container.remove_orphans()
        held.reload()  # its harness lives
        child.kill()
        child.wait()

        kernel_container.remove_orphans()

        assert client.containers.list(all=True, filters={"ancestor": imported}) == []


def test_an_image_without_a_digest_is_not_locked(imported: str, tmp_path: Path) -> None:
    """A tag of this machine means nothing on another."""
    report = resolve_lock(
        [kernel(imported)], tmp_path / "kernels.lock", cache=Cache(root=tmp_path / "cache")
    )

    assert report.changed == ()
    assert "no digest" in dict(report.unavailable)["6.6-newest"]
