# SPDX-License-Identifier: Apache-2.0
"""A machine that fails under a run: its disk, its memory, its clock, /dev/kvm, its mirror."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from harness import catalogue, job, paths, pipeline, process, results, supply
from harness.cache import Cache
from harness.checks import Context
from harness.errors import UnavailableError
from harness.results import Run, Verdict
from harness.sitting import Request
from harness.supply import KernelFiles, apt
from tests.vm.matrix import AFTERWARDS, PATIENCE_S, Matrix, check_that, until, verdicts

_ROOT = paths.default_manifest().parents[1]
_KERNEL = "6.1-oldest"
_RUN_S = 600.0  # a run of one boot takes ten seconds on an idle machine
_NOWHERE = "http://127.0.0.1:9"  # refuses every connection
# What a run needs and what takes long to make.
_LARGE = ("base-root", "btf-index", "build", "debs", "guest", "kernels", "raw-btf")
_MATRIX = ("--kernels", _KERNEL, "--checks", "load", "--backend", "local", "--boot-timeout", "300")


@pytest.fixture
def disk() -> Iterator[Callable[[str], Path]]:
    """Makes small disks, which are there until the end of the test."""
    with contextlib.ExitStack() as stack:

        def make(size: str) -> Path:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="d-")))
            options = f"size={size}"
            process.run(["mount", "-t", "tmpfs", "-o", options, "none", path], timeout_s=10)
            stack.callback(process.run, ["umount", path], timeout_s=60)
            return path

        yield make


@pytest.fixture
def copy_of(cache: Cache, kernel: Callable[[str], KernelFiles]) -> Callable[..., Cache]:
    """A cache that has everything a run needs, but for what the test says."""
    kernel(_KERNEL)

    def make(root: Path, *, lacks: tuple[str, ...] = ()) -> Cache:
        root.mkdir(parents=True, exist_ok=True)
        for kind in _LARGE:
            if kind not in lacks and (cache.root / kind).is_dir():
                (root / kind).symlink_to(cache.root / kind)
        return Cache(root=root)

    return make


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """`kernel-matrix`, as somebody's command line had it."""

    status: int
    out: str
    err: str
    took_s: float

    @property
    def run(self) -> Run:
        """What it found."""
        return results.read(Path(self.out.split()[-1]).parent / "results.json")


@dataclass(kw_only=True)
class Running:
    """It runs."""

    child: process.Child
    directory: Path
    started: float = field(default_factory=time.monotonic)

    def until_it_says(self, text: str) -> None:
        """Or ends."""
        until(lambda: text in self.err() or self.child.poll() is not None, timeout_s=_RUN_S)
        assert text in self.err()

    def err(self) -> str:
        return (self.directory / "err").read_text(errors="replace")

    def end(self) -> Ended:
        status = self.child.wait(_RUN_S)
        out = (self.directory / "out").read_text(errors="replace")
        took_s = time.monotonic() - self.started
        assert "Traceback" not in self.err(), self.err()
        return Ended(status=status, out=out, err=self.err(), took_s=took_s)


@contextlib.contextmanager
def _started(
    cache: Cache, directory: Path, *words: object, before: tuple[str, ...] = (), **env: str
) -> Iterator[Running]:
    """before: what goes in front of the command: unshare, setpriv, prlimit."""
    directory.mkdir(parents=True, exist_ok=True)
    argv = [*before, sys.executable, "-m", "harness", "kernel-matrix", *_MATRIX, *words]
    with (
        (directory / "out").open("wb") as out,
        (directory / "err").open("wb") as err,
        process.held(
            [str(word) for word in argv], stdout=out, stderr=err,
            env={"KERNEL_MATRIX_CACHE": str(cache.root), "PYTHONPATH": str(_ROOT), **env},
        ) as child,
    ):  # fmt: skip
        yield Running(child=child, directory=directory)


def _ended(
    cache: Cache, directory: Path, *words: object, before: tuple[str, ...] = (), **env: str
) -> Ended:
    with _started(cache, directory, *words, before=before, **env) as run:
        return run.end()


def _errors(ended: Ended) -> list[str]:
    return [line for line in (ended.err + ended.out).splitlines() if line.startswith("error: ")]


def _fill(disk: Path) -> Path:
    """Not one byte is left; the file that has them."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return filler


def test_a_disk_that_is_full_when_the_reports_are_due_costs_no_verdict(
    cache: Cache, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """The table is on the terminal; with some space, the run is not repeated but for this cell."""
    reports = disk("2m")
    with _started(cache, tmp_path, "--out", reports / "r") as running:
        running.until_it_says(" boot")
        _fill(reports)
        ended = running.end()

    assert ended.status == 3
    (error,) = _errors(ended)
    assert "cannot write" in error
    assert "No space left on device" in error
    assert "a console is not kept" in ended.err
    assert re.search(rf"^{_KERNEL} +6\.1\.\S+ +. pass ", ended.out, re.MULTILINE), ended.out
    assert [path.name for path in (reports / "r").rglob(".*")] == []


def test_a_report_directory_that_cannot_be_written_is_told_before_anything_is_done(
    cache: Cache, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    reports = disk("1m")
    process.run(["mount", "-o", "remount,ro", reports], timeout_s=10)

    for number, out in enumerate((reports / "r", Path("/dev/null/r"))):
        ended = _ended(cache, tmp_path / str(number), "--out", out)

        assert ended.status == 3
        (error,) = _errors(ended)
        assert f"'{out}'" in error
        assert " boot" not in ended.err


def test_a_full_cache_stops_the_guest_that_finds_no_room_and_no_other(
    copy_of: Callable[..., Cache], disk: Callable[[str], Path],
    kernel: Callable[[str], KernelFiles], matrix: Callable[..., Matrix],
) -> None:  # fmt: skip
    """A guest that is up goes on; the next one is trouble of ours, told as such."""
    room = disk("300m")
    files = kernel(_KERNEL)

    def fill(context: Context) -> None:
        _fill(room)
        said = context.guest.run(["/bin/sh", "-c", "dmesg > /dev/console; echo up"], timeout_s=60)
        assert said.text.strip() == "up"

    asked = matrix(
        replace(files, name="6.1-first"), replace(files, name="6.1-next"),
        checks=(check_that("fill", fill), AFTERWARDS),
    )  # fmt: skip
    asked.cache = copy_of(room)
    asked.jobs = 1

    run = asked.run()

    first, following = run.cells
    assert (first.verdict, first.attempts) == (Verdict.PASS, 1)
    assert verdicts(following.checks)["boot"] == ("unknown", "infra")
    assert following.deciding is not None
    assert "No space left on device" in following.deciding.summary + following.deciding.remedy
    assert str(room) in following.deciding.remedy
    assert job.status(run, strict=False) == 3
    assert list((room / "run").iterdir()) == []


def test_a_cache_with_no_room_or_that_is_read_only_is_one_clear_line(
    copy_of: Callable[..., Cache], disk: Callable[[str], Path], tmp_path: Path
) -> None:
    full, fixed = disk("1m"), disk("1m")
    lacking = copy_of(full, lacks=("guest",))
    _fill(full)
    reading = copy_of(fixed)
    process.run(["mount", "-o", "remount,ro", fixed], timeout_s=10)

    for number, (cache, words) in enumerate(
        ((lacking, "no space left for the cache"), (reading, "cannot write the cache"))
    ):
        ended = _ended(cache, tmp_path / str(number), "--out", tmp_path / "r")

        assert ended.status == 3
        (error,) = _errors(ended)
        assert f"{words} '{cache.root}'" in error
        assert "KERNEL_MATRIX_CACHE" in ended.err + ended.out


@pytest.fixture
def _a_kvm_to_hide() -> Iterator[None]:
    """Something has to be there for a mount to cover it."""
    kvm = Path("/dev/kvm")
    made = not kvm.exists()
    if made:
        kvm.touch()
    yield
    if made:
        kvm.unlink()


def _mounted_over(there: Path, name: str, *more: str) -> tuple[str, ...]:
    """A command's front: a mount that nobody else sees, and that goes with the command."""
    script = f'mount --bind "$0" {name} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(there), *more)


@pytest.mark.usefixtures("_a_kvm_to_hide")
def test_a_kvm_that_is_broken_or_forbidden_is_not_used_and_the_report_says_why(
    copy_of: Callable[..., Cache], tmp_path: Path
) -> None:
    """Broken: it opens, and boots nothing. Forbidden: root without a capability may not open it."""
    closed = tmp_path / "kvm"
    closed.touch()
    closed.chmod(0)
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    fronts = {
        "/dev/kvm opens, but no guest came up under it": _mounted_over(
            Path("/dev/null"), "/dev/kvm"
        ),
        "/dev/kvm does not open: Permission denied": _mounted_over(closed, "/dev/kvm", *powerless),
    }
    for number, (reason, front) in enumerate(fronts.items()):
        cache = copy_of(tmp_path / f"c{number}")

        ended = _ended(
            cache, tmp_path / str(number), "--out", tmp_path / f"r{number}", before=front
        )

        assert ended.status == 0, ended.err
        (cell,) = results.read(tmp_path / f"r{number}" / "results.json").cells
        assert cell.boot is not None
        assert (cell.verdict, cell.boot.accelerator) == (Verdict.PASS, "tcg")
        assert cell.boot.accelerator_reason.startswith(reason)


def _meminfo(path: Path, *, total_mib: int, free_mib: int) -> None:
    path.write_text(f"MemTotal: {total_mib << 10} kB\nMemAvailable: {free_mib << 10} kB\n")


def test_a_guest_waits_for_memory_and_one_that_never_fits_is_refused(
    copy_of: Callable[..., Cache], tmp_path: Path
) -> None:
    """The machine's own account of its memory, as a mount of the harness's own has it."""
    account = tmp_path / "meminfo"
    front = _mounted_over(account, "/proc/meminfo")

    _meminfo(account, total_mib=300, free_mib=200)
    refused = _ended(
        copy_of(tmp_path / "c"), tmp_path / "0", "--out", tmp_path / "r0", before=front
    )
    _meminfo(account, total_mib=4000, free_mib=200)
    with _started(
        copy_of(tmp_path / "c1"), tmp_path / "1", "--out", tmp_path / "r1", before=front
    ) as running:
        running.until_it_says("waits for")
        assert " boot" not in running.err()
        _meminfo(account, total_mib=4000, free_mib=3000)
        waited = running.end()

    assert refused.status == 3
    (cell,) = results.read(tmp_path / "r0" / "results.json").cells
    assert verdicts(cell.checks)["boot"] == ("unknown", "infra")
    assert cell.deciding is not None
    assert "this machine gives 300 MiB in all" in cell.deciding.summary
    assert waited.status == 0
    (cell,) = results.read(tmp_path / "r1" / "results.json").cells
    assert (cell.verdict, cell.attempts) == (Verdict.PASS, 1)


def test_no_socket_for_a_guest_is_trouble_of_ours_with_its_remedy(
    copy_of: Callable[..., Cache], tmp_path: Path
) -> None:
    """Guests have no port, they have a socket: its path goes in 108 bytes."""
    ended = _ended(copy_of(tmp_path / ("deep" * 25)), tmp_path, "--out", tmp_path / "r")

    assert ended.status == 3
    (cell,) = results.read(tmp_path / "r" / "results.json").cells
    assert verdicts(cell.checks)["boot"] == ("unknown", "infra")
    assert cell.deciding is not None
    assert "too long for a Unix socket" in cell.deciding.summary
    assert "KERNEL_MATRIX_CACHE" in cell.deciding.remedy


def _hard_copy(cache: Cache, kind: str, root: Path) -> Path:
    """The same files under other names: one that is to be damaged has to be replaced."""
    shutil.rmtree(root / kind, ignore_errors=True)
    (root / kind).unlink(missing_ok=True)
    process.run(["cp", "-a", cache.root / kind, root / kind], timeout_s=120)
    return root / kind


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


_CLOCK = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

/* Seconds that the wall clock is off, from the file that KM_CLOCK names. */
static long jump(void)
{
	const char *path = getenv("KM_CLOCK");
	FILE *file = path ? fopen(path, "r") : NULL;
	long off = 0;

	if (file) {
		if (fscanf(file, "%ld", &off) != 1)
			off = 0;
		fclose(file);
	}
	return off;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
	static int (*real)(clockid_t, struct timespec *);
	int err;

	if (!real)
		real = dlsym(RTLD_NEXT, "clock_gettime");
	err = real(id, now);
	if (!err && id == CLOCK_REALTIME)
		now->tv_sec += jump();
	return err;
}

int gettimeofday(struct timeval *now, void *zone)
{
	struct timespec exact;
	int err = clock_gettime(CLOCK_REALTIME, &exact);

	(void)zone;
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return err;
}

time_t time(time_t *out)
{
	struct timespec exact;

	clock_gettime(CLOCK_REALTIME, &exact);
	if (out)
		*out = exact.tv_sec;
	return exact.tv_sec;
}
"""


def _clock(directory: Path) -> Path:
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(_CLOCK)
    process.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], timeout_s=60)
    return library


def test_a_host_clock_that_jumps_and_a_cache_that_a_crash_cut_short_do_no_harm(
    cache: Cache, copy_of: Callable[..., Cache], kernel: Callable[[str], KernelFiles],
    tmp_path: Path,
) -> None:  # fmt: skip
    """An hour back while the guest boots, ten days on while it is asked; two entries made anew."""
    own = copy_of(tmp_path / "c", lacks=("kernels", "guest"))
    image = kernel(_KERNEL).vmlinuz
    shutil.copytree(image.parent, own.root / "kernels" / image.parent.name)
    damaged = own.root / "kernels" / image.parent.name / image.name
    _truncate(damaged)
    half = own.root / "guest" / ".0000.partial"
    half.mkdir(parents=True)
    (half / "base.cpio").write_bytes(b"070701")
    offset = tmp_path / "offset"
    offset.write_text("0")

    with _started(
        own, tmp_path, "--out", tmp_path / "r",
        LD_PRELOAD=str(_clock(tmp_path)), KM_CLOCK=str(offset),
    ) as running:  # fmt: skip
        running.until_it_says(" boot")
        offset.write_text("-3600")
        running.until_it_says(" load")
        offset.write_text("864000")
        ended = running.end()

    assert ended.status == 0, ended.err
    run = results.read(tmp_path / "r" / "results.json")
    (cell,) = run.cells
    assert (cell.verdict, cell.attempts) == (Verdict.PASS, 1)
    assert cell.kernel.release == kernel(_KERNEL).release
    assert 0 < cell.duration_s < run.run.duration_s < ended.took_s + 1
    assert f"the cached '{damaged.parent}' is damaged" in ended.err
    assert damaged.read_bytes() == image.read_bytes()


def test_a_damaged_qemu_is_seen_and_without_a_mirror_that_is_the_error(
    cache: Cache, copy_of: Callable[..., Cache], tmp_path: Path
) -> None:
    """Nothing runs with it, and what is left of it stays until there is a better one."""
    own = copy_of(tmp_path / "c", lacks=("base-root",))
    roots = own.root / "base-root"
    process.run(["cp", "-al", cache.root / "base-root", roots], timeout_s=60)
    for qemu in roots.glob("*/usr/bin/qemu-system-*"):
        _truncate(qemu)

    ended = _ended(
        own, tmp_path, "--out", tmp_path / "r", KERNEL_MATRIX_DEBIAN_MIRROR=_NOWHERE
    )  # fmt: skip

    assert ended.status == 3
    assert "is damaged (usr/bin/qemu-system-x86_64 has" in ended.err
    (error,) = _errors(ended)
    assert _NOWHERE in error or "mmdebstrap" in error
    assert " boot" not in ended.err
    assert list(roots.glob(".*")) == []
    assert list(roots.glob("*/usr/bin/qemu-system-*"))


class _Mirror(http.server.SimpleHTTPRequestHandler):
    """Sends packages as `how` says: whole, half of them, or half and then nothing for long."""

    how = "whole"
    patience = threading.Event()  # set: who stalls gives up

    @override
    def log_message(self, *_: object) -> None:
        """What happens is the test."""

    @override
    def copyfile(self, source: Any, outputfile: Any) -> None:
        how = type(self).how
        if how == "whole":
            shutil.copyfileobj(source, outputfile)
            return
        self.wfile.write(source.read(os.fstat(source.fileno()).st_size // 2))
        self.wfile.flush()
        if how == "stalls":
            self.patience.wait(60)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


@contextlib.contextmanager
def _mirror(root: Path) -> Iterator[str]:
    handler = functools.partial(_Mirror, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            _Mirror.patience.set()
            server.shutdown()
            thread.join()


def test_a_mirror_that_breaks_off_in_a_download_costs_that_kernel_and_no_other(
    cache: Cache, copy_of: Callable[..., Cache], kernel: Callable[[str], KernelFiles],
    tmp_path: Path, matrix: Callable[..., Matrix], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing of half a package stays; from a whole one the kernel is what the lock says."""
    there = kernel(_KERNEL)
    directory = paths.catalogue_dir()
    (wanted,) = (one for one in catalogue.load(directory).kernels if one.name == _KERNEL)
    wanted = replace(wanted, sources=(), snapshot_url=_NOWHERE)
    lock = supply.read_lock(directory / "kernels.lock")
    locked = lock.get(_KERNEL) if lock else None
    assert locked is not None
    (package,) = locked.files
    pool = tmp_path / "www" / "debian" / package.filename
    pool.parent.mkdir(parents=True)
    pool.symlink_to(cache.root / "debs" / package.sha256 / "package.deb")
    own = copy_of(tmp_path / "c", lacks=("debs", "kernels"))
    with _mirror(tmp_path / "www") as url:
        monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_MIRROR", f"{url}/debian/")
        monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", _NOWHERE)
        monkeypatch.setattr(_Mirror, "how", "half")
        started = time.monotonic()
        asked = matrix(replace(there, name="6.1-other"), checks=(AFTERWARDS,))
        asked.cache = own
        run = pipeline.run(
            Request(
                subject=lambda *_: asked.subject, kernels=(wanted,), directories=asked.kernels,
                lock=directory / "kernels.lock", backend="local", jobs=1, checks=asked.checks,
                report_dir=asked.report_dir, boot_timeout_s=asked.boot_timeout_s,
            ),
            own, lambda event: None,
        )  # fmt: skip
        took_s = time.monotonic() - started
        left = list(own.root.glob("debs/*"))
        monkeypatch.setattr(_Mirror, "how", "stalls")
        stalled = time.monotonic()
        with pytest.raises(UnavailableError, match="/debian/pool/"):
            apt.download(
                f"{url}/debian/{package.filename}", tmp_path / "half", sha256=package.sha256,
                timeout_s=1,
            )  # fmt: skip
        stalled_s = time.monotonic() - stalled
        monkeypatch.setattr(_Mirror, "how", "whole")
        found = supply.obtain(wanted, cache=own, lock=lock)

    broken, other = run.cells
    assert (broken.verdict, other.verdict) == (Verdict.UNAVAILABLE, Verdict.PASS)
    assert broken.deciding is not None
    assert broken.deciding.cause == "kernel-unavailable"
    assert url in broken.deciding.summary
    assert left == []
    assert found.sha256 == locked.vmlinuz_sha256
    assert found.vmlinuz.is_relative_to(own.root)
    assert took_s < _RUN_S
    assert stalled_s < PATIENCE_S
