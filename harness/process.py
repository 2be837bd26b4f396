# SPDX-License-Identifier: Apache-2.0
"""Run or hold a process. Nothing else in the harness starts one.

Argv lists only, standard input closed unless it is given, and a deadline for the whole operation.
When the harness is told to end (`stop`), commands that other threads wait for end at once, and those
threads start none any more; what is held, a guest for one, is for its holder to end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import HarnessError

Child = subprocess.Popen[bytes]

_TAIL_CHARS = 2000
_GRACE_S = 3.0
_stopping = threading.Event()
_waited_for: dict[subprocess.Popen[bytes], int] = {}  # child → thread that waits for it
_held: dict[subprocess.Popen[bytes], bool] = {}  # child → whether it leads a group


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A process that ended: exit status (negative: signal number) and what it wrote."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


class ProcessError(HarnessError):
    """A command that had to work did not."""

    def __init__(self, message: str, *, completed: Completed | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.completed = completed


class ProcessTimeoutError(ProcessError):
    """A command did not end before its deadline and was killed."""


class InterruptedHarnessError(ProcessError):
    """The harness was told to end meanwhile."""


def stop() -> None:
    """End the commands that other threads wait for, and let those threads start no more."""
    _stopping.set()
    here = threading.get_ident()
    for child, thread in list(_waited_for.items()):
        if thread != here:
            _send(child, signal.SIGTERM, group=True)
    impatient = threading.Timer(_GRACE_S, _kill_waited_for, args=(here,))
    impatient.daemon = True
    impatient.start()


def _kill_waited_for(spared: int) -> None:
    """Those that did not hear. spared: the thread that sees to its own."""
    for child, thread in list(_waited_for.items()):
        if thread != spared:
            _send(child, signal.SIGKILL, group=True)


def stopping() -> bool:
    """Whether the harness was told to end."""
    return _stopping.is_set()


def raise_if_stopping() -> None:
    """InterruptedHarnessError, in any thread but the main one, once the harness is to end."""
    if stopping() and threading.current_thread() is not threading.main_thread():
        raise InterruptedHarnessError("interrupted", hint="run it again")


def kill_all() -> None:
    """Kill every process that we started, at once."""
    for child, group in [*((child, True) for child in list(_waited_for)), *list(_held.items())]:
        _send(child, signal.SIGKILL, group=group)


def which(program: str) -> Path | None:
    """Where `program` is on the PATH, the administrator's directories included."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
) -> Completed:
    """Run `argv` to its end and return what it wrote.

    env is added to our own environment. Raises ProcessTimeoutError past `timeout_s` (the whole
    process group is killed), ProcessError when the program is missing or, with `check`, fails.
    """
    words = tuple(str(word) for word in argv)
    raise_if_stopping()
    with _started(words, stdin=stdin is not None, env=env, cwd=cwd, pipes=True, hint=hint) as child:
        try:
            stdout, stderr = child.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _send(child, signal.SIGKILL, group=True)
            stdout, stderr = child.communicate()
            done = Completed(argv=words, status=child.returncode, stdout=stdout, stderr=stderr)
            raise ProcessTimeoutError(
                f"'{_shown(words)}' did not end within {timeout_s:g} s",
                completed=done, hint=hint,
            ) from None  # fmt: skip
    raise_if_stopping()
    done = Completed(argv=words, status=child.returncode, stdout=stdout, stderr=stderr)
    if check and done.status != 0:
        tail = (stderr or stdout).decode(errors="replace").strip()[-_TAIL_CHARS:]
        raise ProcessError(
            f"'{_shown(words)}' ended with status {done.status}: {tail or 'no output'}",
            completed=done, hint=hint,
        )  # fmt: skip
    return done


def passed_through(argv: Sequence[str | Path], *, cwd: Path | None = None) -> int:
    """Run `argv` on our own terminal, without a deadline: a person, or CI, holds it."""
    words = tuple(str(word) for word in argv)
    with _popen(
        words, stdin=None, stdout=None, stderr=None, env=None, cwd=cwd, group=False, hint=""
    ) as child:
        return child.wait()


@contextlib.contextmanager
def held(
    argv: Sequence[str | Path],
    *,
    stdin: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    env: Mapping[str, str] | None = None,
    group: bool = True,
    spared: bool = True,
) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a process for the length of the block; on the way out: terminate, wait, kill, wait.

    group: the child leads a process group of its own, so that a terminal's ^C reaches us alone
    and its own children end with it. spared: `stop` leaves it to its holder.
    """
    if not spared:
        raise_if_stopping()
    words = tuple(str(word) for word in argv)
    child = _popen(
        words,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        env=env, cwd=None, group=group, hint="",
    )  # fmt: skip
    try:
        _held[child] = group
        if not spared:
            _waited_for[child] = threading.get_ident()
            raise_if_stopping()  # told between the question and the start
        yield child
    finally:
        _end(child, group=group)
        _held.pop(child, None)
        _waited_for.pop(child, None)


@contextlib.contextmanager
def streamed(
    argv: Sequence[str | Path], *, env: Mapping[str, str]
) -> Iterator[tuple[IO[bytes], Child]]:
    """What a process writes, as it comes, and the process; ended when its reader has seen enough."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        try:
            with held(argv, stdout=writing, env=env, spared=False) as child:
                os.close(writing)
                writing = -1
                yield stream, child
        finally:
            if writing >= 0:
                os.close(writing)


@contextlib.contextmanager
def _started(
    words: tuple[str, ...],
    *,
    stdin: bool,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    pipes: bool,
    hint: str,
) -> Iterator[subprocess.Popen[bytes]]:
    child = _popen(
        words,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE if pipes else None,
        stderr=subprocess.PIPE if pipes else None,
        env=env, cwd=cwd, group=True, hint=hint,
    )  # fmt: skip
    try:
        _waited_for[child] = threading.get_ident()
        if stopping():  # told between the question and the start
            raise_if_stopping()
        yield child
    finally:
        _end(child, group=True)
        _waited_for.pop(child, None)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _popen(
    words: tuple[str, ...],
    *,
    stdin: IO[bytes] | int | None,
    stdout: IO[bytes] | int | None,
    stderr: IO[bytes] | int | None,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    group: bool,
    hint: str,
) -> subprocess.Popen[bytes]:
    program = words[0] if "/" in words[0] else str(which(words[0]) or "")
    if not program:
        raise ProcessError(
            f"no program '{words[0]}' on this machine",
            hint=hint or "inv doctor names the package that has it",
        )
    try:
        return subprocess.Popen(
            (program, *words[1:]),
            stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=group,
        )  # fmt: skip
    except OSError as error:
        raise ProcessError(f"cannot start '{words[0]}': {error.strerror}", hint=hint) from error


def _end(child: subprocess.Popen[bytes], *, group: bool) -> None:
    if child.poll() is not None:
        return
    _send(child, signal.SIGTERM, group=group)
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _send(child, signal.SIGKILL, group=group)
        child.wait()


def _send(child: subprocess.Popen[bytes], number: signal.Signals, *, group: bool) -> None:
    """To the whole group: a shell that ends leaves its children behind."""
    if child.returncode is not None:  # it is gone, and its number may be somebody else's
        return
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(child.pid, number)


def _shown(words: tuple[str, ...]) -> str:
    line = " ".join(words)
    return line if len(line) <= 200 else f"{line[:197]}..."
