# SPDX-License-Identifier: Apache-2.0
"""A guest that is lost, or fails on its way out, or is another: no answer is lost, none made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import lost, objcheck, room, sitting
from harness.checks import load, splat
from harness.errors import HarnessError
from harness.guest import GuestLostError
from harness.results import BootFacts, Cause, CheckResult, Verdict
from harness.supply import KernelFiles
from tests.objcheck.answers import recorded

_BOOTED = CheckResult(check=lost.BOOT, verdict=Verdict.PASS)
_BOOT = BootFacts(
    backend="local", accelerator="tcg", accelerator_reason="a test", qemu="10", vcpus=2,
    memory_mib=768, boot_s=7.0,
)  # fmt: skip


def _fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [HarnessError("no lock"), OSError(5, "no disk")])
def test_what_fails_on_the_way_out_of_a_guest_costs_none_of_its_answers(error: Exception) -> None:
    with room.kept([_BOOTED]):
        _fail(error)
    with pytest.raises(type(error)), room.kept([]):
        _fail(error)


def test_a_flood_that_cannot_be_read_leaves_no_check_without_an_answer(tmp_path: Path) -> None:
    """A cell that only booted would be green."""
    flood = GuestLostError("the guest flooded its console", reason="console-flood")

    found = lost.left_open([load.CHECK, splat.CHECK], [_BOOTED], flood, tmp_path / "nothing", _BOOT)

    assert [(one.check, one.verdict, one.cause) for one in found] == [
        ("load", Verdict.UNKNOWN, Cause.GUEST_LOST),
        ("splat", Verdict.UNKNOWN, Cause.NOT_REACHED),
    ]


def test_another_kernel_than_was_asked_for_is_asked_nothing() -> None:
    """Two caches may have one Docker engine, where the same name is one image."""
    found = objcheck.parse_features(recorded("6.1.192", "features"))
    files = KernelFiles(
        name="6.1-newest", series="6.1", arch="x86_64", release=found.uname.release,
        vmlinuz=Path("k"), btf=None, btf_detached=False, config=None, system_map=None, source="",
        sha256="0",
    )  # fmt: skip

    sitting.refuse_other(found, files)
    with pytest.raises(HarnessError, match=r"runs 6\.1\.0-\d+-cloud-amd64, not 6\.1\.0-1"):
        sitting.refuse_other(found, replace(files, release="6.1.0-1-cloud-amd64"))
