# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from harness import process, source_tree
from harness.errors import HarnessError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


def unpacked(archive: Path, into: Path) -> Path:
    """The archive's content as cpio, not us, understands it."""
    (into / "src").mkdir(parents=True)
    process.run(
        ["cpio", "--quiet", "--extract", "--make-directories", "--no-absolute-filenames"],
        stdin=archive.read_bytes(), cwd=into, timeout_s=30,
    )  # fmt: skip
    return into / "src"


def test_files_arrive_with_content_mode_and_strange_names(tree: Path, tmp_path: Path) -> None:
    """A test script has to stay executable, whatever it is called."""
    (tree / "a b").mkdir()
    script = tree / "a b" / "line\nbreak.sh"
    script.write_bytes(b"\x00\xffbinary")
    script.chmod(0o755)
    (tree / "\udcfe").write_bytes(b"x")  # the byte 0xfe

    size = source_tree.pack(tree, "src", tmp_path / "a.cpio")

    found = unpacked(tmp_path / "a.cpio", tmp_path / "out")
    assert (found / "a b" / "line\nbreak.sh").read_bytes() == b"\x00\xffbinary"
    assert (found / "a b" / "line\nbreak.sh").stat().st_mode & 0o777 == 0o755
    assert (found / "\udcfe").read_bytes() == b"x"
    assert size == (tmp_path / "a.cpio").stat().st_size


def test_symbolic_links_are_never_followed(tree: Path, tmp_path: Path) -> None:
    """What lies outside the directory was not given to the guest."""
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "key").write_text("do not carry")
    (tree / "directory").symlink_to(outside)
    (tree / "file").symlink_to(outside / "key")

    source_tree.pack(tree, "src", tmp_path / "a.cpio")

    found = unpacked(tmp_path / "a.cpio", tmp_path / "out")
    assert (found / "directory").readlink() == outside
    assert (found / "file").readlink() == outside / "key"
    assert b"do not carry" not in (tmp_path / "a.cpio").read_bytes()


def test_what_has_no_content_is_left_out(tree: Path, tmp_path: Path) -> None:
    """Reading a pipe of the directory would hang."""
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))

        source_tree.pack(tree, "src", tmp_path / "a.cpio")

    assert list(unpacked(tmp_path / "a.cpio", tmp_path / "out").iterdir()) == []


def test_an_empty_directory_is_an_empty_archive(tree: Path, tmp_path: Path) -> None:
    source_tree.pack(tree, "src", tmp_path / "a.cpio")

    assert list(unpacked(tmp_path / "a.cpio", tmp_path / "out").iterdir()) == []


def test_a_directory_over_the_limit_is_refused_before_it_is_read(
    tree: Path, tmp_path: Path
) -> None:
    """A sparse file of a terabyte must cost neither time nor disk."""
    with (tree / "huge").open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(HarnessError, match="holds over 2 MiB") as caught:
        source_tree.pack(tree, "src", tmp_path / "a.cpio", limit_mib=2)

    assert "KERNEL_MATRIX_SRC_LIMIT_MIB" in caught.value.hint
    assert not (tmp_path / "a.cpio").exists()


def test_a_million_empty_files_count_too(tree: Path, tmp_path: Path) -> None:
    """Each costs the guest an inode, though its size is nothing."""
    for number in range(2100):
        (tree / f"{number}").touch()

    with pytest.raises(HarnessError, match="holds over 1 MiB"):
        source_tree.pack(tree, "src", tmp_path / "a.cpio", limit_mib=1)


def test_no_directory_is_said_in_a_line(tree: Path, tmp_path: Path) -> None:
    (tree / "file").touch()

    with pytest.raises(HarnessError, match="it is no directory"):
        source_tree.pack(tree / "file", "src", tmp_path / "a.cpio")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tree: Path, tmp_path: Path) -> None:
    """A guest that lacks a file without a word would fail for a reason nobody sees."""
    (tree / "secret").touch(mode=0)

    with pytest.raises(HarnessError, match=r"secret.*Permission denied"):
        source_tree.pack(tree, "src", tmp_path / "a.cpio")
