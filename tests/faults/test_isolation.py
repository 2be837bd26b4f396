# SPDX-License-Identifier: Apache-2.0
"""What a QEMU can do that a guest has taken over. A shell that means harm stands in for it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import baseroot, confine, place, process, rundir, security
from harness.baseroot import BaseRoot
from harness.cache import Cache
from harness.confine import Means, User
from harness.place import Local
from harness.qemu import Accelerator
from harness.security import Mark, Seen
from tests.vm.matrix import until

_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def root(cache: Cache) -> BaseRoot:
    return baseroot.obtain(cache, print)


@pytest.fixture
def run_dir(cache: Cache) -> Iterator[Path]:
    with rundir.run_directory(cache) as path:
        yield path


@pytest.fixture
def _namespaces(root: BaseRoot, run_dir: Path) -> None:
    if confine.means(root.directory, run_dir) is Means.PLAIN:
        pytest.skip("no namespaces can be made here")


def _taken_over(
    root: BaseRoot, run_dir: Path, script: str, accelerator: Accelerator = Accelerator.TCG
) -> tuple[str, str]:
    """(what it wrote to the console, to its standard error) when `script` ran in QEMU's place."""
    shell = (str(root.directory / "usr/bin/busybox"), "sh", "-c", script, str(run_dir))
    where = Local(prefix=shell, environment=root.environment, root=root.directory)
    with where.hold([], run_dir, accelerator=accelerator, memory_mib=256) as held:
        assert until(lambda: held.ended() is not None, timeout_s=_PATIENCE_S)
    console = (run_dir / "console.log").read_text(errors="replace")
    return console, (run_dir / "qemu.log").read_text(errors="replace")


@pytest.mark.usefixtures("_namespaces")
def test_it_sees_no_file_of_the_machine_and_changes_none_but_its_console(
    root: BaseRoot, run_dir: Path, cache: Cache
) -> None:
    """Not the caller's home, no other guest's directory, no name it could put a link under."""
    secret = cache.root / "run" / f"{run_dir.name}-secret"
    secret.write_text("secret")
    (run_dir / "initrd").write_text("initrd")
    script = f"""
b={root.directory}/usr/bin/busybox
try() {{ if "$@" >/dev/null 2>&1; then echo "BAD $*"; else echo "refused $1 $2"; fi; }}
exec >"$0/console.log"
try $b cat {secret}
try $b cat /etc/passwd /etc/hostname
try $b ls /proc/1 /sys/kernel /home
try $b touch "$0/new"
try $b ln -sf /etc/shadow "$0/console.log"
try $b rm "$0/console.log"
try $b dd if=/dev/null "of=$0/initrd"
try $b touch {root.directory}/usr/new
try $b mkdir /new
try $b mount -t tmpfs none /old
try $b mknod /tmp/null c 1 3
try $b chroot / $b true
try $b unshare -U $b mount -t tmpfs none /old
$b cat "$0/initrd"
echo; echo "has $($b env | $b cut -d = -f 1 | $b sort | $b tr '\\n' ' ')"
$b ls /
"""
    try:
        console, errors = _taken_over(root, run_dir, script)
    finally:
        secret.unlink()

    assert "BAD" not in console, console
    assert console.count("refused") == 13, console + errors
    assert "\ninitrd\nhas " in console
    has, listed = console.rpartition("\nhas ")[2].split("\n", 1)
    assert set(has.split()) <= {"OLDPWD", "PATH", "PWD", "QEMU_MODULE_DIR", "SHLVL", "_"}
    assert set(listed.split()) <= {
        "bin", "dev", "lib", "lib64", "old", "usr",
        root.directory.parts[1], run_dir.parts[1],
    }  # fmt: skip
    assert sorted(p.name for p in run_dir.iterdir()) == [
        "console.log", "initrd", "qemu.log", "root",
    ]  # fmt: skip
    assert not (run_dir / "console.log").is_symlink()


@pytest.mark.usefixtures("_namespaces")
def test_it_reaches_no_network_and_no_process(root: BaseRoot, run_dir: Path) -> None:
    script = f"""
b={root.directory}/usr/bin/busybox
exec >"$0/console.log" 2>&1
$b nc -w 2 127.0.0.1 22 </dev/null && echo BAD
$b ping -c 1 -W 1 127.0.0.1 && echo BAD
$b kill -0 {os.getpid()} && echo BAD
$b kill -9 -1
echo "I am $$"
"""
    console, _ = _taken_over(root, run_dir, script)

    assert "BAD" not in console
    assert "I am 1" in console  # the first of its own processes; it knows no others
    assert os.getpid() > 1


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="there is no /dev/kvm")
@pytest.mark.parametrize("accelerator", list(Accelerator))
def test_kvm_is_there_for_those_who_need_it(
    accelerator: Accelerator, root: BaseRoot, run_dir: Path
) -> None:
    """Whatever group or mode the machine's device has: we could open it, so may our guest."""
    script = 'if true <>/dev/kvm; then echo opened; fi >"$0/console.log"'

    console, _ = _taken_over(root, run_dir, script, accelerator)

    assert (console == "opened\n") is (accelerator is Accelerator.KVM)


@pytest.mark.usefixtures("_namespaces")
def test_its_memory_processes_and_files_have_an_end(root: BaseRoot, run_dir: Path) -> None:
    """6 GiB of memory, 300 processes and a console of 600 MiB are not to be had."""
    script = f"""
b={root.directory}/usr/bin/busybox
exec 2>"$0/console.log"
$b dd bs=6442450944 count=0
$b sh -c 'ulimit -a' >&2
deeper() {{ [ $1 = 0 ] || ( deeper $(($1 - 1)) ); }}
deeper 300
"""
    console, errors = _taken_over(root, run_dir, script)

    assert "out of memory" in console, console + errors
    assert "fork" in console
    assert str(confine.MAX_FILE_BYTES // 512) in console  # ulimit counts blocks


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's directory is theirs anyway")
def test_a_guest_s_directory_is_its_own(root: BaseRoot, run_dir: Path) -> None:
    _taken_over(root, run_dir, "true")

    state = run_dir.stat()
    assert stat.S_IMODE(state.st_mode) == 0o710
    assert state.st_uid == 0
    assert state.st_gid not in (0, 65534)


@pytest.mark.usefixtures("_namespaces")
def test_doctor_sees_what_holds_and_what_does_not(
    cache: Cache, root: BaseRoot, run_dir: Path
) -> None:
    """Every promise at every place that is there; of a QEMU that nothing keeps in, hardly one."""
    found = security.inspect(cache)

    assert security.holds(found), security.render(found)

    plain = Local(prefix=root.qemu_prefix, environment=root.environment)
    with security._stopped(plain, run_dir) as (pid, cgroup):
        seen = security.look(pid, cgroup)
    marks = {p.subject: p.mark for p in security.judge(seen, contained=False)}
    broken = {"no network", "namespaces", "read-only root"}
    assert {name for name, mark in marks.items() if mark is Mark.BROKEN} >= broken
    assert marks["no new privileges"] is marks["seccomp"] is marks["memory limit"] is Mark.HOLDS


@pytest.mark.skipif(os.geteuid() != 0, reason="it gives up what root has")
def test_where_no_namespace_can_be_made_the_rest_holds_and_doctor_tells(root: BaseRoot) -> None:
    """In a container without CAP_SYS_ADMIN guests still run; green would be a lie."""
    done = process.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--",
         sys.executable, "-m", "harness", "doctor", "--security"],
        env={"DOCKER_HOST": "unix:///nonexistent"}, timeout_s=120, check=False,
    )  # fmt: skip

    assert root.directory.is_dir()  # else it was not looked at
    assert done.status == 3, done.stderr
    marks = {line[17:].split("  ")[0]: line[2:15].strip() for line in done.text.splitlines()[1:]}
    for subject in ("no capability", "no new privileges", "seccomp", "environment"):
        assert marks[subject] == "holds"
    for subject in ("no network", "namespaces", "read-only root"):
        assert marks[subject] == "DOES NOT HOLD"


def test_doctor_s_status_is_3_when_nothing_could_be_looked_at(tmp_path: Path) -> None:
    done = process.run(
        [sys.executable, "-m", "harness", "doctor", "--security"],
        env={"KERNEL_MATRIX_CACHE": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/no"},
        timeout_s=60, check=False,
    )  # fmt: skip

    assert done.status == 3, done.stderr
    assert "unknown" in done.text
    assert "holds" not in done.text.replace("do not hold", "")


@pytest.mark.usefixtures("_namespaces")
def test_it_is_told_how_it_ended(root: BaseRoot, run_dir: Path) -> None:
    """A signal of an outsider, or of the machine when memory runs out; else its status and words."""
    shell = (str(root.directory / "usr/bin/busybox"), "sh", "-c")

    def ending(script: str, *, kill: bool) -> str:
        prefix = (*shell, script, str(run_dir))
        where = Local(prefix=prefix, environment=root.environment, root=root.directory)
        asleep: list[int] = []

        def running(first: int) -> bool:
            pid = security._last_descendant(first)
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(shell[0].encode()):
                    asleep.append(pid)
            return bool(asleep) and "ready" in (run_dir / "console.log").read_text()

        with where.hold([], run_dir, accelerator=Accelerator.TCG, memory_mib=256) as held:
            if kill:
                assert isinstance(held, place._LocalQemu)
                first = held.pid
                assert until(lambda: running(first))
                os.kill(asleep[-1], signal.SIGKILL)
            assert until(lambda: held.ended() is not None)
            return str(held.ended())

    wait = f'echo ready >"$0/console.log"; exec {shell[0]} sleep 600'
    assert ending(wait, kill=True) == "QEMU was killed by signal 9"
    assert ending("echo trouble >&2; exit 1", kill=False) == "QEMU ended with status 1: trouble"
    assert ending("exit 0", kill=False) == "QEMU ended with status 0"


_HARNESS = """
import signal, sys
from pathlib import Path
from harness import baseroot, rundir, security
from harness.cache import Cache
from harness.place import Local
cache = Cache(root=Path(sys.argv[1]))
root = baseroot.obtain(cache, lambda text: None)
where = Local(prefix=root.qemu_prefix, environment=root.environment, root=root.directory)
with rundir.run_directory(cache) as run_dir, security._stopped(where, run_dir) as (pid, _):
    print(pid, flush=True)
    signal.pause()
"""


def test_a_guest_ends_with_a_harness_that_is_killed(cache: Cache) -> None:
    """The death signal survives the change of user and the namespaces."""
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as said,
        process.held([sys.executable, "-c", _HARNESS, str(cache.root)], stdout=writer) as harness,
    ):
        os.close(writer)
        pid = int(said.readline())
        alive = Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(harness.pid, signal.SIGKILL)  # not its group
        gone = until(lambda: not Path(f"/proc/{pid}").exists())

    assert b"-nodefaults" in alive
    assert gone
    rundir.remove_orphans(cache)


@pytest.mark.skipif(os.geteuid() != 0, reason="it becomes somebody else first")
def test_an_ordinary_user_s_guest_is_kept_in_by_a_user_namespace(root: BaseRoot) -> None:
    """Everything but the change of user holds for those who are not root, too."""
    writes = ("console.log",)
    there, run_dir = Path("/mnt/base"), Path("/mnt/run")
    words = confine.words(
        Means.USER_NAMESPACE, base=there, run_dir=run_dir, user=User(uid=12345, gid=12345),
        writes=writes, memory_mib=256, kvm=False, environment={},
    )  # fmt: skip
    prepare = (
        'set -e; mount -t tmpfs none /mnt; mkdir -p "$2" "$3/root"; : >"$3/console.log"; '
        'chown -R 12345 "$3"; mount --bind "$1" "$2"; shift 3; exec "$@"'
    )
    argv = [
        "unshare", "--mount", "--", "sh", "-c", prepare, "sh",
        str(root.directory), str(there), str(run_dir),
        "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--",
        *words, str(there / "usr/bin/busybox"), "sleep", "600",
    ]  # fmt: skip
    with process.held(argv) as child:
        asleep = b"/mnt/base/usr/bin/busybox\0sleep\0"  # not those in front of it
        seen: list[Seen] = []

        def looked() -> bool:
            pid = security._last_descendant(child.pid)
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(asleep):
                    seen.append(security.look(pid, {}))
            return bool(seen) or child.poll() is not None

        until(looked)
        if child.poll() is not None:
            pytest.skip("user namespaces are forbidden here")

    marks = {p.subject: p.mark for p in security.judge(seen[-1], contained=False)}
    assert marks.pop("seccomp") is Mark.BROKEN  # QEMU's own; this is a sleep
    assert set(marks.values()) == {Mark.HOLDS}
