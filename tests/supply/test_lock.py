# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.catalogue import load
from harness.errors import UsageError
from harness.supply.lock import (
    Archive,
    DebFile,
    Lock,
    LockedKernel,
    Role,
    read_lock,
    write_lock,
)

KERNELS = Path(__file__).parents[2] / "kernels"
IMAGE = DebFile(
    role=Role.IMAGE,
    package="linux-image-6.1.0-1-cloud-amd64",
    archive=Archive.SECURITY,
    suite="bookworm-security",
    filename="pool/main/l/linux/linux-image_6.1.1-1~x+y_amd64.deb",
    size=7,
    sha256="a" * 64,
)
ENTRY = LockedKernel(
    name="6.1-newest",
    version="6.1.1-1~x+y",
    seen="20261122T131500Z",
    files=(IMAGE, replace(IMAGE, role=Role.BASE)),
    release="6.1.0-1-cloud-amd64",
    vmlinuz_sha256="b" * 64,
)


def test_our_lock_is_read_and_belongs_to_our_catalogue() -> None:
    """An entry that no series claims is never used, and never noticed."""
    lock = read_lock(KERNELS / "kernels.lock")

    assert lock is not None
    names = {kernel.name: kernel for kernel in load(KERNELS).kernels}
    for entry in lock.kernels:
        assert entry.version.startswith((f"{names[entry.name].series}.", "7.3~rc"))


def test_a_lock_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Including the characters that Debian versions are made of."""
    path = tmp_path / "kernels.lock"
    lock = Lock().updated([replace(ENTRY, name="6.1-newest-arm64"), ENTRY])

    write_lock(path, lock)

    assert read_lock(path) == lock
    assert [entry.name for entry in lock.kernels] == ["6.1-newest", "6.1-newest-arm64"]
    assert [child.name for child in tmp_path.iterdir()] == ["kernels.lock"]


def test_no_lock_is_no_error(tmp_path: Path) -> None:
    """The first `inv kernels lock` starts from nothing."""
    assert read_lock(tmp_path / "absent") is None


def test_a_candidate_does_not_make_a_series_released() -> None:
    """The default matrix takes the newest *stable*."""
    lock = Lock(kernels=(ENTRY, replace(ENTRY, name="7.4-newest", version="7.4~rc2-1~exp1")))

    assert lock.released() == {"6.1"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1\n", "version = 9\n", "version 9 is not 1"),
        ("seen =", "sene =", "'seen' must be a text"),
        ("size = 7", "size = -7", "'size' must be a number"),
        ("size = 7", "size = 7\nsiez = 1", "unknown key 'siez'"),
        ("pool/main", "../../etc", "'filename' has an impossible value"),
        ("pool/main", "pool/../..", "'filename' has an impossible value"),
        ('filename = "', 'filename = "http://x/', "'filename' has an impossible value"),
        ('archive = "debian-security"', 'archive = "ftp"', "not a valid Archive"),
        ('role = "image"', 'role = "base"', "one file with role 'image'"),
        ("a" * 64, "a" * 63, "'sha256' has an impossible value"),
    ],
)
def test_a_wrong_lock_names_file_and_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    """It is a file of a repository: merges happen to it, and a path in it goes into an address."""
    path = tmp_path / "kernels.lock"
    write_lock(path, Lock(kernels=(ENTRY,)))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

    with pytest.raises(UsageError) as caught:
        read_lock(path)

    assert says in caught.value.message
    assert str(path) in caught.value.message
