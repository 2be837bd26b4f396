# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.supply import deb
from tests.supply import images


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def file(name: str, content: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


@pytest.mark.parametrize("name", ["boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz"])
def test_the_kernel_is_found_where_debian_keeps_it(tmp_path: Path, name: str) -> None:
    """The place moved with the split of the image package."""
    package = images.deb(tmp_path / "k.deb", "k", "1", {name: b"kernel", "usr/doc/x": b"no"})
    (tmp_path / "out").mkdir()

    found = deb.extract_deb(package, tmp_path / "out")

    assert found == {"vmlinuz": f"./{name}"}
    assert (tmp_path / "out" / "vmlinuz").read_bytes() == b"kernel"


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(file("../../boot/vmlinuz-6.1"), id="path-traversal"),
        pytest.param(file("./boot/../../vmlinuz-6.1"), id="path-traversal-within"),
        pytest.param(link("./boot/vmlinuz-6.1", "/etc/passwd"), id="symlink-out"),
        pytest.param(link("./boot/vmlinuz-6.1", "../etc/passwd", tarfile.LNKTYPE), id="hard-link"),
        pytest.param(link("./boot/vmlinuz-6.1", "", tarfile.CHRTYPE), id="device"),
        pytest.param(link("./boot/vmlinuz-6.1", "", tarfile.FIFOTYPE), id="fifo"),
    ],
)
def test_a_hostile_member_is_not_taken(
    tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]
) -> None:
    """A --kernel-dir may hold anything, and so may an image; nothing is written out of place."""
    package = images.hostile_deb(tmp_path / "k.deb", [member, file("./boot/config-6.1", b"C")])
    out = tmp_path / "a" / "b" / "out"
    out.mkdir(parents=True)

    assert deb.extract_deb(package, out) == {"config": "./boot/config-6.1"}
    assert {path.name for path in tmp_path.rglob("*")} == {"k.deb", "a", "b", "out", "config"}


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    """First a link named like our target, then a file."""
    package = images.hostile_deb(
        tmp_path / "k.deb",
        [link("./vmlinuz", "/tmp"), link("./boot/vmlinuz-1", "/x"), file("./boot/vmlinuz-2")],
    )
    (tmp_path / "out").mkdir()

    deb.extract_deb(package, tmp_path / "out")

    assert (tmp_path / "out" / "vmlinuz").read_bytes() == b"evil"
    assert not (tmp_path / "out" / "vmlinuz").is_symlink()


def test_a_member_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel of two GB is none."""
    monkeypatch.setattr(deb, "MAX_MEMBER_BYTES", 3)
    package = images.deb(tmp_path / "k.deb", "k", "1", {"boot/vmlinuz-1": b"four"})

    with pytest.raises(HarnessError, match="has 4 bytes"):
        deb.extract_deb(package, tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_package_is_refused(tmp_path: Path, keep: int) -> None:
    """The cache notices first; this is for packages that come another way."""
    package = images.deb(tmp_path / "k.deb", "k", "1", {"boot/vmlinuz-1": images.noise(200_000)})
    package.write_bytes(package.read_bytes()[:keep])
    (tmp_path / "out").mkdir()

    with pytest.raises(HarnessError, match=r"archive|ends within"):
        deb.extract_deb(package, tmp_path / "out")
