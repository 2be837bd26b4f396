# SPDX-License-Identifier: Apache-2.0
"""inv doctor: facts in, judgement and the mending command out."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import doctor
from harness.accel import Choice
from harness.cache import Cache
from harness.doctor import DoctorReport, Facts, PackageFact, Row, State
from harness.qemu import Accelerator
from harness.system import Need, Package

_GIB = 1 << 30


def _fact(name: str, need: Need = Need.RUN, *, present: bool = True) -> PackageFact:
    package = Package(name=name, need=need, seen_by=name, purpose=f"what {name} is for")
    return PackageFact(package=package, present=present, version="1.2-3" if present else "")


GOOD = Facts(
    distribution="Debian GNU/Linux 12 (bookworm)", kernel="6.1.0 x86_64", python="3.11.2",
    packages=(
        _fact("python3", Need.VENV), _fact("cpio"), _fact("clang", Need.BUILD),
        _fact("bpftool", Need.TESTS), _fact("docker.io", Need.OPTIONAL),
    ),
    tools={"clang": "14.0.6", "libbpf": "1.1.2"},
    engine="28.0", engine_reason="",
    kvm=Choice(accelerator=Accelerator.KVM, reason="a guest booted in 1.0 s"),
    cache=Path("/home/someone/.cache/kernel-matrix"),
    disk_free=50 * _GIB, memory_available=8 * _GIB, cores=4,
    mirror="http://mirror.example/debian", mirror_reason="",
    qemu="QEMU emulator version 10.0.2",
)  # fmt: skip


def _row(report: DoctorReport, subject: str) -> Row:
    rows = {row.subject: row for _, section in report.sections for row in section}
    return rows[subject]


def test_a_machine_with_everything_is_healthy() -> None:
    """The exit status rests on this."""
    report = doctor.judge(GOOD)

    assert report.healthy
    assert report.commands == ()
    assert doctor.render(report).endswith("everything required is there")


@pytest.mark.parametrize(
    ("change", "subject", "said"),
    [
        ({"packages": (_fact("cpio", present=False),)}, "cpio", "what cpio is for"),
        ({"tools": {"clang": "11.0.1", "libbpf": "1.1"}}, "clang version", "older than 14.0"),
        ({"tools": {"clang": "14.0", "libbpf": "0.5.0"}}, "libbpf version", "older than 1.1"),
        ({"disk_free": _GIB}, "disk", "1.0 GiB free at /home/someone/.cache/kernel-matrix, under"),
        ({"memory_available": _GIB // 2}, "memory", "0.5 GiB free, under the 1 GiB"),
        ({"mirror": "", "mirror_reason": "no apt here", "qemu": ""}, "Debian mirror", "no apt"),
    ],
    ids=["package", "clang", "libbpf", "disk", "memory", "mirror"],
)  # fmt: skip
def test_a_required_thing_that_is_missing_is_named(
    change: dict[str, object], subject: str, said: str
) -> None:
    """Exit status 1, and the reason in the row."""
    report = doctor.judge(dataclasses.replace(GOOD, **change))  # type: ignore[arg-type]  # rows above

    assert not report.healthy
    assert _row(report, subject).state is State.MISSING
    assert said in _row(report, subject).found


@pytest.mark.parametrize(
    ("change", "subject", "said"),
    [
        ({"engine": "", "engine_reason": "does not run"}, "Docker engine", "--backend local"),
        ({"kvm": None}, "KVM", "only a guest booted under it proves"),
        (
            {"kvm": Choice(accelerator=Accelerator.TCG, reason="no /dev/kvm")},
            "KVM", "no /dev/kvm; guests are emulated",
        ),
        ({"mirror": "", "mirror_reason": "no apt here"}, "Debian mirror", "no apt here"),
        ({"qemu": ""}, "QEMU", "the first run makes it"),
        ({"packages": (_fact("bpftool", Need.TESTS, present=False),)}, "bpftool", "(tests)"),
        ({"tools": {"clang": "", "libbpf": ""}}, "clang version", "unknown"),
    ],
    ids=["engine", "kvm untried", "kvm refused", "mirror unneeded", "no root", "tests", "unasked"],
)  # fmt: skip
def test_what_has_a_fallback_is_a_note(change: dict[str, object], subject: str, said: str) -> None:
    """A machine without Docker or KVM is one that works."""
    report = doctor.judge(dataclasses.replace(GOOD, **change))  # type: ignore[arg-type]  # rows above

    assert report.healthy
    assert _row(report, subject).state is State.NOTE
    assert said in _row(report, subject).found


def test_one_command_mends_all_missing_packages() -> None:
    """Five lines to paste are four too many; the tests' are apart, for few need them."""
    facts = dataclasses.replace(
        GOOD,
        packages=(
            _fact("cpio", present=False), _fact("clang", Need.BUILD, present=False),
            _fact("bpftool", Need.TESTS, present=False),
            _fact("docker.io", Need.OPTIONAL, present=False),
        ),
    )  # fmt: skip
    report = doctor.judge(facts)

    assert len(report.commands) == 2
    assert " cpio clang" in report.commands[0]
    assert " bpftool " in report.commands[1]
    assert "docker.io" not in "".join(report.commands)
    assert report.commands[0] in doctor.render(report)
    assert doctor.render(report).endswith("2 things missing")


@pytest.mark.parametrize(
    ("installed", "reason", "remedy"),
    [
        (False, "does not run", "docker.io"),
        (True, "no permission for the socket", "usermod"),
        (True, "does not answer", "systemctl start docker"),
    ],
    ids=["not installed", "no permission", "not started"],
)
def test_the_engines_remedy_fits_its_trouble(installed: bool, reason: str, remedy: str) -> None:
    """Installing what is there, or starting what is not, wastes an hour."""
    facts = dataclasses.replace(
        GOOD, engine="", engine_reason=reason,
        packages=(_fact("docker.io", Need.OPTIONAL, present=installed),),
    )  # fmt: skip

    assert remedy in _row(doctor.judge(facts), "Docker engine").remedy


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    """Every fact is gathered for real once, with a cache that does not exist yet."""
    facts = doctor.gather(Cache(root=tmp_path / "not/yet"))

    assert facts.cores >= 1
    assert facts.memory_available > 0
    assert facts.disk_free > 0
    assert facts.qemu == ""
    assert not (tmp_path / "not").exists()
    assert doctor.render(doctor.judge(facts))


# The SDK leaves the socket it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("exists", [False, True], ids=["no socket", "a socket nobody serves"])
def test_an_engine_that_is_not_there_has_a_reason(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` falls back to local; a person wants to know why."""
    socket = tmp_path / "docker.sock"
    if exists:
        socket.touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    ask: Callable[[], tuple[str, str]] = doctor._engine

    assert ask() == ("", "does not answer")
    gc.collect()
