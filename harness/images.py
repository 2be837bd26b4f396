# SPDX-License-Identifier: Apache-2.0
"""The images of kernel containers, `kernel-test:<name>`, made through the Docker engine.

No registry is asked: the base image is imported from the base root, the rest are layers upon it, in
the order of how many kernels share them. An image carries a digest of all it was made from, so
that one that is up to date costs a look, and a stale one is seen.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import logging
import os
import re
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import docker
import docker.errors
from docker.models.images import Image as DockerImage

from harness import baseroot, container, engine_stream, process
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.errors import HarnessError
from harness.kernel_container import engine
from harness.supply.files import KernelFiles

logger = logging.getLogger(__name__)

REPOSITORY = "kernel-test"
BASE_REPOSITORY = "kernel-matrix-base"
BASE_IMAGE_SETTING = "KERNEL_MATRIX_BASE_IMAGE"
RECIPE_LABEL = "kernel-matrix.recipe"  # digest of everything but the kernel
KERNEL_LABEL = "kernel-matrix.vmlinuz"  # sha256
RELEASE_LABEL = "kernel-matrix.release"
NAME_LABEL = "kernel-matrix.name"
# What runs inside: `harness.container` and all it imports, standard library apart (tested).
MODULES = (
    "__init__", "confine", "console", "container", "cputime", "errors", "guest", "initramfs",
    "place", "process", "qemu", "session", "source_tree", "vm",
)  # fmt: skip

_MAIN = """\
import sys
from harness.container import main
sys.exit(main())
"""
# Checks the base, and leaves the byte code of every module: a read-only container cannot.
_WARM = f"import sys; sys.path.insert(0, '{container.HOME}'); from harness.container import check; check()"
_DOCKERFILE = f"""\
FROM {{base}}
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY base.cpio {container.BASE}
COPY harness {container.HOME}
RUN ["/usr/bin/python3", "-I", "-S", "-c", "{_WARM}"]
ENTRYPOINT ["/usr/bin/python3", "-I", "-S", "{container.HOME}"]
COPY vmlinuz {container.VMLINUZ}
LABEL {RECIPE_LABEL}="{{recipe}}" {KERNEL_LABEL}="{{kernel}}"
LABEL {NAME_LABEL}="{{name}}" {RELEASE_LABEL}="{{release}}"
"""
_NO_COMMAND = "#(nop)"  # how the engine's builder words a step that runs nothing
_CHUNK_BYTES = 1 << 20
_YOUNG_S = 300.0
_ENGINE_TIMEOUT_S = 600  # an import of the base on a slow disk


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelImage:
    """One kernel container's image, as the engine has it."""

    name: str  # the tag: "5.10-oldest"
    release: str  # what `uname -r` prints in it
    size_bytes: int  # with the base, which all of them share
    up_to_date: bool


def ensure_image(
    files: KernelFiles, root: BaseRoot, cache: Cache, on_progress: Callable[[str], None]
) -> str:
    """The tag of the kernel's image, which is built unless it is there and up to date.

    Raises HarnessError when no engine answers or it refuses. Two processes do not build the same.
    """
    tag = f"{REPOSITORY}:{files.name}"
    archive = baseroot.guest_archive(root, cache, on_progress)
    with _client() as client, _engine_errors(f"'{tag}'"):
        base, base_id = _named_base(client, root)
        recipe = recipe_digest(base_id, archive.parent.name)
        wanted = {RECIPE_LABEL: recipe, KERNEL_LABEL: files.sha256}
        if not _is_current(_find(client, tag), wanted):
            with cache.locked(f"image-{files.name}"):
                old = _find(client, tag)
                if not _is_current(old, wanted):
                    if base_id == base:  # ours, not a person's
                        _ensure_base(client, base, root, cache, on_progress)
                    on_progress(f"building the kernel container {tag}")
                    _build(client, tag, files, archive, base, recipe)
                    _alias(client, files)  # first, or the old one still has a name
                    if old is not None:
                        _remove_untagged(client, old)
        _alias(client, files)
    return tag


def list_images(
    root: BaseRoot, cache: Cache, kernels: Mapping[str, str] | None = None
) -> list[KernelImage]:
    """Every kernel container's image, by name. kernels: name -> sha256 that vmlinuz should have."""
    archive = baseroot.guest_archive(root, cache, lambda text: None)
    with _client() as client, _engine_errors("the images"):
        recipe = recipe_digest(_named_base(client, root)[1], archive.parent.name)
        return sorted(
            (
                KernelImage(
                    name=name,
                    release=image.labels.get(RELEASE_LABEL, ""),
                    size_bytes=int(image.attrs.get("Size", 0)),
                    up_to_date=image.labels.get(RECIPE_LABEL) == recipe
                    and (kernels or {}).get(name) in (None, image.labels.get(KERNEL_LABEL)),
                )
                for image in client.images.list(REPOSITORY, filters={"label": RECIPE_LABEL})
                if (name := image.labels.get(NAME_LABEL, ""))
            ),
            key=lambda found: found.name,
        )


def remove_images() -> list[str]:
    """Remove every image of ours that no container uses, the bases too; their tags."""
    removed: list[str] = []
    with _client() as client, _engine_errors("the images"):
        for repository in (REPOSITORY, BASE_REPOSITORY):
            for image in client.images.list(repository, filters={"label": RECIPE_LABEL}):
                for name in _names(image, repository):
                    try:
                        client.images.remove(f"{repository}:{name}")
                    except docker.errors.APIError as error:
                        logger.warning("%s:%s stays: %s", repository, name, error.explanation)
                    else:
                        removed.append(f"{repository}:{name}")
    return removed


def remove_half_made() -> int:
    """Remove what builds that were broken off left in the engine, and images replaced; how many.

    A build that goes on names its last step within seconds: what is that young may be its.
    """
    client = engine()
    if client is None:
        return 0
    removed = 0
    with contextlib.closing(client), contextlib.suppress(*engine_stream.GONE):
        _remove_builders(client)
        for image in client.images.list(filters={"dangling": True, "label": RECIPE_LABEL}):
            if _is_old(image.attrs.get("Created")):
                with contextlib.suppress(docker.errors.APIError):
                    client.images.remove(str(image.id))
                    removed += 1
    return removed


def _remove_builders(client: docker.DockerClient) -> None:
    """Containers of builds in which the engine was killed: it does not know them for its own."""
    for built in client.containers.list(
        all=True, filters={"label": RECIPE_LABEL}, ignore_removed=True
    ):
        # Guests, and what a person runs of our images, have commands of their own.
        words = built.attrs.get("Config", {}).get("Cmd") or []
        ours = any(word == _WARM or word.startswith(_NO_COMMAND) for word in words)
        if ours and _is_old(built.attrs.get("Created")):
            with contextlib.suppress(docker.errors.APIError):
                built.remove(force=True, v=True)


def _is_old(created: object) -> bool:
    try:
        # Nanoseconds are more digits than datetime reads.
        made = datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", str(created)))
        return (datetime.datetime.now(datetime.UTC) - made).total_seconds() > _YOUNG_S
    except (ValueError, TypeError):
        return False


def recipe_digest(base: str, guest_key: str) -> str:
    """A digest of everything in an image but its kernel."""
    digest = hashlib.sha256(repr((base, guest_key, _DOCKERFILE, _MAIN)).encode())
    for name in MODULES:
        digest.update(_module(name).read_bytes())
    return digest.hexdigest()[:20]


def build_context(files: KernelFiles, archive: Path, dockerfile: str, stream: IO[bytes]) -> None:
    """Write the tar that the engine builds the kernel's image from."""
    with tarfile.open(fileobj=stream, mode="w") as tar:
        _add_bytes(tar, "Dockerfile", dockerfile.encode())
        _add_bytes(tar, "harness/__main__.py", _MAIN.encode())
        for name in MODULES:
            _add_bytes(tar, f"harness/harness/{name}.py", _module(name).read_bytes())
        for name, path in (("base.cpio", archive), ("vmlinuz", files.vmlinuz)):
            with path.open("rb") as file:
                info = tarfile.TarInfo(name)
                info.size = path.stat().st_size
                info.mode = 0o644
                tar.addfile(info, file)


def root_archive(root: Path, stream: IO[bytes]) -> None:
    """Write the base root as a tar: everything root's, nothing setuid."""

    def ours(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if info.name == "./.manifest":  # the cache's
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mode = 0o755 if info.name == "." else info.mode & 0o1777
        return info

    with tarfile.open(fileobj=stream, mode="w|") as tar:
        tar.add(root, arcname=".", filter=ours)


def _named_base(client: docker.DockerClient, root: BaseRoot) -> tuple[str, str]:
    """(what FROM says, what identifies it) of the base; the same word for our own."""
    named = os.environ.get(BASE_IMAGE_SETTING)
    if not named or root.arch is not baseroot.NATIVE:  # a person's has the QEMU for our own only
        ours = f"{BASE_REPOSITORY}:{root.directory.name}"
        return ours, ours
    image = _find(client, named)
    if image is None or image.id is None:
        raise HarnessError(
            f"the engine has no image '{named}', which {BASE_IMAGE_SETTING} names",
            hint=f"docker pull or docker load it, or unset {BASE_IMAGE_SETTING}",
        )
    return named, image.id


def _ensure_base(
    client: docker.DockerClient,
    tag: str,
    root: BaseRoot,
    cache: Cache,
    on_progress: Callable[[str], None],
) -> None:
    if _find(client, tag) is not None:
        return
    with cache.locked("image-base"):
        if _find(client, tag) is not None:
            return
        on_progress(f"importing the base image {tag}")
        repository, _, version = tag.partition(":")
        with _written(lambda stream: root_archive(root.directory, stream)) as stream:
            client.api.import_image_from_data(
                _until_told(stream), repository=repository, tag=version,
                changes=[f"LABEL {RECIPE_LABEL}=base"],
            )  # fmt: skip


def _build(
    client: docker.DockerClient,
    tag: str,
    files: KernelFiles,
    archive: Path,
    base: str,
    recipe: str,
) -> None:
    dockerfile = _DOCKERFILE.format(
        base=base, recipe=recipe, kernel=files.sha256, name=files.name, release=files.release
    )
    with tempfile.TemporaryFile() as context:
        build_context(files, archive, dockerfile, context)
        context.seek(0)
        said: list[str] = []
        for step in engine_stream.pieces(
            lambda: client.api.build(
                fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, pull=False,
                network_mode="none", decode=True,
            ),
            silent_s=_ENGINE_TIMEOUT_S,
        ):  # fmt: skip
            said.append(str(step.get("stream", "")))
            if "error" in step:
                tail = "".join(said).strip()[-600:]
                raise HarnessError(f"cannot build '{tag}': {step['error']}: {tail}")


def _until_told(stream: IO[bytes]) -> Iterator[bytes]:
    """What the stream has; told to end, we break off, and the engine keeps nothing of it."""
    while chunk := stream.read(_CHUNK_BYTES):
        process.raise_if_stopping()
        yield chunk


@contextlib.contextmanager
def _written(write: Callable[[IO[bytes]], None]) -> Iterator[IO[bytes]]:
    """A stream of what `write` writes meanwhile, in a thread of its own."""
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def fill() -> None:
        try:
            with os.fdopen(writer, "wb") as stream:
                write(stream)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=fill, name="image-tar", daemon=True)
    try:
        with os.fdopen(reader, "rb") as stream:
            thread.start()
            yield stream
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _alias(client: docker.DockerClient, files: KernelFiles) -> None:
    """A series by itself means its newest release."""
    if files.name != f"{files.series}-newest":
        return
    image = _find(client, f"{REPOSITORY}:{files.name}")
    if image is not None and files.series not in _names(image, REPOSITORY):
        image.tag(REPOSITORY, files.series)


def _is_current(image: DockerImage | None, wanted: Mapping[str, str]) -> bool:
    return image is not None and all(image.labels.get(k) == v for k, v in wanted.items())


def _find(client: docker.DockerClient, name: str) -> DockerImage | None:
    try:
        return client.images.get(name)
    except docker.errors.ImageNotFound:
        return None


def _names(image: DockerImage, repository: str) -> Sequence[str]:
    return [tag.rpartition(":")[2] for tag in image.tags if tag.rpartition(":")[0] == repository]


def _remove_untagged(client: docker.DockerClient, image: DockerImage) -> None:
    """An image that has been replaced; a container that still runs it keeps it."""
    with contextlib.suppress(docker.errors.APIError):
        image.reload()
        if not image.tags:
            client.images.remove(str(image.id))


def _module(name: str) -> Path:
    return Path(__file__).parent / f"{name}.py"


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(content))


@contextlib.contextmanager
def _client() -> Iterator[docker.DockerClient]:
    client = engine()
    if client is None:
        raise HarnessError(
            "no Docker engine answers", hint="start one, or use the local backend: --backend local"
        )
    client.api.timeout = _ENGINE_TIMEOUT_S
    with contextlib.closing(client):
        yield client


@contextlib.contextmanager
def _engine_errors(what: str) -> Iterator[None]:
    def refuse(why: str, error: Exception) -> NoReturn:
        raise HarnessError(f"the Docker engine failed at {what}: {why}") from error

    try:
        yield
    except docker.errors.APIError as error:
        refuse(error.explanation or str(error), error)
    except engine_stream.GONE as error:
        refuse(str(error), error)
