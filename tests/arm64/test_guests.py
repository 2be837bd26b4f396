# SPDX-License-Identifier: Apache-2.0
"""Real arm64 guests: the observer's own object, in both backends, beside a kernel of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import build, job, launch, paths, pipeline, session, slot
from harness.cache import Cache
from harness.guest import GuestLostError
from harness.results import Cause, Run, Verdict
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST
from tests.vm.matrix import need_engine

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(shutil.which("ld.lld") is None, reason="needs lld"),
]

_ASKED = ("load", "cross-check", "attach", "function", "command", "splat")


def _run(
    cache: Cache, kernels: str, out: Path, *, backend: str = "local", checks: str = "",
    object_path: str = "",
) -> Run:  # fmt: skip
    wanted = job.request(
        cache=cache, kernels=kernels, out=str(out), boot_timeout_s=300.0, backend=backend,
        check_names=checks, object_path=object_path,
    )  # fmt: skip
    return pipeline.run(wanted, cache, lambda event: None)


def test_the_observer_works_on_the_oldest_and_the_newest_arm64_kernel(
    cache: Cache, kernel: Callable[[str], KernelFiles], tmp_path: Path
) -> None:
    """Loaded, attached, seen a query: with an object, a loader and a driver compiled for arm64."""
    names = [f"{OLDEST}-arm64", f"{NEWEST}-arm64", NEWEST]
    for name in names:
        kernel(name)

    run = _run(cache, ",".join(names), tmp_path)

    for cell in run.cells:
        found = {check.check: check.verdict for check in cell.checks}
        assert {name: found[name] for name in _ASKED} == dict.fromkeys(_ASKED, Verdict.PASS), cell
        assert cell.verdict is Verdict.PASS
    assert {cell.kernel.name: cell.kernel.arch for cell in run.cells} == {
        names[0]: "arm64", names[1]: "arm64", names[2]: "x86_64",
    }  # fmt: skip
    assert len(set(run.subject.objects.values())) == len(run.subject.objects) == 2
    boots = [cell.boot for cell in run.cells if cell.kernel.arch == "arm64"]
    assert all(boot is not None and boot.accelerator == "tcg" for boot in boots)


def test_the_observer_works_on_the_arm64_kernels_between_them(
    cache: Cache, kernel: Callable[[str], KernelFiles], tmp_path: Path
) -> None:
    """One boot each, for what an object has to do first."""
    names = ["6.1-newest-arm64", "6.12-newest-arm64"]
    for name in names:
        kernel(name)
    asked = ("load", "attach", "function")

    run = _run(cache, ",".join(names), tmp_path, checks=",".join(asked))

    assert [cell.kernel.name for cell in run.cells] == names
    for cell in run.cells:
        found = {check.check: check.verdict for check in cell.checks}
        assert {name: found[name] for name in ("boot", *asked)} == dict.fromkeys(
            ("boot", *asked), Verdict.PASS
        ), cell
        assert (cell.verdict, cell.consoles_alone) == (Verdict.PASS, ())
        assert cell.kernel.release.startswith(cell.kernel.series)
        assert cell.kernel.release.endswith("arm64")


def test_a_command_runs_under_an_arm64_kernel_and_a_panic_of_it_is_told(
    cache: Cache, kernel: Callable[[str], KernelFiles]
) -> None:
    """`inv run`; and the firmware's reset, which the panicking kernel asks for, ends QEMU."""
    name = f"{OLDEST}-arm64"
    kernel(name)

    def run(words: str) -> session.Outcome:
        with slot.hold(cache, alone=False):
            return launch.run_command(
                name, ["sh", "-c", words], cache, lambda event: None, timeout_s=60.0, src="",
                backend="local",
            )  # fmt: skip

    answered = run("uname -m; bash --version | head -1; exit 3")

    assert answered.status == 3
    assert answered.stdout.startswith(b"aarch64\nGNU bash")
    with pytest.raises(GuestLostError, match="sysrq triggered crash") as lost:
        run("echo c > /proc/sysrq-trigger")
    assert lost.value.reason == "panic"


def test_an_arm64_kernel_runs_in_a_kernel_container(
    cache: Cache, kernel: Callable[[str], KernelFiles], tmp_path: Path
) -> None:
    """Its image stands on a base of its own, with the QEMU that emulates it."""
    need_engine()
    kernel(f"{NEWEST}-arm64")

    run = _run(cache, f"{NEWEST}-arm64", tmp_path, backend="docker", checks="load")

    (cell,) = run.cells
    assert cell.verdict is Verdict.PASS, cell
    assert cell.boot is not None
    assert cell.boot.backend == "docker"


def test_an_object_for_another_architecture_is_unsupported_and_boots_nothing(
    cache: Cache, kernel: Callable[[str], KernelFiles], tmp_path: Path
) -> None:
    """It would load, and take one register for another."""
    kernel(f"{NEWEST}-arm64")
    built = build.from_manifest(paths.default_manifest(), cache, lambda text: None)

    run = _run(cache, f"{NEWEST}-arm64", tmp_path, object_path=str(built.subject.object))

    (cell,) = run.cells
    assert (cell.verdict, cell.boot) == (Verdict.UNSUPPORTED, None)
    assert cell.deciding is not None
    assert cell.deciding.cause is Cause.COMPILE
    assert "registers of x86_64" in cell.deciding.summary
