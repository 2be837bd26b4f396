# SPDX-License-Identifier: Apache-2.0
"""What was seen of a guest's QEMU → what holds. What was not seen never does."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from harness import confine, security
from harness.cache import Cache
from harness.confine import Means, User
from harness.errors import HarnessError
from harness.process import ProcessTimeoutError
from harness.security import Inspection, Mark, Seen

_NONE = "0000000000000000"
GOOD = Seen(
    status={
        "Uid": "1000 1000 1000 1000", "Gid": "1000 1000 1000 1000", "Groups": "1000",
        "CapInh": _NONE, "CapPrm": _NONE, "CapEff": _NONE, "CapBnd": _NONE, "CapAmb": _NONE,
        "NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1",
    },
    namespaces=dict.fromkeys(("mnt", "net", "pid", "ipc", "uts"), True),
    interfaces=("lo",), writable=("/cache/run/1/console.log",), environment=("QEMU_MODULE_DIR",),
    limits={
        "Max address space": "5100273664", "Max processes": "128", "Max cpu time": "43200",
        "Max file size": "536870912", "Max core file size": "0",
    },
    sockets=(),
)  # fmt: skip


def _marks(seen: Seen, *, contained: bool = False) -> dict[str, Mark]:
    return {one.subject: one.mark for one in security.judge(seen, contained=contained)}


def _changed(**status: str) -> Seen:
    return dataclasses.replace(GOOD, status={**GOOD.status, **status})


def test_a_guest_that_is_kept_in_keeps_every_promise() -> None:
    assert set(_marks(GOOD).values()) == {Mark.HOLDS}


@pytest.mark.parametrize(
    ("seen", "subject"),
    [
        (_changed(Uid="0 0 0 0"), "not root"),
        (_changed(Uid="1000 1000 0 1000"), "not root"),  # the saved one: it could go back
        (_changed(Groups="0 1000"), "not root"),
        (_changed(CapBnd="000001ffffffffff"), "no capability"),
        (_changed(CapEff="0000000000200000"), "no capability"),
        (_changed(NoNewPrivs="0"), "no new privileges"),
        (_changed(Seccomp="0", Seccomp_filters="0"), "seccomp"),
        (dataclasses.replace(GOOD, interfaces=("lo", "eth0")), "no network"),
        (dataclasses.replace(GOOD, namespaces={**GOOD.namespaces, "net": False}), "no network"),
        (dataclasses.replace(GOOD, namespaces={**GOOD.namespaces, "pid": False}), "namespaces"),
        (dataclasses.replace(GOOD, writable=("/",)), "read-only root"),
        (dataclasses.replace(GOOD, writable=("/home/me",)), "read-only root"),
        (dataclasses.replace(GOOD, sockets=("/run/docker.sock",)), "no engine socket"),
        (dataclasses.replace(GOOD, environment=("AWS_SECRET",)), "environment"),
        (
            dataclasses.replace(GOOD, limits={**GOOD.limits, "Max processes": "unlimited"}),
            "processes limit",
        ),
    ],
    ids=[
        "root", "saved uid", "root's group", "bounding", "effective", "privileges", "seccomp",
        "interface", "network", "pids", "root file system", "home", "socket", "secret", "limit",
    ],
)  # fmt: skip
def test_each_broken_promise_is_told_and_no_other(seen: Seen, subject: str) -> None:
    marks = _marks(seen)

    assert marks.pop(subject) is Mark.BROKEN
    assert Mark.HOLDS in marks.values()
    assert all(mark is Mark.HOLDS for name, mark in marks.items() if name != "namespaces")


def test_what_cannot_be_seen_is_unknown_and_never_holds() -> None:
    """/proc of another user's process shows little."""
    blind = Seen(
        status={}, namespaces={}, interfaces=None, writable=None, environment=None, limits={},
        sockets=None,
    )  # fmt: skip

    assert set(_marks(blind).values()) == {Mark.UNKNOWN}
    promises = security.judge(blind, contained=False)
    assert not security.holds([Inspection(place="local", promises=promises)])
    assert "14 promises" in security.render([Inspection(place="local", promises=promises)])


def test_a_container_needs_the_engine_s_filter_beside_qemu_s() -> None:
    """An engine may have been started with seccomp off."""
    assert _marks(GOOD, contained=True)["seccomp"] is Mark.BROKEN
    assert _marks(_changed(Seccomp_filters="2"), contained=True)["seccomp"] is Mark.HOLDS


def test_without_a_place_nothing_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No base root yet, no engine: green would be a lie."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'none.sock'}")

    found = security.inspect(Cache(root=tmp_path / "cache"))

    assert not security.holds(found)
    assert "no base root in the cache yet" in security.render(found)


def test_two_guests_of_a_root_harness_are_two_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them, taken over, could send signals to the other."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    users = {confine.next_user().uid for _ in range(64)}

    assert len(users) == 64 or users == {65534}  # where those are not mapped
    assert 0 not in users


def test_the_last_word_before_qemu_sets_the_death_signal_again() -> None:
    """A change of user clears it, and the guest would outlive a killed harness."""
    words = confine.words(
        Means.OWN_USER, base=Path("/base"), run_dir=Path("/run/1"), user=User(uid=7, gid=8),
        writes=("console.log",), memory_mib=768, kvm=False, environment={"A": "b c"},
    )  # fmt: skip

    assert words[-3:] == ["--pdeathsig", "KILL", "--"]
    assert words.index("--reuid=7") > words.index("A=b c")
    assert "--bounding-set=-all" in words


def test_a_disk_or_a_machine_in_trouble_does_not_leave_guests_without_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is kept for all of a run's guests."""
    monkeypatch.setattr(confine, "_found", {})
    with pytest.raises(HarnessError, match="cannot write in"):
        confine.means(Path("/base"), tmp_path / "gone")
    monkeypatch.setattr(confine, "words", lambda how, **rest: ["sh", "-c", "sleep 60"])
    monkeypatch.setattr(confine, "_PROBE_TIMEOUT_S", 0.2)
    with pytest.raises(ProcessTimeoutError):
        confine.means(Path("/base"), tmp_path)
    monkeypatch.setattr(confine, "words", lambda how, **rest: ["true"])
    assert confine.means(Path("/base"), tmp_path) is not Means.PLAIN
