# SPDX-License-Identifier: Apache-2.0
"""What tells the living from the dead: owners, run directories, the accelerator's memory."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness import accel, place, process, rundir
from harness.accel import Choice
from harness.cache import Cache
from harness.place import Local
from harness.qemu import Accelerator

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(root=tmp_path_factory.mktemp("c"))  # short: a socket's path goes in 108 bytes


def test_we_are_alive_and_a_dead_process_is_not() -> None:
    with process.held(["sleep", "600"]) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        started = stat.rpartition(")")[2].split()[19]
        while_held = place.alive(f"{child.pid}:{started}")

    assert place.alive(place.owner())
    assert while_held
    assert not place.alive(f"{child.pid}:{started}")


@pytest.mark.parametrize(
    "text",
    ["", ":", "1", "1:", ":1", "x:1", "-1:1", "999999999:1",
     pytest.param(f"{os.getpid()}:1", id="ours:1"), "1:0:0", "²:1"],
)  # fmt: skip
def test_what_names_no_living_process_is_dead(text: str) -> None:
    """A pid alone may be somebody else's today."""
    assert not place.alive(text)


def test_only_who_was_of_this_namespace_and_boot_is_known_to_be_dead() -> None:
    """An engine may be shared with other machines, and with containers whose pids mean others."""
    _, _, namespace, boot = place.owner().split(":")
    gone = f"{os.getpid()}:1:{namespace}:{boot}"

    assert place.dead(gone)
    assert not place.dead(place.owner())
    for text in (f"{os.getpid()}:1:{namespace}1:{boot}", f"{os.getpid()}:1:{namespace}:another",
                 f"{os.getpid()}:1", f"{os.getpid()}:1@pid:[{namespace}]", "", ":::",
                 f"::{namespace}:{boot}", f"{gone}:"):  # fmt: skip
        assert not place.dead(text), text
        assert not place.alive(text), text


def test_who_lives_here_is_nobody_in_another_namespace() -> None:
    pid, started, namespace, boot = place.owner().split(":")

    assert place.alive(f"{pid}:{started}")
    assert not place.alive(f"{pid}:{started}:{namespace}1:{boot}")
    assert not place.alive(f"{pid}:{started}:{namespace}:another")
    assert place.on_this_machine(f"1:1:{namespace}1:{boot}")
    assert not place.on_this_machine(f"{pid}:{started}:{namespace}:another")


def test_only_directories_of_the_dead_are_removed(cache: Cache) -> None:
    with process.held(["sleep", "600"]) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        owner = f"{child.pid}-{stat.rpartition(')')[2].split()[19]}"
    base = cache.directory("run")
    names = (f"{owner}-abc", f"{os.getpid()}-1-def", "strange")
    for name in names:
        (base / name / "deeper").mkdir(parents=True)
        (base / name / "initrd").write_bytes(b"x")
    with rundir.run_directory(cache) as ours:
        removed = rundir.remove_orphans(cache)

        assert ours.is_dir()
        assert list(base.iterdir()) == [ours]

    assert removed == len(names)
    assert list(base.iterdir()) == []


def test_a_directory_that_somebody_holds_stays_whoever_its_name_names(cache: Cache) -> None:
    """A harness in another container shares the cache, and its pid is nobody here."""
    path = cache.directory("run") / "999999999-1-abc"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert rundir.remove_orphans(cache) == 0
        assert path.is_dir()
    finally:
        os.close(descriptor)

    assert rundir.remove_orphans(cache) == 1
    assert not path.exists()


def test_a_run_directory_that_is_taken_for_left_before_it_is_held_is_made_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and holding it, a start in another container sees nobody's directory."""
    made: list[Path] = []
    make = tempfile.mkdtemp

    def taken(**words: Any) -> str:
        made.append(Path(make(**words)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with rundir.run_directory(cache) as ours:
        assert [ours] == made[1:]
        assert ours.is_dir()


def test_a_run_directory_goes_with_its_block_whatever_happens(cache: Cache) -> None:
    def interrupted() -> None:
        with rundir.run_directory(cache) as ours:
            (ours / "initrd").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert list((cache.root / "run").iterdir()) == []


def _remember(cache: Cache, text: str) -> Path:
    memory = cache.directory("accel") / "local.json"
    memory.write_text(text)
    return memory


def _said(key: str) -> str:
    return json.dumps({"key": key, "accelerator": "kvm", "reason": "it did"})


@pytest.fixture
def _kvm_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where nothing but a probe can tell."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accel, "_KVM", tmp_path / "kvm")


@pytest.mark.usefixtures("_kvm_opens")
def test_a_probe_is_remembered_for_this_boot_and_this_qemu(cache: Cache) -> None:
    _remember(cache, _said(f"{_BOOT.read_text().strip()} QEMU 10"))
    where = Local(prefix=("false",))

    known = accel.choose(where, Path("/x"), Path("/x"), "QEMU 10", cache, pytest.fail)

    assert known == Choice(accelerator=Accelerator.KVM, reason="it did") == accel.remembered(cache)


@pytest.mark.usefixtures("_kvm_opens")
@pytest.mark.parametrize(
    "text",
    [_said("another-boot QEMU 10"), "", "{}", '{"key": 1}', "[]", "\\", '"key"',
     json.dumps({"key": "BOOT QEMU 10", "accelerator": "hvf", "reason": ""})],
    ids=["another boot", "empty", "no key", "number", "list", "no JSON", "text", "unknown"],
)  # fmt: skip
def test_another_boot_s_memory_or_a_damaged_one_is_no_memory(cache: Cache, text: str) -> None:
    _remember(cache, text.replace("BOOT", _BOOT.read_text().strip()))

    assert accel.remembered(cache) is None


@pytest.mark.usefixtures("_kvm_opens")
def test_a_probe_that_fails_means_tcg_with_the_reason_in_one_line(
    cache: Cache, tmp_path: Path
) -> None:
    """QEMU's own words say why, and they are asked for once."""
    archive = tmp_path / "guest.cpio"
    archive.write_bytes(b"")
    where = Local(prefix=("sh", "-c", "echo no such thing >&2; echo really >&2; exit 1"))
    said: list[str] = []

    choices = [
        accel.choose(where, tmp_path / "vmlinuz", archive, "QEMU 10", cache, said.append)
        for _ in range(2)
    ]

    assert choices[0] == choices[1]
    assert choices[0].accelerator is Accelerator.TCG
    assert "no such thing really" in choices[0].reason
    assert len(said) == 1
    assert list((cache.root / "run").iterdir()) == []


def test_without_the_device_nothing_is_probed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_KVM", Path("/dev/km-no-such"))

    assert accel.remembered(cache) == Choice(accelerator=Accelerator.TCG, reason="no /dev/kvm")


def test_a_device_that_does_not_open_says_why(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path)  # a directory: O_RDWR fails, even for root

    known = accel.remembered(cache)

    assert known is not None
    assert known.reason == "/dev/kvm does not open: Is a directory"
