# SPDX-License-Identifier: Apache-2.0
"""Where a guest's QEMU runs. Here: on this machine; `harness.kernel_container`: in a container.

The arguments are the same either way: a place only says how a process is started and watched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness import confine, process
from harness.confine import Means
from harness.errors import HarnessError
from harness.qemu import Accelerator

CONSOLE = "console.log"  # the guest's console, in its directory (`vm.booted`)
OWNER_VARIABLE = "KERNEL_MATRIX_OWNER"  # in the environment of all that a run starts
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STDERR = "qemu.log"
_KERNEL = "vmlinuz"


class Held(Protocol):
    """A QEMU that somebody started."""

    def ended(self) -> str | None:
        """None while it runs; then how it ended, in words."""

    def kill(self) -> None:
        """End it at once (tests of lost guests use this)."""


class Place(Protocol):
    """A way to run QEMU."""

    @property
    def name(self) -> str:
        """ "local" or "docker"."""

    def kernel_path(self, vmlinuz: Path) -> Path:
        """Where QEMU, at this place, finds that kernel."""

    def hold(
        self, qemu_argv: Sequence[str], run_dir: Path, *, accelerator: Accelerator, memory_mib: int
    ) -> AbstractContextManager[Held]:
        """Run QEMU for the length of the block.

        It reads what is in `run_dir`, connects to its socket and writes its console, nothing else.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """QEMU as a process of this machine, confined as far as the machine lets us."""

    prefix: tuple[str, ...]  # program and the words before our arguments
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None  # all that the program reads; None: it sees the whole machine

    @property
    def name(self) -> str:
        return "local"

    def kernel_path(self, vmlinuz: Path) -> Path:
        return vmlinuz

    def confined(
        self,
        qemu_argv: Sequence[str],
        run_dir: Path,
        *,
        accelerator: Accelerator,
        memory_mib: int,
        writes: str = CONSOLE,
    ) -> list[str]:
        """The command that runs QEMU for that guest; it may write the file `writes` of run_dir."""
        how = confine.means(self.root, run_dir)
        user = confine.next_user()
        if how is not Means.PLAIN:
            qemu_argv = _with_kernel_beside(qemu_argv, run_dir)
            (run_dir / writes).touch()
            (run_dir / "root").mkdir(exist_ok=True)
            confine.hand_over(run_dir, user, (writes,))
        before = confine.words(
            how, base=self.root, run_dir=run_dir, user=user, writes=(writes,),
            memory_mib=memory_mib, kvm=accelerator is Accelerator.KVM,
            environment={**self.environment, **_owner_variable()},
        )  # fmt: skip
        return [*before, *self.prefix, *qemu_argv]

    @contextlib.contextmanager
    def hold(
        self, qemu_argv: Sequence[str], run_dir: Path, *, accelerator: Accelerator, memory_mib: int
    ) -> Iterator[Held]:
        # setpriv (confine.words): when the harness is killed, the kernel kills its guests too.
        argv = self.confined(qemu_argv, run_dir, accelerator=accelerator, memory_mib=memory_mib)
        with (
            (run_dir / _STDERR).open("wb") as errors,
            process.held(argv, stderr=errors, env=self.environment) as child,
        ):
            yield _LocalQemu(child, run_dir / _STDERR)


def _owner_variable() -> dict[str, str]:
    """By which a later start knows what a killed harness has left (`rundir`)."""
    owner = os.environ.get(OWNER_VARIABLE)
    return {} if owner is None else {OWNER_VARIABLE: owner}


def _with_kernel_beside(qemu_argv: Sequence[str], run_dir: Path) -> list[str]:
    """A copy of the kernel in the guest's directory: the guest's user may not read the original."""
    argv = list(qemu_argv)
    if "-kernel" in argv:
        position = argv.index("-kernel") + 1
        try:
            argv[position] = shutil.copyfile(argv[position], str(run_dir / _KERNEL))
        except OSError as error:
            raise HarnessError(
                f"cannot read the kernel '{argv[position]}': {error.strerror}"
            ) from error
    return argv


class _LocalQemu:
    def __init__(self, child: process.Child, errors: Path) -> None:
        self._child = child
        self._errors = errors

    def ended(self) -> str | None:
        status = self._child.poll()
        if status is None:
            return None
        return _ending(status, self._errors)

    def kill(self) -> None:
        self._child.kill()

    @property
    def pid(self) -> int:
        """Of the command; QEMU is it, or its only child."""
        return self._child.pid


def owner() -> str:
    """ "pid:start time:PID namespace:boot id" of this process.

    A pid alone may be somebody else's tomorrow, and is somebody else's in another container or on
    another machine, with which an engine, a cache or a disk may be shared.
    """
    return f"{os.getpid()}:{_start_time(str(os.getpid()))}:{_home()}"


def alive(text: str) -> bool:
    """Whether the process that `owner()` named is seen to run; "pid:start time" means one here."""
    pid, _, rest = text.partition(":")
    started, _, home = rest.partition(":")
    here = pid.isascii() and pid.isdigit() and home in ("", _home())
    return here and _start_time(pid) == started != ""


def dead(text: str) -> bool:
    """Whether the process that `owner()` named has certainly ended.

    Of one in another PID namespace or on another machine nobody here can tell: it is not `alive`
    and not dead. A namespace's number is given again only when everybody in it has ended.
    """
    home = ":".join(text.split(":")[2:])
    complete = text.count(":") == 3 and all(text.split(":"))
    return complete and home == _home() and not alive(text)


def on_this_machine(text: str) -> bool:
    """Whether the process that `owner()` named is, or was, one of the kernel that runs here."""
    return text.rpartition(":")[2] == _home().rpartition(":")[2]


def _home() -> str:
    """ "PID namespace:boot id": where a pid means what it means here."""
    try:
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        namespace = ""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()  # the same in all its containers
    except OSError:
        boot = ""
    return f"{namespace}:{boot}"


def _start_time(pid: str) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # proc(5): from field 3, the state, on
    if fields[0] in "ZX":  # it has ended, and nobody waits for it
        return ""
    return fields[19]  # field 22, starttime in clock ticks


def _ending(status: int, errors: Path) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    try:
        said = errors.read_text(errors="replace").strip()[-400:]
    except OSError:
        said = ""
    return f"QEMU {how}{': ' + said if said else ''}"
