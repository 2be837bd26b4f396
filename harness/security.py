# SPDX-License-Identifier: Apache-2.0
"""What really keeps a guest in: start a QEMU as a run would, and look at it from outside.

Nothing is believed that was only asked for: the answers come from /proc of that process (proc(5),
namespaces(7)), and from the engine for a container's cgroup. What cannot be seen is unknown.
"""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import docker
import docker.errors
import requests

from harness import kernel_container, qemu, rundir
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.errors import HarnessError
from harness.images import RECIPE_LABEL, REPOSITORY
from harness.kernel_container import Docker
from harness.place import CONSOLE, OWNER_VARIABLE, Local, Place
from harness.qemu import PROGRAM, Accelerator, Arch, Machine

_START_TIMEOUT_S = 30.0  # until QEMU has its seccomp filter on; 0.1 s on an idle machine
_LEFT_OUT = ("-kernel", "-initrd", "-append")  # nothing is booted, QEMU stops before it (-S)
_PRIVATE = ("mnt", "net", "pid", "ipc", "uts")
_ENGINE_SOCKETS = ("var/run/docker.sock", "run/docker.sock", "run/containerd/containerd.sock")
_MEMORY = ("/tmp", "/dev/mqueue", "/dev/shm")  # a container's own, limited as its memory is
_UNLIMITED = "unlimited"
_MANY_TASKS = 4096  # over that it is the limit of the user, not of the guest


class Mark(StrEnum):
    """How a promise stands."""

    HOLDS = "holds"
    BROKEN = "DOES NOT HOLD"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """One line of the answer."""

    subject: str
    mark: Mark
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A guest's QEMU as /proc shows it; "" or empty: not to be seen."""

    status: Mapping[str, str]  # /proc/PID/status: "Uid" → "1000 1000 1000 1000"
    namespaces: Mapping[str, bool]  # "net" → whether it is another one than ours
    interfaces: tuple[str, ...] | None  # of its network
    writable: tuple[str, ...] | None  # where a file system is mounted that it may write
    environment: tuple[str, ...] | None  # names
    limits: Mapping[str, str]  # /proc/PID/limits: "Max processes" → its hard limit
    sockets: tuple[str, ...] | None  # of container engines, in its file system
    cgroup: Mapping[str, int] = field(default_factory=dict)  # "memory" → bytes, as the engine says


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What holds at one place."""

    place: str
    promises: tuple[Promise, ...]
    note: str = ""  # why there are none

    @property
    def holds(self) -> bool:
        return all(promise.mark is Mark.HOLDS for promise in self.promises)


def inspect(cache: Cache) -> list[Inspection]:
    """Start a guest's QEMU at each place that this machine has, and look at it."""
    return [_local(cache), _docker(cache)]


def holds(found: list[Inspection]) -> bool:
    """Whether every promise does, at every place that is there."""
    return any(one.promises for one in found) and all(one.holds for one in found)


def render(found: list[Inspection]) -> str:
    """Inspections → text."""
    lines: list[str] = []
    width = max((len(p.subject) for one in found for p in one.promises), default=0)
    for one in found:
        lines.append(one.place + (f": {one.note}" if one.note else ""))
        for p in one.promises:
            remedy = f"  → {p.remedy}" if p.remedy and p.mark is not Mark.HOLDS else ""
            lines.append(f"  {p.mark:<13}  {p.subject:<{width}}  {p.found}{remedy}")
        lines.append("")
    broken = sum(p.mark is not Mark.HOLDS for one in found for p in one.promises)
    if broken:
        lines.append(f"{broken} promises do not hold, or could not be seen")
    else:
        lines.append("everything holds" if holds(found) else "nothing could be looked at")
    return "\n".join(lines)


def judge(seen: Seen, *, contained: bool) -> tuple[Promise, ...]:
    """What was seen → promises. contained: a container engine has it."""
    filters = 2 if contained else 1
    remedy = (
        "the engine changed what we asked for: see its configuration (daemon.json)" if contained
        else "no namespace can be made here: allow those of users (sysctl user.max_user_namespaces, "
        "kernel.apparmor_restrict_unprivileged_userns), give a container CAP_SYS_ADMIN, or use "
        "--backend docker"
    )  # fmt: skip
    return (
        _user(seen, remedy),
        _capabilities(seen, remedy),
        _flag(seen, "NoNewPrivs", "no new privileges", remedy),
        _seccomp(seen, filters, remedy),
        _network(seen, remedy),
        _apart(seen, remedy),
        _files(seen, remedy),
        _engine_socket(seen),
        _environment(seen, contained=contained, remedy=remedy),
        _limit(seen, "memory", "memory", "Max address space", 1 << 20, "MiB"),
        _limit(seen, "processes", "pids", "Max processes", 1, ""),
        _limit(seen, "CPU", "cpu", "Max cpu time", 1, "s in all"),
        _limit(seen, "file size", "", "Max file size", 1 << 20, "MiB"),
        _limit(seen, "core dumps", "", "Max core file size", 1, "bytes"),
    )


def _user(seen: Seen, remedy: str) -> Promise:
    subject = "not root"
    uids, gids = seen.status.get("Uid", "").split(), seen.status.get("Gid", "").split()
    if not uids or not gids:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="its user cannot be seen")
    groups = [g for g in seen.status.get("Groups", "").split() if g not in gids]
    found = f"user {uids[0]}, group {gids[0]}, " + (
        f"and the groups {' '.join(groups)}" if groups else "in no other group"
    )
    # In a user namespace, one's own groups stay: they cannot be given up there.
    ok = "0" not in (*uids, *gids, *groups)
    return Promise(
        subject=subject, mark=Mark.HOLDS if ok else Mark.BROKEN, found=found, remedy=remedy
    )


def _capabilities(seen: Seen, remedy: str) -> Promise:
    subject = "no capability"
    sets = {n: seen.status.get(f"Cap{n}", "") for n in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    if not all(sets.values()):
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="its sets cannot be seen")
    held = {name: value for name, value in sets.items() if int(value, 16)}
    if held:
        said = ", ".join(f"Cap{name} {value}" for name, value in held.items())
        return Promise(subject=subject, mark=Mark.BROKEN, found=said, remedy=remedy)
    return Promise(
        subject=subject, mark=Mark.HOLDS, found="all sets are empty, the bounding set too"
    )


def _flag(seen: Seen, name: str, subject: str, remedy: str) -> Promise:
    value = seen.status.get(name, "")
    if value == "":
        return Promise(subject=subject, mark=Mark.UNKNOWN, found=f"no {name} in /proc")
    mark = Mark.HOLDS if value == "1" else Mark.BROKEN
    return Promise(subject=subject, mark=mark, found=f"{name} {value}", remedy=remedy)


def _seccomp(seen: Seen, least: int, remedy: str) -> Promise:
    subject = "seccomp"
    whose = "QEMU's and the engine's" if least > 1 else "QEMU's"
    mode, count = seen.status.get("Seccomp", ""), seen.status.get("Seccomp_filters", "")
    if mode == "" or (mode == "2" and count == ""):  # the count is there since Linux 5.9
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="no filters in /proc")
    ok = mode == "2" and int(count) >= least
    found = f"{count or 0} filters ({whose})" if ok else f"mode {mode}, {count or 0} filters"
    return Promise(
        subject=subject, mark=Mark.HOLDS if ok else Mark.BROKEN, found=found, remedy=remedy
    )


def _network(seen: Seen, remedy: str) -> Promise:
    subject = "no network"
    if "net" not in seen.namespaces or seen.interfaces is None:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="its network cannot be seen")
    others = [name for name in seen.interfaces if name != "lo"]
    ok = seen.namespaces["net"] and not others
    where = "a network namespace of its own" if seen.namespaces["net"] else "this machine's"
    found = f"{where}: {', '.join(others) or 'the loopback alone'}"
    return Promise(
        subject=subject, mark=Mark.HOLDS if ok else Mark.BROKEN, found=found, remedy=remedy
    )


def _apart(seen: Seen, remedy: str) -> Promise:
    subject = "namespaces"
    unseen = [name for name in _PRIVATE if name not in seen.namespaces]
    if unseen:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found=f"not seen: {' '.join(unseen)}")
    shared = [name for name in _PRIVATE if not seen.namespaces[name]]
    if shared:
        found = f"shared with this machine: {' '.join(shared)}"
        return Promise(subject=subject, mark=Mark.BROKEN, found=found, remedy=remedy)
    return Promise(subject=subject, mark=Mark.HOLDS, found=f"its own: {' '.join(_PRIVATE)}")


def _files(seen: Seen, remedy: str) -> Promise:
    subject = "read-only root"
    if seen.writable is None:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="its mounts cannot be seen")
    ok = all(Path(path).name == CONSOLE or path in _MEMORY for path in seen.writable)
    shown = " ".join(seen.writable[:6]) or "nothing"
    found = f"it may write in {shown}"
    return Promise(
        subject=subject, mark=Mark.HOLDS if ok else Mark.BROKEN, found=found, remedy=remedy
    )


def _engine_socket(seen: Seen) -> Promise:
    subject = "no engine socket"
    if seen.sockets is None:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="its files cannot be seen")
    if seen.sockets:
        found = f"reachable: {' '.join(seen.sockets)}"
        return Promise(subject=subject, mark=Mark.BROKEN, found=found)
    return Promise(subject=subject, mark=Mark.HOLDS, found="none in its file system")


def _environment(seen: Seen, *, contained: bool, remedy: str) -> Promise:
    subject = "environment"
    if seen.environment is None:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="it cannot be seen")
    expected = (
        {"PATH", "HOSTNAME", "HOME"} if contained else {"QEMU_MODULE_DIR", "PATH", OWNER_VARIABLE}
    )
    foreign = [name for name in seen.environment if name not in expected]
    if foreign:
        found = f"{len(foreign)} variables of this machine"
        return Promise(subject=subject, mark=Mark.BROKEN, found=found, remedy=remedy)
    return Promise(subject=subject, mark=Mark.HOLDS, found="nothing of this machine's")


def _limit(seen: Seen, what: str, cgroup: str, resource: str, unit_size: int, unit: str) -> Promise:
    subject = f"{what} limit"
    if seen.cgroup.get(cgroup):
        shown = {"cpu": 1e9, "memory": 1 << 20}.get(cgroup, 1)
        word = {"cpu": "CPUs", "memory": "MiB"}.get(cgroup, "")
        found = f"{seen.cgroup[cgroup] / shown:g} {word}".strip()
        return Promise(subject=subject, mark=Mark.HOLDS, found=f"{found}, by cgroup")
    value = seen.limits.get(resource, "")
    if not value:
        return Promise(subject=subject, mark=Mark.UNKNOWN, found="its limits cannot be seen")
    if value == _UNLIMITED:
        return Promise(subject=subject, mark=Mark.BROKEN, found=_UNLIMITED)
    found = f"{int(value) // unit_size} {unit}".strip()
    if cgroup == "pids" and int(value) > _MANY_TASKS:
        return Promise(subject=subject, mark=Mark.BROKEN, found=f"{found}, as anybody's")
    return Promise(subject=subject, mark=Mark.HOLDS, found=f"{found}, by rlimit")


def _local(cache: Cache) -> Inspection:
    programs = (cache.root / "base-root").glob(f"[!.]*/usr/bin/{PROGRAM[Arch.X86_64]}")
    roots = sorted((p.parents[2] for p in programs), key=lambda path: path.stat().st_mtime)
    if not roots:
        unseen = Promise(
            subject="all", mark=Mark.UNKNOWN, found="no base root in the cache yet",
            remedy="the first run makes it",
        )  # fmt: skip
        return Inspection(place="local", promises=(unseen,))
    root = BaseRoot(directory=roots[-1])
    where = Local(
        prefix=root.qemu_prefix, environment=root.environment, root=root.directory
    )  # fmt: skip
    return _looked_at(where, cache)


def _docker(cache: Cache) -> Inspection:
    client = kernel_container.engine()
    if client is None:
        return Inspection(place="docker", promises=(), note="no engine answers, nothing runs there")
    with contextlib.closing(client):
        try:
            found = client.images.list(REPOSITORY, filters={"label": RECIPE_LABEL})
        except (docker.errors.DockerException, requests.RequestException) as error:
            return _unseen("docker", str(error))
    # QEMU is asked for this machine's guests here, and an image has that of one architecture.
    tags = [t for image in found for t in image.tags if not t.endswith(f"-{Arch.ARM64}")]
    if not tags:
        return _unseen("docker", "no kernel container yet", "inv kernels images builds them")
    return _looked_at(Docker(image=min(tags)), cache)


def _looked_at(where: Place, cache: Cache) -> Inspection:
    try:
        with rundir.run_directory(cache) as run_dir, _stopped(where, run_dir) as (pid, cgroup):
            seen = look(pid, cgroup)
    except (HarnessError, docker.errors.DockerException, requests.RequestException) as error:
        return _unseen(where.name, f"no guest could be started: {error}")
    return Inspection(place=where.name, promises=judge(seen, contained=where.name == "docker"))


def _unseen(place: str, why: str, remedy: str = "") -> Inspection:
    found = " ".join(why.split())
    promise = Promise(subject="all", mark=Mark.UNKNOWN, found=found, remedy=remedy)
    return Inspection(place=place, promises=(promise,))


@contextlib.contextmanager
def _stopped(where: Place, run_dir: Path) -> Iterator[tuple[int, Mapping[str, int]]]:
    """A guest's QEMU that has everything on and runs no guest: its pid, its cgroup's limits."""
    machine = Machine()
    boot = qemu.Boot(
        vmlinuz=Path("/nothing"), initrd=Path("/nothing"), console=run_dir / CONSOLE, channel=None
    )
    words = [*_without(qemu.argv(machine, boot), _LEFT_OUT), "-S"]
    with where.hold(
        words, run_dir, accelerator=Accelerator.TCG, memory_mib=machine.memory_mib
    ) as held:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            ended = held.ended()
            if ended is not None:
                raise HarnessError(ended)
            cgroup: Mapping[str, int] = {}
            first = getattr(held, "pid", 0)
            identity = getattr(held, "identity", "")
            if identity:
                first, cgroup = _container(str(identity))
            pid = _last_descendant(first)
            if _sandboxed(pid, 2 if identity else 1) or time.monotonic() > end:
                yield pid, cgroup
                return
            time.sleep(0.05)


def _sandboxed(pid: int, filters: int) -> bool:
    """Whether QEMU's own filter is on, beside that of a container."""
    status = _status(pid)
    count = status.get("Seccomp_filters", "")  # since Linux 5.9
    return (
        status.get("Seccomp") == "2"
        and (not count or int(count) >= filters)
        and b"-nodefaults" in _read(pid, "cmdline")
    )


def _without(words: list[str], options: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in options:
            next(rest)
        else:
            kept.append(word)
    return kept


def look(pid: int, cgroup: Mapping[str, int]) -> Seen:
    """What /proc says of that process."""
    return Seen(
        status=_status(pid), namespaces=_namespaces(pid), interfaces=_interfaces(pid),
        writable=_writable(pid), environment=_environment_names(pid), limits=_limits(pid),
        sockets=_sockets(pid), cgroup=cgroup,
    )  # fmt: skip


def _read(pid: int, name: str) -> bytes:
    """A file of /proc/PID, empty when it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _status(pid: int) -> dict[str, str]:
    lines = (
        line.partition(":") for line in _read(pid, "status").decode(errors="replace").split("\n")
    )
    return {name: " ".join(value.split()) for name, _, value in lines if name}


def _namespaces(pid: int) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for name in _PRIVATE:
        with contextlib.suppress(OSError):
            ours = Path(f"/proc/self/ns/{name}").readlink()
            found[name] = Path(f"/proc/{pid}/ns/{name}").readlink() != ours
    return found


def _interfaces(pid: int) -> tuple[str, ...] | None:
    """proc_pid_net(5): two lines of headings, then "  lo: 0 0 …"."""
    lines = _read(pid, "net/dev").decode(errors="replace").splitlines()[2:]
    return tuple(line.partition(":")[0].strip() for line in lines) if lines else None


def _writable(pid: int) -> tuple[str, ...] | None:
    """proc_pid_mountinfo(5): field 5 the mount point, 6 its options, the last the file system's."""
    lines = _read(pid, "mountinfo").decode(errors="replace").splitlines()
    if not lines:
        return None
    found: list[str] = []
    for line in lines:
        words = line.split()
        path = words[4].encode().decode("unicode_escape")  # \040 is a space
        mounted = "rw" in words[5].split(",") and "rw" in words[-1].split(",")
        if mounted and _may_write(pid, path):
            found.append(path)
    return tuple(found)


def _may_write(pid: int, path: str) -> bool:
    """By owner and mode; when that cannot be seen, it may."""
    try:
        state = Path(f"/proc/{pid}/root{path}").stat()
        if stat.S_ISCHR(state.st_mode):  # /dev/null, over what an engine hides
            return False
        return bool(state.st_mode & 0o002) or state.st_uid == Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return True


def _environment_names(pid: int) -> tuple[str, ...] | None:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    words = (word.partition(b"=")[0] for word in data.split(b"\0") if word)
    return tuple(sorted(word.decode(errors="replace") for word in words))


def _limits(pid: int) -> dict[str, str]:
    """proc_pid_limits(5): columns of 26, 21 and 21 characters: name, soft limit, hard limit."""
    lines = _read(pid, "limits").decode(errors="replace").splitlines()[1:]
    return {line[:26].strip(): line[47:68].strip() for line in lines}


def _sockets(pid: int) -> tuple[str, ...] | None:
    root = Path(f"/proc/{pid}/root")
    try:
        list(root.iterdir())
        return tuple(f"/{name}" for name in _ENGINE_SOCKETS if (root / name).exists())
    except OSError:
        return None


def _container(identity: str) -> tuple[int, dict[str, int]]:
    """The first process of a container on this machine, and its cgroup's limits."""
    client = kernel_container.engine()
    if client is None:
        raise HarnessError("the Docker engine went away")
    with contextlib.closing(client):
        attributes = client.containers.get(identity).attrs
    asked = attributes["HostConfig"]
    limits = {"memory": "Memory", "pids": "PidsLimit", "cpu": "NanoCpus"}
    return int(attributes["State"]["Pid"]), {n: int(asked.get(k) or 0) for n, k in limits.items()}


def _last_descendant(pid: int) -> int:
    """Down the line of only children: what stands in front of QEMU has no other."""
    children: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _read(int(entry.name), "stat").decode(errors="replace").rpartition(")")[2]
            if fields:
                children[int(fields.split()[1])] = int(entry.name)
    while pid in children:
        pid = children[pid]
    return pid
