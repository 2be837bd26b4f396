# SPDX-License-Identifier: Apache-2.0
"""Archives that the kernel unpacks, and programs with what they need."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from harness import closure, initramfs, process
from harness.errors import HarnessError


def _listing(archive: Path) -> dict[str, str]:
    """name → mode, as cpio itself reads the archive."""
    with archive.open("rb") as file:
        done = process.run(
            ["cpio", "--quiet", "-itv", "--numeric-uid-gid"], stdin=file.read(), timeout_s=20
        )
    lines = [line.split(maxsplit=8) for line in done.text.splitlines()]
    return {line[8]: line[0] for line in lines}


def test_files_keep_their_modes_and_links_stay_links(tmp_path: Path) -> None:
    """A program without its x bit would not run in the guest."""
    program, tree = tmp_path / "program", tmp_path / "tree"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    tree.mkdir()
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "data").write_bytes(b"x")
    archive = tmp_path / "a.cpio"

    initramfs.pack({"/bin/program": program, "/data": tree}, archive, links={"/sh": "bin/program"})

    found = _listing(archive)
    assert found["bin/program"] == "-rwxr-xr-x"
    assert found["data/link -> /etc/passwd"].startswith("l")
    assert found["sh -> bin/program"].startswith("l")
    assert "data/data" in found


def test_an_executable_that_lost_its_mode_is_one_again(tmp_path: Path) -> None:
    """Artifacts of a CI keep no modes; an object file and text are no executables."""
    program, script, text = (tmp_path / name for name in ("program", "script", "text"))
    shutil.copyfile(str(process.which("true")), program)
    script.write_text("#!/bin/sh\n")
    text.write_text("hello\n")
    initramfs.pack({"/program": program, "/script": script, "/text": text}, tmp_path / "archive")
    found = _listing(tmp_path / "archive")
    assert found["program"].endswith("rwxr-xr-x")
    assert found["script"].endswith("rwxr-xr-x")
    assert found["text"].endswith("rw-r--r--")


def test_sockets_and_pipes_are_left_out(tmp_path: Path) -> None:
    """A person's directory may hold anything; the guest gets files."""
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "pipe")
    (tree / "file").touch()
    archive = tmp_path / "a.cpio"

    initramfs.pack({"/t": tree}, archive)

    assert set(_listing(archive)) == {"t", "t/file"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message says which file, not that cpio failed."""
    with pytest.raises(HarnessError, match="absent"):
        initramfs.pack({"/x": tmp_path / "absent"}, tmp_path / "a.cpio")


def test_the_second_archive_begins_where_the_kernel_looks(tmp_path: Path) -> None:
    """The kernel skips zeros to a 4-byte boundary between archives."""
    one, two, initrd = tmp_path / "1", tmp_path / "2", tmp_path / "initrd"
    one.write_bytes(b"a" * 513)
    two.write_bytes(b"b" * 7)

    initramfs.concatenate([one, two], initrd)

    content = initrd.read_bytes()
    assert content[:513] == b"a" * 513
    assert content[1024:1031] == b"b" * 7
    assert len(content) % 4 == 0


def test_a_closure_holds_loader_and_libraries() -> None:
    """A dynamic program of the host, with everything its kernel and loader will look for."""
    found = closure.closure(Path("/"), ["/usr/bin/env"])

    names = {Path(inside).name for inside in found}
    assert "libc.so.6" in names
    assert any(name.startswith("ld-linux") for name in names)
    assert all(stat.S_ISREG(path.stat().st_mode) for path in found.values())


def test_a_program_that_is_not_there_is_named() -> None:
    """The base root changed: say what is missing."""
    with pytest.raises(HarnessError, match="/usr/bin/absent"):
        closure.closure(Path("/"), ["/usr/bin/absent"])
