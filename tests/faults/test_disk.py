# SPDX-License-Identifier: Apache-2.0
"""A machine whose disk fails under a run: full, read-only, damaged; for reports and for the cache."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness import job, process
from harness.cache import Cache
from harness.checks import Context
from harness.progress import Phase
from harness.results import Verdict
from harness.supply import KernelFiles
from tests.faults.running import BOOTS, KERNEL, NOWHERE, ended, errors, started, truncate
from tests.vm.matrix import AFTERWARDS, Matrix, check_that, verdicts


def _fill(disk: Path) -> Path:
    """Not one byte is left; the file that has them."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return filler


def test_a_disk_that_is_full_when_the_reports_are_due_costs_no_verdict(
    cache: Cache, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """The table is on the terminal, and the error says what to do."""
    reports = disk("2m")
    with started(cache, tmp_path, "--out", reports / "r") as running:
        running.until_it_says(BOOTS)
        _fill(reports)
        done = running.end()

    assert done.status == 3
    (error,) = errors(done)
    assert "cannot write" in error
    assert "No space left on device" in error
    assert "a console is not kept" in done.err
    assert re.search(rf"^{KERNEL} +6\.1\.\S+ +. pass ", done.out, re.MULTILINE), done.out
    assert [path.name for path in (reports / "r").rglob(".*")] == []


def test_a_report_directory_that_cannot_be_written_is_told_before_anything_is_done(
    cache: Cache, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    reports = disk("1m")
    process.run(["mount", "-o", "remount,ro", reports], timeout_s=10)

    for number, out in enumerate((reports / "r", Path("/dev/null/r"))):
        done = ended(cache, tmp_path / str(number), "--out", out)

        assert done.status == 3
        (error,) = errors(done)
        assert f"'{out}'" in error
        assert BOOTS not in done.err


def test_a_full_cache_stops_the_guest_that_finds_no_room_and_no_other(
    copy_of: Callable[..., Cache], disk: Callable[[str], Path],
    kernel: Callable[[str], KernelFiles], matrix: Callable[..., Matrix],
) -> None:  # fmt: skip
    """A guest that is up goes on; the next one is trouble of ours, told as such."""
    room = disk("300m")
    files = kernel(KERNEL)

    def fill(context: Context) -> None:
        _fill(room)  # and once more before the next one: the first gave its own back
        said = context.guest.run(["/bin/sh", "-c", "dmesg > /dev/console; echo up"], timeout_s=60)
        assert said.text.strip() == "up"

    asked = matrix(
        replace(files, name="6.1-first"), replace(files, name="6.1-next"),
        checks=(check_that("fill", fill), AFTERWARDS),
    )  # fmt: skip
    asked.cache = copy_of(room)
    asked.jobs = 1
    asked.on_event = lambda event: (
        event == Phase(kernel="6.1-next", phase="prepare") and _fill(room)
    )

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
        done = ended(cache, tmp_path / str(number), "--out", tmp_path / "r")

        assert done.status == 3
        (error,) = errors(done)
        assert f"{words} '{cache.root}'" in error
        assert "KERNEL_MATRIX_CACHE" in done.err + done.out


def test_a_damaged_qemu_is_seen_and_without_a_mirror_that_is_the_error(
    cache: Cache, copy_of: Callable[..., Cache], short: Path, tmp_path: Path
) -> None:
    """Nothing runs with it, and what is left of it stays until there is a better one."""
    own = copy_of(short / "c", lacks=("base-root",))
    roots = own.root / "base-root"
    process.run(["cp", "-al", cache.root / "base-root", roots], timeout_s=60)
    for qemu in roots.glob("*/usr/bin/qemu-system-*"):
        truncate(qemu)

    done = ended(
        own, tmp_path, "--out", tmp_path / "r", KERNEL_MATRIX_DEBIAN_MIRROR=NOWHERE
    )  # fmt: skip

    assert done.status == 3
    assert "is damaged (usr/bin/qemu-system-x86_64 has" in done.err
    (error,) = errors(done)
    assert NOWHERE in error or "mmdebstrap" in error
    assert BOOTS not in done.err
    assert list(roots.glob(".*")) == []
    assert list(roots.glob("*/usr/bin/qemu-system-*"))
