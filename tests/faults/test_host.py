# SPDX-License-Identifier: Apache-2.0
"""A machine that fails under a run: its memory, its clock, /dev/kvm, its mirror."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from harness import catalogue, paths, pipeline, process, results, supply
from harness.cache import Cache
from harness.errors import UnavailableError
from harness.results import Verdict
from harness.sitting import Request
from harness.supply import KernelFiles, apt
from tests.faults.running import (
    BOOTS,
    KERNEL,
    LOADS,
    NOWHERE,
    RUN_S,
    ended,
    mounted_over,
    started,
    truncate,
)
from tests.vm.matrix import AFTERWARDS, PATIENCE_S, Matrix, verdicts


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


@pytest.mark.usefixtures("_a_kvm_to_hide")
def test_a_kvm_that_is_broken_or_forbidden_is_not_used_and_the_report_says_why(
    copy_of: Callable[..., Cache], short: Path, tmp_path: Path
) -> None:
    """Broken: it opens, and boots nothing. Forbidden: root without a capability may not open it."""
    closed = tmp_path / "kvm"
    closed.touch()
    closed.chmod(0)
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    fronts = {
        "/dev/kvm opens, but no guest came up under it": mounted_over(
            Path("/dev/null"), "/dev/kvm"
        ),
        "/dev/kvm does not open: Permission denied": mounted_over(closed, "/dev/kvm", *powerless),
    }
    for number, (reason, front) in enumerate(fronts.items()):
        cache = copy_of(short / f"c{number}", lacks=("accel",))

        done = ended(cache, tmp_path / str(number), "--out", tmp_path / f"r{number}", before=front)

        assert done.status == 0, done.err
        (cell,) = results.read(tmp_path / f"r{number}" / "results.json").cells
        assert cell.boot is not None
        assert (cell.verdict, cell.boot.accelerator) == (Verdict.PASS, "tcg")
        assert cell.boot.accelerator_reason.startswith(reason)


def _meminfo(path: Path, *, total_mib: int, free_mib: int) -> None:
    path.write_text(f"MemTotal: {total_mib << 10} kB\nMemAvailable: {free_mib << 10} kB\n")


def test_a_guest_waits_for_memory_and_one_that_never_fits_is_refused(
    copy_of: Callable[..., Cache], short: Path, tmp_path: Path
) -> None:
    """The machine's own account of its memory, as a mount of the harness's own has it."""
    account = tmp_path / "meminfo"
    front = mounted_over(account, "/proc/meminfo")

    _meminfo(account, total_mib=300, free_mib=200)
    refused = ended(copy_of(short / "c"), tmp_path / "0", "--out", tmp_path / "r0", before=front)
    _meminfo(account, total_mib=4000, free_mib=200)
    with started(
        copy_of(short / "c1"), tmp_path / "1", "--out", tmp_path / "r1", before=front
    ) as running:
        running.until_it_says("waits for")
        assert BOOTS not in running.err()
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
    done = ended(copy_of(tmp_path / ("deep" * 25)), tmp_path, "--out", tmp_path / "r")

    assert done.status == 3
    (cell,) = results.read(tmp_path / "r" / "results.json").cells
    assert verdicts(cell.checks)["boot"] == ("unknown", "infra")
    assert cell.deciding is not None
    assert "too long for a Unix socket" in cell.deciding.summary
    assert "KERNEL_MATRIX_CACHE" in cell.deciding.remedy


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
    short: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """An hour back while the guest boots, ten days on while it is asked; two entries made anew."""
    own = copy_of(short / "c", lacks=("kernels", "guest"))
    image = kernel(KERNEL).vmlinuz
    shutil.copytree(image.parent, own.root / "kernels" / image.parent.name)
    damaged = own.root / "kernels" / image.parent.name / image.name
    truncate(damaged)
    half = own.root / "guest" / ".0000.partial"
    half.mkdir(parents=True)
    (half / "base.cpio").write_bytes(b"070701")
    offset = tmp_path / "offset"
    offset.write_text("0")

    with started(
        own, tmp_path, "--out", tmp_path / "r",
        LD_PRELOAD=str(_clock(tmp_path)), KM_CLOCK=str(offset),
    ) as running:  # fmt: skip
        running.until_it_says(BOOTS)
        offset.write_text("-3600")
        running.until_it_says(LOADS)
        offset.write_text("864000")
        done = running.end()

    assert done.status == 0, done.err
    run = results.read(tmp_path / "r" / "results.json")
    (cell,) = run.cells
    assert (cell.verdict, cell.attempts) == (Verdict.PASS, 1)
    assert cell.kernel.release == kernel(KERNEL).release
    assert 0 < cell.duration_s < run.run.duration_s < done.took_s + 1
    assert f"the cached '{damaged.parent}' is damaged" in done.err
    assert damaged.read_bytes() == image.read_bytes()


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
    short: Path, tmp_path: Path, matrix: Callable[..., Matrix], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing of half a package stays; from a whole one the kernel is what the lock says."""
    there = kernel(KERNEL)
    directory = paths.catalogue_dir()
    (wanted,) = (one for one in catalogue.load(directory).kernels if one.name == KERNEL)
    wanted = replace(wanted, sources=(), snapshot_url=NOWHERE)
    lock = supply.read_lock(directory / "kernels.lock")
    locked = lock.get(KERNEL) if lock else None
    assert locked is not None
    (package,) = locked.files
    pool = tmp_path / "www" / "debian" / package.filename
    pool.parent.mkdir(parents=True)
    pool.symlink_to(cache.root / "debs" / package.sha256 / "package.deb")
    own = copy_of(short / "c", lacks=("debs", "kernels"))
    with _mirror(tmp_path / "www") as url:
        monkeypatch.setenv("KERNEL_MATRIX_DEBIAN_MIRROR", f"{url}/debian/")
        monkeypatch.setenv("KERNEL_MATRIX_SNAPSHOT_MIRROR", NOWHERE)
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
    assert took_s < RUN_S
    assert stalled_s < PATIENCE_S
