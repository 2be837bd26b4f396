# SPDX-License-Identifier: Apache-2.0
"""A cell on another machine: what is sent there, answered there, and brought back.

What goes into a guest is sent, so that every machine boots the very same archives; a worker needs no
compiler. The kernel is fetched by the lock's hash into the worker's own cache; one that no lock
holds is sent too. QEMU and its base root are the worker's own, made by the same recipe.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath

import msgspec
import zstandard

from harness import baseroot, cell, checks, kernel_container, results, rundir, supply
from harness.build import Built
from harness.cache import Cache
from harness.catalogue import Kernel
from harness.cell import Prepared
from harness.errors import HarnessError
from harness.lost import trouble_of
from harness.progress import Listener
from harness.qemu import Arch, Machine
from harness.results import Cause, Cell, CheckResult, KernelFacts, Verdict
from harness.sitting import Bench, Request, SharedAccelerator
from harness.subject import Manifest, Subject
from harness.supply import KernelFiles, Lock
from harness.supply.lock import LockedKernel
from harness.toolchain import NATIVE

_DESCRIPTION = "described.json"
_LARGEST = 8 << 20  # bytes of a file of evidence; of a larger one its end is sent
_LARGEST_ALL = 64 << 20  # of a cell's files together
_MOST_FILES = 500
_ZSTD_LEVEL = 6  # 24 MB of guest become 9 in 0.4 s


@dataclass(frozen=True, kw_only=True, slots=True)
class Luggage:
    """What is the same for every cell of a run."""

    asker: str  # `identity` of who asks
    guest: bytes  # archive of what every guest starts from: the same for many runs
    subject: bytes  # archive of the subject, and of what is asked of it


class _Described(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies in the two archives, and what is asked."""

    manifest: Manifest
    compile: CheckResult
    object: str
    loader: str
    files: tuple[str, ...]
    baseline: str
    compiler: str
    guest_archive: str
    objcheck: str
    libraries: dict[str, str]  # path in the guest → in the archive
    backend: str
    checks: tuple[str, ...]
    append: tuple[str, ...]
    machine: Machine
    boot_timeout_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """One kernel's cell, asked of another machine."""

    facts: KernelFacts  # as they are here: there it must be the same image
    predicted: CheckResult | None
    kernel: Kernel | None  # of the catalogue, with its entry of the lock: fetched by hash
    locked: LockedKernel | None
    carried: bytes = b""  # otherwise: the kernel's files
    described: KernelFiles | None = None  # what `carried` holds, paths in it


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """What comes back."""

    host: str
    cell: bytes  # JSON
    evidence: Mapping[str, bytes]  # path relative to the report's directory → content


@functools.cache
def identity() -> str:
    """Version and source of this harness: two that differ may judge differently."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".c", ".h", ".txt") and path.is_file():
            digest.update(f"{path.relative_to(package)}\n".encode())
            digest.update(path.read_bytes())
    return f"{metadata.version('kernel-matrix')} ({digest.hexdigest()[:12]})"


def pack(bench: Bench) -> Luggage:
    """What is the same for every cell of the run."""
    subject = bench.built.subject
    guest, own = _Archive(), _Archive()
    libraries = {
        inside: guest.add(path, f"library/{number}")
        for number, (inside, path) in enumerate(sorted(bench.libraries.items()))
    }
    baseline = subject.baseline if subject.baseline and subject.baseline.exists() else None
    described = _Described(
        manifest=subject.manifest,
        compile=bench.built.compile,
        object=own.add(subject.object, "subject"),
        loader=own.add(subject.loader, "subject"),
        files=tuple(own.add(path, "subject") for path in subject.files),
        baseline=own.add(baseline, "baseline"),
        compiler=subject.compiler,
        guest_archive=guest.add(bench.guest_archive, "guest"),
        objcheck=guest.add(bench.objcheck, "guest"),
        libraries=libraries,
        backend=bench.backend,
        checks=tuple(check.name for check in bench.request.checks),
        append=bench.request.append,
        machine=bench.request.machine,
        boot_timeout_s=bench.request.boot_timeout_s,
    )
    own.put(_DESCRIPTION, msgspec.json.encode(described))
    return Luggage(asker=identity(), guest=guest.finish(), subject=own.finish())


def errand(bench: Bench, item: Prepared, files: KernelFiles) -> Errand:
    """What is asked for one kernel, whose files are here."""
    kernel = next((one for one in bench.request.kernels if one.name == item.name), None)
    locked = bench.lock.get(item.name) if bench.lock else None
    if kernel is not None and locked is not None and locked.vmlinuz_sha256 == files.sha256:
        return Errand(facts=item.facts, predicted=item.predicted, kernel=kernel, locked=locked)
    archive = _Archive()
    described = replace(
        files,
        vmlinuz=Path(archive.add(files.vmlinuz, "vmlinuz")),
        btf=Path(archive.add(files.btf, "btf")) if files.btf else None,
        config=Path(archive.add(files.config, "config")) if files.config else None,
        system_map=None,  # no check reads it
    )
    return Errand(
        facts=item.facts, predicted=item.predicted, kernel=None, locked=None,
        carried=archive.finish(), described=described,
    )  # fmt: skip


def answer(
    luggage: Luggage, wanted: Errand, given_up: threading.Event, emit: Listener, *, guests: int = 0
) -> Brought:
    """On the worker: the cell and its evidence; whatever goes wrong is a verdict of the cell.

    given_up: set when nobody wants the cell any more. guests: how many this worker has at once,
    0: one for each core.
    """
    cache = Cache.default()
    _tidy(cache)
    with rundir.run_directory(cache) as scratch:
        report = scratch / "report"
        try:
            if luggage.asker != identity():
                raise HarnessError(
                    f"{socket.gethostname()} has harness {identity()}, the run is of "
                    f"{luggage.asker}",
                    hint="install the same version on every machine",
                )
            bench = _bench(luggage, Arch(wanted.facts.arch), cache, report, emit, guests)
            shared = SharedAccelerator(bench)
            shared.cancelled = given_up
            item = replace(_prepared(wanted, cache), predicted=wanted.predicted)
            done = cell.answer(bench, item, shared)
        except HarnessError as error:
            done = lost(wanted.facts, error)
        return Brought(
            host=socket.gethostname(), cell=msgspec.json.encode(done), evidence=_evidence(report)
        )


def kept(brought: Brought, facts: KernelFacts, report_dir: Path) -> Cell:
    """The cell that was brought back; its evidence is written into the report's directory.

    Raises HarnessError for an answer that is not about this kernel, or whose files are not what a
    cell may leave: names that lead elsewhere, too many, too large.
    """
    try:
        done = msgspec.json.decode(brought.cell, type=Cell)
    except (ValueError, RecursionError) as error:  # of msgspec, or of UTF-8
        raise HarnessError(f"{brought.host} sent no cell: {error}") from error
    if done.kernel.name != facts.name:
        raise HarnessError(f"{brought.host} sent a cell of '{done.kernel.name}' for '{facts.name}'")
    sizes = [len(content) for content in brought.evidence.values()]
    if len(sizes) > _MOST_FILES or sum(sizes) > _LARGEST_ALL or max(sizes, default=0) > _LARGEST:
        raise HarnessError(
            f"{brought.host} sent {len(sizes)} files of {sum(sizes) >> 20} MiB as evidence of "
            f"'{facts.name}'"
        )
    for name in brought.evidence:
        _refuse_name(name, facts.name, brought.host)
    for name, content in brought.evidence.items():
        results.write_atomically(report_dir / name, content)
    return done


def lost(facts: KernelFacts, error: HarnessError) -> Cell:
    """The cell of a kernel that no worker could answer."""
    trouble = trouble_of(Verdict.UNKNOWN, Cause.INFRA, error)
    return Cell(kernel=facts, boot=None, checks=(trouble,))


@functools.cache
def _tidy(cache: Cache) -> None:
    """Once in a process: what a worker that was killed left in this cache."""
    rundir.remove_left(cache)
    kernel_container.remove_orphans()


def _bench(
    luggage: Luggage, arch: Arch, cache: Cache, report: Path, emit: Listener, guests: int
) -> Bench:
    guest = _unpacked(luggage.guest, "sent-guests", cache)
    directory = _unpacked(luggage.subject, "sent-subjects", cache)
    try:
        described = msgspec.json.decode((directory / _DESCRIPTION).read_bytes(), type=_Described)
    except (OSError, msgspec.MsgspecError) as error:
        raise HarnessError(f"what is asked cannot be read: {error}") from error

    def there(name: str) -> Path | None:
        return directory / name if name else None

    subject = Subject(
        manifest=described.manifest, object=there(described.object),
        loader=there(described.loader), files=tuple(directory / name for name in described.files),
        baseline=there(described.baseline), compiler=described.compiler,
    )  # fmt: skip
    built = Built(subject=subject, compile=described.compile)
    by_name = {check.name: check for check in (*checks.ALL, *checks.ON_REQUEST)}
    root = baseroot.obtain(cache, lambda text: None, arch)
    return Bench(
        request=Request(
            subject=lambda cache, say, tools=NATIVE: built, kernels=(), directories=(), lock=Path(),
            backend=described.backend, jobs=guests,
            checks=tuple(by_name[name] for name in described.checks), report_dir=report,
            append=described.append, machine=described.machine,
            boot_timeout_s=described.boot_timeout_s,
        ),
        cache=cache, backend=described.backend, root=root, qemu_version=baseroot.check(root),
        guest_archive=guest / described.guest_archive,
        objcheck=guest / described.objcheck, built=built,
        libraries={inside: guest / name for inside, name in described.libraries.items()},
        lock=None, emit=emit,
    )  # fmt: skip


def _prepared(wanted: Errand, cache: Cache) -> Prepared:
    """The kernel's files here. HarnessError when they cannot be had, or are not the same."""
    if wanted.kernel is not None and wanted.locked is not None:
        lock = Lock(kernels=(wanted.locked,))
        try:
            files = supply.obtain(wanted.kernel, cache=cache, lock=lock)
        except HarnessError as error:
            # For the run the kernel is there: that this machine lacks it says nothing of it.
            raise HarnessError(
                f"{socket.gethostname()} cannot have the kernel: {error.message}", hint=error.hint
            ) from error
    elif wanted.described is not None:
        directory = _unpacked(wanted.carried, "sent-kernels", cache)
        files = _inside(wanted.described, directory)
    else:
        raise HarnessError("the errand names no kernel")
    if files.sha256 != wanted.facts.sha256:
        raise HarnessError(
            f"{socket.gethostname()} has another image of '{wanted.facts.name}': sha256 "
            f"{files.sha256}, not {wanted.facts.sha256}"
        )
    return Prepared(facts=wanted.facts, files=files)


def _inside(described: KernelFiles, directory: Path) -> KernelFiles:
    return replace(
        described, vmlinuz=directory / described.vmlinuz,
        btf=directory / described.btf if described.btf else None,
        config=directory / described.config if described.config else None,
    )  # fmt: skip


def _evidence(report: Path) -> dict[str, bytes]:
    """Every file below `report`; of one that is too large its end, as of a console."""
    found: dict[str, bytes] = {}
    room = _LARGEST_ALL
    for path in _files_below(report):
        size = path.stat().st_size
        kept = min(size, _LARGEST, room)
        if len(found) == _MOST_FILES:
            break
        with path.open("rb") as file:
            file.seek(size - kept)
            found[str(path.relative_to(report))] = file.read(kept)
        room -= kept
    return found


def _files_below(directory: Path) -> Iterable[Path]:
    for top, _, names in os.walk(directory):  # follows no links
        for name in sorted(names):
            path = Path(top, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _refuse_name(name: str, kernel: str, host: str) -> None:
    """HarnessError unless `name` is below the kernel's own directory of the report."""
    path = PurePosixPath(name)
    parts = path.parts
    # Half a surrogate pair is a letter that no file's name can have.
    fit = "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)
    inside = len(parts) > 2 and parts[:2] == (results.EVIDENCE, kernel) and ".." not in parts
    if not inside or str(path) != name or not fit:
        raise HarnessError(f"{host} sent a file with an impossible name: {name!r}")


class _Archive:
    """A compressed tar archive of files and trees, the same bytes whoever's and however old."""

    def __init__(self) -> None:
        self._members: dict[str, Path | bytes] = {}

    def add(self, path: Path | None, under: str) -> str:
        """Add a file or a tree; its name in the archive, "" for none."""
        if path is None:
            return ""
        name = f"{under}/{path.name}"
        self._members[name] = path
        return name

    def put(self, name: str, content: bytes) -> None:
        self._members[name] = content

    def finish(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in self._members.items():
                if isinstance(content, bytes):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                    continue
                try:
                    archive.add(content.resolve(), arcname=name, filter=_nobodys)
                except OSError as error:
                    raise HarnessError(f"cannot read '{content}': {error.strerror}") from error
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(buffer.getvalue())


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mtime = 0
    member.uname = member.gname = ""
    return member


def _unpacked(packed: bytes, kind: str, cache: Cache) -> Path:
    """The directory with what an archive holds, in the cache under its hash."""

    def fill(directory: Path) -> None:
        try:
            stream = zstandard.ZstdDecompressor().stream_reader(packed)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                archive.extractall(directory, filter="data")
        except (tarfile.TarError, zstandard.ZstdError) as error:
            raise HarnessError(f"one of the {kind} cannot be unpacked: {error}") from error

    return cache.entry(kind, hashlib.sha256(packed).hexdigest(), fill)
