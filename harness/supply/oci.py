# SPDX-License-Identifier: Apache-2.0
"""A kernel out of a container image that holds /boot/vmlinuz*: an OCI layout directory, or a
reference that the Docker engine has or can pull. Nothing of the image is ever run."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import re
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import zstandard

from harness import intake, place
from harness.cache import Cache
from harness.errors import HarnessError, UnavailableError
from harness.supply import bundle
from harness.supply.bundle import Progress
from harness.supply.deb import KERNEL_FILES, extract_tar
from harness.supply.files import VMLINUZ, KernelFiles

if TYPE_CHECKING:
    import docker

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ENGINE_TIMEOUT_S = 60
_PULL_SILENT_S = 300.0  # while bytes come, the engine tells of them several times a second
_MAX_JSON_BYTES = 4 << 20
_MAX_SPOOL_BYTES = 4 << 30
_MAX_LAYERS = 1000  # overlayfs takes 500
_failures: dict[str, str] = {}  # image -> why this process could not have it
_failed = threading.Lock()
_PLATFORM_ARCH = {"x86_64": "amd64", "arm64": "arm64"}
# Images keep kernels in /boot; Debian's own and bootc's in /usr/lib/modules.
_PLACES = ("/boot", "/usr/lib/modules")


def obtain(
    name: str, image: str, arch: str, cache: Cache, on_progress: Progress
) -> tuple[KernelFiles, str]:
    """The kernel in `image`, a directory in OCI layout or an image reference.

    Also returns the reference by digest that a lock can hold, "" for a directory.
    """
    try:
        layout = Path(image).expanduser()
    except RuntimeError as error:  # "~nobody"
        raise UnavailableError(f"image '{image}': {error}") from error
    if (layout / "oci-layout").is_file():
        found, pinned = _from_layout(name, layout, arch, cache, on_progress), ""
    else:
        with _failed:
            reason = _failures.get(image)
        if reason:
            raise UnavailableError(reason)
        try:
            found, pinned = _from_engine(name, image, arch, cache, on_progress)
        except UnavailableError as error:
            # A registry that hangs costs its time once, not once per kernel.
            with _failed:
                _failures[image] = error.message
            raise
    if found.arch != arch:
        raise UnavailableError(f"image '{image}' holds a kernel for {found.arch}, not {arch}")
    return replace(found, source=f"container image {pinned or image}"), pinned


def _from_engine(
    name: str, image: str, arch: str, cache: Cache, on_progress: Progress
) -> tuple[KernelFiles, str]:
    # The SDK takes a third of a second to load; most runs never need an image.
    import docker
    from docker.errors import ImageNotFound

    from harness import engine_stream

    gone = (*engine_stream.GONE, OSError)
    with contextlib.ExitStack() as undo:
        try:
            client = docker.from_env(timeout=_ENGINE_TIMEOUT_S)
            undo.callback(client.close)
            client.ping()
        except gone as error:
            raise UnavailableError(f"no container engine to pull '{image}' with") from error
        try:
            try:
                found = client.images.get(image)
            except ImageNotFound:
                on_progress(f"pulling {image}")
                _pull(client, image, arch)
                found = client.images.get(image)
            pinned = next(iter(found.attrs.get("RepoDigests") or []), "")

            def fill(directory: Path) -> None:
                _read(client, str(found.id), image, directory)
                _described(directory, image)

            directory = cache.entry("oci", _key(str(found.id)), fill)
        except gone as error:
            raise UnavailableError(f"image '{image}': {_short(error)}") from error
    return bundle.in_directory(name, directory, source=""), str(pinned)


def _pull(client: docker.DockerClient, image: str, arch: str) -> None:
    from harness import engine_stream

    for step in engine_stream.pieces(
        lambda: client.api.pull(
            image, platform=f"linux/{_PLATFORM_ARCH[arch]}", stream=True, decode=True
        ),
        silent_s=_PULL_SILENT_S,
    ):
        if "error" in step:
            raise UnavailableError(f"image '{image}': {_on_a_line(str(step['error']))}")


def _read(client: docker.DockerClient, identity: str, image: str, directory: Path) -> None:
    """The kernel's files out of an image that the engine has."""
    from docker.errors import NotFound

    from harness import engine_stream, kernel_container

    # Created, never started: it needs no command that exists. When we are killed, it goes with the
    # next start.
    container = client.containers.create(
        identity, command="/none", labels={kernel_container.OWNER_LABEL: place.owner()}
    )

    def archive(where: str) -> Iterator[bytes]:
        yield from container.get_archive(where)[0]

    try:
        for where in _PLACES:
            with contextlib.suppress(NotFound):
                chunks = engine_stream.pieces(
                    functools.partial(archive, where), silent_s=_ENGINE_TIMEOUT_S
                )
                prefix = where.lstrip("/").rpartition("/")[0]
                with _spooled(chunks, image) as stream:
                    _extract(stream, directory, image, prefix)
            if (directory / VMLINUZ).exists():
                break
    finally:
        container.remove(force=True)


def _from_layout(
    name: str, layout: Path, arch: str, cache: Cache, on_progress: Progress
) -> KernelFiles:
    try:
        digest, layers = _layers(layout, arch)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnavailableError(f"'{layout}' is no readable OCI layout: {error}") from error
    except intake.NoFileError as error:
        raise UnavailableError(f"'{layout}' is no readable OCI layout: {error.message}") from error

    def fill(directory: Path) -> None:
        on_progress(f"reading {layout}")
        # A later layer overrides an earlier one; the first match counts, so go from the top.
        for blob in reversed(layers):
            if (directory / VMLINUZ).exists():
                break
            with _layer(layout, blob) as stream:
                _extract(stream, directory, str(layout), "")
        _described(directory, str(layout))

    directory = cache.entry("oci", _key(digest), fill)
    return bundle.in_directory(name, directory, source="")


def _layers(layout: Path, arch: str) -> tuple[str, list[str]]:
    """The manifest's digest and its layers' (hex), following one level of nested indexes."""
    index = _json(layout / "index.json")
    for _ in range(3):
        manifests = index.get("manifests")
        if not isinstance(manifests, list) or not manifests:
            raise ValueError("its index names no manifest")
        chosen = next(
            (entry for entry in manifests if _platform(entry) == _PLATFORM_ARCH[arch]),
            manifests[0],
        )
        digest = _hex(chosen["digest"])
        index = _json(layout / "blobs" / "sha256" / digest, digest)
        if "layers" in index:
            layers = index["layers"]
            if not isinstance(layers, list):
                raise ValueError("its layers are no list")
            if len(layers) > _MAX_LAYERS:
                raise ValueError(f"it has {len(layers)} layers")
            return digest, [_hex(layer["digest"]) for layer in layers]
    raise ValueError("its indexes are nested too deeply")


def _platform(entry: dict[str, object]) -> str:
    platform = entry.get("platform")
    return str(platform.get("architecture", "")) if isinstance(platform, dict) else ""


def _json(path: Path, digest: str = "") -> dict[str, object]:
    """A JSON object, checked against its digest where that is known."""
    content = intake.content(path, most_bytes=_MAX_JSON_BYTES)
    if digest and hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"'{path}' is damaged: its sha256 is another")
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError(f"'{path.name}' is no JSON object")
    return value


def _hex(digest: object) -> str:
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"'{digest}' is no sha256 digest")
    return digest.removeprefix("sha256:")


@contextlib.contextmanager
def _layer(layout: Path, digest: str) -> Iterator[IO[bytes]]:
    """A layer's tar stream, decompressed by its magic; its bytes are those of the digest."""
    path = layout / "blobs" / "sha256" / digest
    with contextlib.ExitStack() as stack:
        try:
            file, _ = stack.enter_context(intake.opened(path, most_bytes=_MAX_SPOOL_BYTES))
        except intake.NoFileError as error:
            raise UnavailableError(f"a layer of '{layout}': {error.message}") from error
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise UnavailableError(f"'{path}' is damaged: its sha256 is {found}")
        file.seek(0)
        head = file.read(4)
        file.seek(0)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(file) as stream:
                yield stream  # type: ignore[misc]
        elif head == b"\x28\xb5\x2f\xfd":
            with zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(file) as zstd:
                yield zstd
        else:
            yield file


def _extract(stream: IO[bytes], directory: Path, what: str, prefix: str) -> None:
    wanted = {
        name: pattern for name, pattern in KERNEL_FILES.items() if not (directory / name).exists()
    }
    try:
        extract_tar(stream, directory, wanted, what=what, prefix=prefix)
    except (zlib.error, gzip.BadGzipFile, zstandard.ZstdError, HarnessError) as error:
        raise UnavailableError(f"'{what}' has a damaged layer: {error}") from error


def _described(directory: Path, what: str) -> None:
    if not (directory / VMLINUZ).exists():
        raise UnavailableError(f"image '{what}' holds no /boot/vmlinuz")
    try:
        bundle.describe(directory)
    except HarnessError as error:
        raise UnavailableError(f"image '{what}': {error.message}") from error


@contextlib.contextmanager
def _spooled(chunks: Iterable[bytes], what: str) -> Iterator[IO[bytes]]:
    """The engine's answer as a file: tarfile cannot read an iterator."""
    with tempfile.TemporaryFile() as file:
        for chunk in chunks:
            if file.tell() > _MAX_SPOOL_BYTES:
                raise UnavailableError(f"image '{what}' holds more than {file.tell()} bytes there")
            file.write(chunk)
        file.seek(0)
        yield file


def _key(digest: str) -> str:
    return digest.removeprefix("sha256:")[:32]


def _short(error: Exception) -> str:
    """The engine's message, which may be a page long, on one line."""
    return _on_a_line(str(getattr(error, "explanation", "") or error))


def _on_a_line(words: str) -> str:
    text = " ".join(words.split())
    return text if len(text) <= 300 else f"{text[:297]}..."
