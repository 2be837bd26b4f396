# SPDX-License-Identifier: Apache-2.0
"""Keep a guest's QEMU in: what it may see, be and use, should the guest take it over.

util-linux does the work (unshare, prlimit, setpriv), in one chain of execs in front of QEMU:

- namespaces of its own for mounts, network, IPC, host name and processes. Its root has the base
  root and the guest's directory, read-only; the files it writes are mounted into that one by one.
- a user and group that nobody else has (`harness` run as root), or the caller's own user without
  any capability (in a user namespace);
- no environment but the harness's name, no_new_privs, an empty capability bounding set, resource limits.

Where namespaces cannot be made (a container without CAP_SYS_ADMIN, a kernel that forbids user
namespaces) the rest still holds. `inv doctor --security` looks at a real guest and tells.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import stat
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness import process
from harness.errors import HarnessError

logger = logging.getLogger(__name__)

# Nobody's, by systemd's account of the range ("Users, Groups, UIDs and GIDs on systemd systems").
_FIRST_UID = 0x70000000
_GUESTS_EACH = 64  # of one harness at a time; its pid is below 2^22 (proc(5), pid_max)
_NOBODY = 65534  # where the range is not mapped: a container with a user namespace
_MIB = 1 << 20
# Measured under TCG: 2.3 GiB of address space for a guest of 0.75, of which QEMU's translations
# reserve 1.0. The rest is room for malloc's arenas, which reserve 128 MiB a thread.
_MORE_ADDRESS_SPACE_MIB = 4096
_CPU_S = 12 * 3600  # more than any guest uses: none burns for ever
MAX_FILE_BYTES = 512 << 20  # the console, whose reader gives up long before
MAX_TASKS = 128
MAX_FILES = 256
_PROBE_TIMEOUT_S = 20.0
_KVM = Path("/dev/kvm")
_CAP_SETPCAP = 8

# Only constants and "$@": nothing from outside is read as a program. busybox is the base root's,
# static, for half of it runs where there is no /proc and nothing else.
_SETUP = """\
set -eu
base=$1 run=$2 writes=$3 kvm=$4
shift 4
new=$run/root busybox=$base/usr/bin/busybox
mount -t tmpfs -o size=256k,mode=755,nosuid,nodev root "$new"
cd "$new"
mkdir -p ".$base" ".$run" dev old
mount -o bind "$base" ".$base"
mount -o remount,bind,ro,nosuid,nodev "$base" ".$base"
mount -o bind "$run" ".$run"
mount -o remount,bind,ro,nosuid,nodev,noexec "$run" ".$run"
for name in $writes; do mount -o bind "$run/$name" ".$run/$name"; done
for name in usr bin lib lib64; do ln -s "${base#/}/$name" "$name"; done
if [ -n "$kvm" ]; then
	mount -t tmpfs -o size=16k,mode=755,nosuid,noexec dev dev
	mknod -m 666 dev/kvm c $kvm 2>/dev/null ||
		{ : >dev/kvm && mount -o bind /dev/kvm dev/kvm; }
fi
mount -o remount,ro,nosuid,nodev root "$new"
"$busybox" pivot_root . old
"$busybox" umount -l /old
exec "$busybox" env -i "$@"
"""


# Waits for "$@", the first process of the new namespace, and ends as it ended: by the same signal if
# one killed it. `unshare --fork` would do that, but turns SIGKILL into status 1 in some versions
# (util-linux 2.38). It outlives a SIGTERM to the group, as its child does until QEMU has ended.
_WAIT = """\
exec 3>&2 2>/dev/null
trap : HUP INT TERM
(exec "$@" 2>&3 3>&-)
ended=$?
trap - HUP INT TERM
[ $ended -le 128 ] || kill -$((ended - 128)) $$
exit $ended
"""


class Means(StrEnum):
    """How much this machine lets us do."""

    OWN_USER = "own-user"  # root here: namespaces, and a user that is nobody else's
    USER_NAMESPACE = "user-namespace"  # not root: the same namespaces, one's own user
    PLAIN = "plain"  # no namespace


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """Whom a guest's QEMU runs as."""

    uid: int
    gid: int


def next_user() -> User:
    """A user of that guest alone when we are root, else ourselves."""
    if os.geteuid() != 0:
        return User(uid=os.getuid(), gid=os.getgid())
    number = _FIRST_UID + os.getpid() * _GUESTS_EACH + next(_count) % _GUESTS_EACH
    if not _mapped(number):
        number = _NOBODY
    return User(uid=number, gid=number)


_count = itertools.count()


def means(base: Path | None, run_dir: Path) -> Means:
    """What works here, found by doing it once. base: the base root, None without one of ours."""
    if base is None:
        return Means.PLAIN
    key = (base, os.geteuid())
    with _trying:
        if key not in _found:
            _found[key] = _tried(base, run_dir)
        return _found[key]


_trying = threading.Lock()
_found: dict[tuple[Path, int], Means] = {}


def hand_over(run_dir: Path, user: User, writes: Sequence[str]) -> None:
    """Let that user, and nobody else, use the guest's directory; write only what is in `writes`.

    The directory stays ours: what is taken over cannot put a link where we read a file later.
    """
    if user.uid == os.geteuid():
        return
    try:
        os.chown(run_dir, -1, user.gid)
        run_dir.chmod(0o710)
        for path in run_dir.iterdir():
            kind = path.lstat().st_mode
            if path.name in writes or stat.S_ISSOCK(kind):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)
                path.chmod(0o600)
            elif stat.S_ISREG(kind):
                os.chown(path, -1, user.gid, follow_symlinks=False)
                path.chmod(0o640)
    except OSError as error:
        raise HarnessError(f"cannot hand '{run_dir}' to user {user.uid}: {error}") from error


def words(
    how: Means,
    *,
    base: Path | None,
    run_dir: Path,
    user: User,
    writes: Sequence[str],
    memory_mib: int,
    kvm: bool,
    environment: Mapping[str, str],
) -> list[str]:
    """What to put before the words of a QEMU. run_dir has an empty directory `root`."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    if how is Means.PLAIN or base is None:
        drop = ["--bounding-set=-all", "--inh-caps=-all"] if _may_drop() else []
        return [
            "setpriv", "--pdeathsig", "KILL", "--no-new-privs", *drop, "--",
            *_limits("prlimit", memory_mib),
            "env", "-i", f"PATH={os.environ.get('PATH', os.defpath)}", *variables,
        ]  # fmt: skip
    alone = ["--user", "--map-root-user"] if how is Means.USER_NAMESPACE else []
    become = (
        [] if how is Means.USER_NAMESPACE
        else [f"--reuid={user.uid}", f"--regid={user.gid}", *_groups(kvm=kvm)]
    )  # fmt: skip
    shell = [str(base / "usr/bin/busybox"), "sh", "-c"]
    # A fork and a change of user clear the parent-death signal, so it is set again after each.
    last_will = ["--pdeathsig", "KILL", "--"]
    setpriv = str(process.which("setpriv") or "setpriv")  # busybox has another one of that name
    return [
        setpriv, *last_will,
        "unshare", *alone, "--mount", "--net", "--ipc", "--uts", "--pid", "--",
        *shell, _WAIT, "sh",
        setpriv, *last_will,
        *shell, _SETUP, "sh",
        str(base), str(run_dir), " ".join(writes), _numbers(_KVM) if kvm else "",
        *variables, *_limits("/usr/bin/prlimit", memory_mib, f"--nproc={MAX_TASKS}"),
        "/usr/bin/setpriv", *become, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
        *last_will,
    ]  # fmt: skip


def _limits(program: str, memory_mib: int, *more: str) -> list[str]:
    address_space = (memory_mib + _MORE_ADDRESS_SPACE_MIB) * _MIB
    return [
        program, f"--as={address_space}", f"--fsize={MAX_FILE_BYTES}", "--core=0",
        f"--nofile={MAX_FILES}", f"--cpu={_CPU_S}", *more, "--",
    ]  # fmt: skip


def _tried(base: Path, beside: Path) -> Means:
    wanted = Means.OWN_USER if os.geteuid() == 0 else Means.USER_NAMESPACE
    try:
        with tempfile.TemporaryDirectory(prefix="confine-", dir=beside) as name:
            run_dir, user, file = Path(name), next_user(), Path(name) / "file"
            file.touch()
            (run_dir / "root").mkdir()
            hand_over(run_dir, user, (file.name,))
            before = words(
                wanted, base=base, run_dir=run_dir, user=user, writes=(file.name,), memory_mib=0,
                kvm=False, environment={},
            )  # fmt: skip
            done = process.run(
                [*before, "/usr/bin/test", "-w", file], timeout_s=_PROBE_TIMEOUT_S, check=False
            )
    # A disk that is full, a machine too busy to answer: that says nothing of namespaces, and guests
    # must not go without them for it.
    except OSError as error:
        raise HarnessError(f"cannot write in '{beside}': {error.strerror}") from error
    except (process.ProcessTimeoutError, process.InterruptedHarnessError):
        raise
    except HarnessError as error:
        why = str(error)
    else:
        if done.status == 0:
            return wanted
        why = done.stderr.decode(errors="replace").strip()
    logger.warning(
        "guests' QEMU gets no namespaces of its own (%s); inv doctor --security says what holds",
        " ".join(why.split())[-200:] or "no reason given",
    )
    return Means.PLAIN


def _numbers(device: Path) -> str:
    """ "10 232", major and minor: whatever device this machine has under that name."""
    try:
        number = device.stat().st_rdev
    except OSError as error:
        raise HarnessError(f"'{device}' is gone: {error.strerror}") from error
    return f"{os.major(number)} {os.minor(number)}"


def _groups(*, kvm: bool) -> list[str]:
    """The group of /dev/kvm, where one may open it by that; the script makes a node if it can."""
    with contextlib.suppress(OSError):
        device = _KVM.stat()
        if kvm and device.st_mode & 0o060 == 0o060:
            return [f"--groups={device.st_gid}"]
    return ["--clear-groups"]


def _may_drop() -> bool:
    """Whether we hold CAP_SETPCAP: without it the bounding set stays as it is."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_SETPCAP & 1)


def _mapped(uid: int) -> bool:
    """Whether our user namespace has that user (user_namespaces(7))."""
    for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= uid < first + count:
            return True
    return False
