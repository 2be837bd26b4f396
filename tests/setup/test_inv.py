# SPDX-License-Identifier: Apache-2.0
"""./inv as a user meets it: run in a copy of the project whose .venv and machine are stand-ins.

The programs that change a machine (apt-get, pip, sudo) are scripts that write down how they were
called: what is tested is the real script's decisions. `.ci/run` runs it for real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("flock") is None or not Path("/proc/self").exists(), reason="./inv is for Linux"
)

_PYTHON = """\
#!/bin/sh
# Stands for python3: `-m venv` makes a .venv of stand-ins, `-m pip` adds inv to it.
case "$*" in
"-c import sys"* | "-c import ensurepip") exit 0 ;;
--version) echo Python 3.11.0 ;;
"-m harness"*) shift 2; echo "ran in $PWD: $*" ;;
"-m venv --clear "*)
	echo venv >>"$CALLS"
	rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
	echo "#!$4/bin/python" >"$4/bin/pip" ;;
"-m pip install "*)
	echo pip >>"$CALLS"
	[ -z "$PIP_FAILS" ] || { echo "ERROR: $PIP_FAILS" >&2; exit 1; }
	sleep "${PIP_TAKES_S:-0}"
	printf '#!/bin/sh\\necho "ran in $PWD: $*"\\n' >"${0%/*}/inv"; chmod +x "${0%/*}/inv" ;;
*) echo "python3 was called with $*" >&2; exit 99 ;;
esac
"""
_APT_GET = """\
#!/bin/sh
echo "apt-get $*" >>"$CALLS"
case "$*" in *" update"*) exit 0 ;; esac
[ -z "$APT_FAILS" ] || { echo "E: $APT_FAILS" >&2; exit 100; }
for word; do case "$word" in -*) ;; *=*) ;; install) ;; *) : >"$MACHINE/$word-file" ;; esac; done
"""


class Machine:
    """A copy of what ./inv reads, on a machine of stand-ins."""

    def __init__(self, root: Path, *, packages: tuple[str, ...] = ("thing",)) -> None:
        self.root = root
        self.project = root / "project"
        (self.project / "harness/data").mkdir(parents=True)
        shutil.copy2(PROJECT / "inv", self.project / "inv")
        (self.project / "pyproject.toml").write_text("[project]\n")
        rows = "".join(f"{name} run {root}/{name}-file for tests\n" for name in packages)
        (self.project / "harness/data/system-packages.txt").write_text(f"# list\n{rows}")
        self.calls_file = root / "calls"
        self.programs = root / "bin"
        self.programs.mkdir()
        self.program("python3", _PYTHON)
        self.program("apt-get", _APT_GET)
        # A sudo that asks for a password, as far as `sudo -n` is concerned.
        self.program("sudo", "#!/bin/sh\nexit 1\n")

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(self.root),
            "CALLS": str(self.calls_file), "MACHINE": str(self.root), **extra,
        }  # fmt: skip

    def inv(
        self, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.project / "inv"), *arguments], cwd=cwd or self.project, timeout=60,
            env=self.environment(**environment), capture_output=True, text=True, check=False,
        )  # fmt: skip

    def calls(self) -> list[str]:
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@as_root
def test_a_fresh_machine_is_set_up_and_the_task_runs(machine: Machine) -> None:
    """One command is all that the README promises."""
    done = machine.inv("kernel-matrix", "--kernels", "5.10")

    assert done.returncode == 0
    assert "ran in" in done.stdout
    assert done.stdout.rstrip().endswith("kernel-matrix --kernels 5.10")
    calls = machine.calls()
    assert any(call.endswith("install --no-install-recommends --yes thing") for call in calls)
    assert calls[-2:] == ["venv", "pip"]
    assert "inv: installing thing (apt-get)" in done.stderr


@as_root
def test_the_second_call_does_nothing_and_says_nothing(machine: Machine) -> None:
    """Every later call pays for the first one's work otherwise."""
    machine.inv("kernel-matrix")
    machine.calls()

    done = machine.inv("kernel-matrix")

    assert machine.calls() == []
    assert done.stderr == ""


@as_root
def test_a_changed_pyproject_installs_again_and_only_pip(machine: Machine) -> None:
    """A new dependency must arrive without anyone thinking of it."""
    machine.inv("kernel-matrix")
    machine.calls()
    (machine.project / "pyproject.toml").write_text("[project]\n# changed\n")

    machine.inv("kernel-matrix")

    assert machine.calls() == ["pip"]


@as_root
def test_a_moved_project_makes_its_venv_again(machine: Machine) -> None:
    """Scripts of a .venv name the place where it was made."""
    machine.inv("kernel-matrix")
    machine.calls()
    machine.project = machine.project.rename(machine.root / "else where")

    done = machine.inv("kernel-matrix")

    assert done.returncode == 0
    assert machine.calls() == ["venv", "pip"]


@as_root
def test_the_users_directory_stays_theirs(machine: Machine, tmp_path: Path) -> None:
    """`--object foo.bpf.o` means the one where the user stands."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    done = machine.inv("resolve", "foo.bpf.o", cwd=elsewhere)

    assert f"ran in {elsewhere}: resolve foo.bpf.o" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("--list",), ("-l",), ("--help",), ("report",), ("gate",), ()],
    ids=" ".join,
)  # fmt: skip
def test_tasks_that_only_read_install_no_system_package(
    machine: Machine, arguments: tuple[str, ...]
) -> None:
    """`inv doctor` must see the machine as it is."""
    done = machine.inv(*arguments)

    assert done.returncode == 0
    assert machine.calls() == ["venv", "pip"]


@as_root
def test_stale_lists_are_updated_and_the_install_tried_again(machine: Machine) -> None:
    """A fresh image has no package lists, an old one lists files that the mirror dropped."""
    machine.program(
        "apt-get",
        _APT_GET.replace(" exit 0", ' : >"$MACHINE/updated"; exit 0').replace(
            "[ -z", '[ -e "$MACHINE/updated" ] || [ -z'
        ),
    )

    done = machine.inv("kernel-matrix", APT_FAILS="Unable to fetch some archives")

    assert done.returncode == 0
    assert (machine.root / "thing-file").exists()
    assert [call.split()[-1] for call in machine.calls()].count("update") == 1


@as_root
def test_a_failed_install_is_one_line_and_the_task_still_runs(machine: Machine) -> None:
    """Off line, what needs no package goes on working."""
    done = machine.inv("kernel-matrix", APT_FAILS="Unable to locate package thing")

    assert done.returncode == 0
    assert "failed: Unable to locate package thing" in done.stderr
    assert "ran in" in done.stdout


@as_root
def test_one_unknown_package_does_not_keep_the_others_away(tmp_path: Path) -> None:
    """Releases differ in what they have."""
    machine = Machine(tmp_path, packages=("here", "nowhere"))
    machine.program(
        "apt-get",
        _APT_GET.replace('[ -z "$APT_FAILS" ]', 'case "$*" in *nowhere*) false;; esac'),
    )

    done = machine.inv("kernel-matrix", APT_FAILS="Unable to locate package nowhere")

    assert (tmp_path / "here-file").exists()
    assert "apt-get install nowhere failed" in done.stderr


@as_root
def test_no_install_names_the_command(machine: Machine) -> None:
    """Some machines are not ours to change."""
    done = machine.inv("kernel-matrix", KERNEL_MATRIX_NO_INSTALL="1")

    assert "run: apt-get install --no-install-recommends thing" in done.stderr
    assert machine.calls() == ["venv", "pip"]


def test_without_apt_get_the_packages_are_named(machine: Machine, tmp_path: Path) -> None:
    """On Fedora or Arch a person knows what to do with names."""
    (machine.programs / "apt-get").unlink()
    system = tmp_path / "system"
    system.mkdir()
    for name in ("bash", "sh", "env", "dirname", "readlink", "sha256sum", "cut", "mktemp", "flock",
                 "head", "grep", "tail", "rm", "mkdir", "cp", "chmod", "sleep"):  # fmt: skip
        (system / name).symlink_to(str(shutil.which(name)))
    sealed = machine.project / "inv"
    sealed.write_text(sealed.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", ""))

    done = machine.inv("kernel-matrix", PATH=f"{machine.programs}:{system}")

    assert "install by this distribution's means (Debian's names): thing" in done.stderr
    assert done.returncode == 0


@as_root
def test_a_failing_pip_stops_with_its_reason(machine: Machine) -> None:
    """Nothing can run then, and a traceback would hide why."""
    done = machine.inv("kernel-matrix", PIP_FAILS="No matching distribution found for x")

    assert done.returncode == 3
    assert "pip could not install the project: No matching distribution found for x" in done.stderr


def test_an_old_python_says_what_to_install(machine: Machine, tmp_path: Path) -> None:
    """Debian 11 and Ubuntu 22.04 are still about."""
    machine.program("python3", '#!/bin/sh\ncase "$*" in *split*) echo 3.9.2 ;; *) exit 1 ;; esac\n')
    others = tmp_path / "no-python"
    others.mkdir()
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith("python"):
            (others / program.name).symlink_to(program)

    done = machine.inv("--list", PATH=f"{machine.programs}:{others}")

    assert done.returncode == 3
    assert "Python 3.11 or newer is needed, this machine's is 3.9.2" in done.stderr


@as_root
def test_two_at_once_set_up_once(machine: Machine) -> None:
    """Two terminals, or CI shards on one checkout."""
    processes = []
    for _ in range(2):
        processes.append(
            subprocess.Popen(
                [str(machine.project / "inv"), "kernel-matrix"],
                cwd=machine.project,
                text=True,
                env=machine.environment(PIP_TAKES_S="1"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        time.sleep(0.2)
    answers = [child.communicate(timeout=60) for child in processes]

    assert [child.returncode for child in processes] == [0, 0]
    assert machine.calls().count("pip") == 1
    assert "waiting for another ./inv" in answers[1][1]


@as_root
def test_the_fast_path_is_fast(machine: Machine) -> None:
    """It is paid with every task: under 0.2 s, the best of five on a busy machine."""
    machine.inv("kernel-matrix")
    durations = []
    for _ in range(5):
        started = time.monotonic()
        machine.inv("kernel-matrix")
        durations.append(time.monotonic() - started)

    assert min(durations) < 0.2


def test_the_script_is_shell_that_parses() -> None:
    """A syntax error in a branch nobody takes is found here."""
    for script in ("inv", ".ci/run"):
        done = subprocess.run(["bash", "-n", PROJECT / script], capture_output=True, check=False)

        assert done.returncode == 0, done.stderr
        assert os.access(PROJECT / script, os.X_OK)
