# SPDX-License-Identifier: Apache-2.0
"""inv bench boot: what it concludes from its samples, and one real round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.bench import boot, virtme
from harness.bench.boot import BootBench, Contender
from harness.cache import Cache
from harness.errors import HarnessError, UnavailableError
from harness.qemu import Machine
from harness.results import Verdict
from harness.supply.lock import Archive, DebFile, Lock, LockedKernel, Role

OURS = Contender(name="ours", what="a to b", samples_s=(2.9, 3.0, 9.0))
BARE = Contender(name="bare QEMU", what="a to c", goal=1.3, samples_s=(2.5, 2.4, 2.6))
VIRTME = Contender(name="virtme-ng", what="a to d", goal=0.5, samples_s=(8.0, 7.0, 9.0))


def _bench(*contenders: Contender) -> BootBench:
    return BootBench(
        kernel="6.1.0-56-cloud-amd64", qemu="QEMU 10.0", machine=Machine(), contenders=contenders
    )


def test_medians_are_compared() -> None:
    """One slow round of a busy machine decides nothing."""
    bench = _bench(OURS, BARE, VIRTME)

    assert bench.ratio(BARE) == pytest.approx(1.2)
    assert bench.verdict is Verdict.PASS


def test_a_missed_goal_fails() -> None:
    """The figure is a promise of the README."""
    slow = replace(OURS, samples_s=(4.1, 4.2, 4.3))
    bench = _bench(slow, BARE, VIRTME)

    assert bench.judge(BARE) is Verdict.FAIL
    assert bench.verdict is Verdict.FAIL
    assert "fail" in boot.render(bench)


def test_a_contender_that_cannot_run_is_unknown_with_the_reason() -> None:
    """Neither won nor lost: nobody measured."""
    bench = _bench(OURS, BARE, replace(VIRTME, samples_s=(), unknown="no modules here"))

    text = boot.render(bench)

    assert bench.verdict is Verdict.UNKNOWN
    assert "virtme-ng: no modules here" in text


def test_the_table_names_its_conditions() -> None:
    """Emulated seconds must not be taken for the hardware's."""
    text = boot.render(_bench(OURS, BARE, VIRTME))

    assert "Guest-ready time (emulated): Linux 6.1.0-56-cloud-amd64" in text
    assert "1.20" in text
    assert "≤ 1.3" in text
    assert "3 interleaved rounds" in text


def test_modules_come_from_the_locked_package(tmp_path: Path) -> None:
    """virtme-ng must boot the very kernel that ours boots."""
    file = DebFile(
        role=Role.IMAGE, package="linux-image", archive=Archive.MAIN, suite="bookworm",
        filename="pool/main/l/linux/x.deb", size=1, sha256="a" * 64,
    )  # fmt: skip
    locked = LockedKernel(
        name="6.1-newest", version="6.1.1-1", seen="20260101T000000Z", files=(file,),
        release="6.1.0", vmlinuz_sha256="b" * 64,
    )  # fmt: skip
    cache = Cache(root=tmp_path)
    deb = tmp_path / "debs" / file.sha256 / "package.deb"

    assert boot.modules_package("6.1-newest", Lock(kernels=(locked,)), cache) is None
    deb.parent.mkdir(parents=True)
    deb.touch()
    assert boot.modules_package("6.1-newest", Lock(kernels=(locked,)), cache) == deb
    assert boot.modules_package("6.1-oldest", Lock(kernels=(locked,)), cache) is None


def test_an_error_of_a_round_ends_that_contender_only(tmp_path: Path) -> None:
    """The others are still worth knowing."""

    def broken(scratch: Path) -> float:
        raise HarnessError("it broke")

    cache = Cache(root=tmp_path)
    failed = boot._sampled(BARE, broken, cache, counts=True)
    warm = boot._sampled(BARE, lambda scratch: 1.0, cache, counts=False)
    counted = boot._sampled(BARE, lambda scratch: 1.0, cache, counts=True)

    assert (failed.unknown, failed.samples_s) == ("it broke", ())
    assert warm == BARE
    assert counted.samples_s == (*BARE.samples_s, 1.0)


def test_output_is_waited_for_until_its_deadline(tmp_path: Path) -> None:
    """A guest that hangs must not hang the bench."""
    silent = tmp_path / "vng"
    silent.mkdir()
    (silent / "bin").mkdir()
    (silent / "bin/vng").write_text("import time\ntime.sleep(60)\n")
    stuck = virtme.Virtme(
        python=silent, programs=silent, root=silent, vmlinuz=silent, busybox=silent
    )

    with pytest.raises(HarnessError, match="ran no command within 1 s"):
        virtme.boot(stuck, Machine(), tmp_path, timeout_s=1)
    (silent / "bin/vng").write_text("print('no such kernel')\n")
    with pytest.raises(HarnessError, match="virtme-ng ended: no such kernel"):
        virtme.boot(stuck, Machine(), tmp_path, timeout_s=30)
    (silent / "bin/vng").write_text("import sys\nprint('boot', sys.argv[-1])\n")
    assert 0 < virtme.boot(stuck, Machine(), tmp_path, timeout_s=30) < 30


def test_programs_are_wrapped_with_their_loader(tmp_path: Path) -> None:
    """They come from another Debian than the machine's, and need its libraries."""
    script = tmp_path / "tool"
    virtme._script(script, ["/bin/sh", "-c", 'echo "$A $1"', "x"], {"A": "b c"})

    from harness import process

    assert process.run([script, "d e"], timeout_s=10).text == "b c d e\n"


def test_a_package_without_modules_is_refused(tmp_path: Path) -> None:
    """Kernels of 7.x keep them in another package."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    from harness import baseroot, process

    process.run(["dpkg-deb", "--build", tree, tmp_path / "x.deb"], timeout_s=30)

    with pytest.raises(UnavailableError, match="holds no image with its modules"):
        virtme.prepare(
            tmp_path / "x.deb", baseroot.BaseRoot(directory=tmp_path), Cache(root=tmp_path / "c"),
            print,
        )  # fmt: skip
