# SPDX-License-Identifier: Apache-2.0
"""How a task begins and ends at a terminal: what is said there, errors, signals, exit status.

And what invoke lacks of it: wrong use that ends in 2, several words for one argument.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from types import FrameType
from typing import NoReturn, ParamSpec, TypeVar

from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from harness import intake, process
from harness.btf.errors import BtfError
from harness.errors import HarnessError, UsageError
from harness.results import Verdict

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ENDS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_NUDGE = signal.SIGURG  # ignored unless handled, and nothing of ours has a use for it
_NUDGE_EVERY_S = 0.05
_NUDGED_S = 10.0


def guarded(body: Callable[_P, _R]) -> Callable[_P, _R]:
    """Errors of ours end in one clear line and a status, never in a traceback."""

    @functools.wraps(body)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if threading.current_thread() is threading.main_thread():
            _hear_signals()
        try:
            return body(*args, **kwargs)
        except (UsageError, BtfError) as error:  # BtfError: a file named here is no such thing
            _fail(error, 2)
        except HarnessError as error:
            _fail(error, 3)
        except KeyboardInterrupt:
            raise Exit("interrupted", code=130) from None
        except BrokenPipeError:  # `inv inspect … | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=141) from None

    return call


def show(words: object, *, end: str = "\n") -> None:
    """For a person, or the log of a CI: names and texts of others do nothing there but show."""
    print(intake.shown(str(words)), end=end)


def _hear_signals() -> None:
    """Asked to end, however, we end as ^C does: guests and containers go, finished cells stay."""
    for number in _ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a job in the background
            signal.signal(number, _told_to_end)
    signal.signal(_NUDGE, lambda number, frame: None)
    _hear_at_once()


@functools.cache
def _hear_at_once() -> None:
    """Python handles a signal in the main thread, between two of its instructions.

    One that comes just before that thread waits for another, or to a thread beside it, would be
    heard when the wait ends: hours later. The pipe hears of each at once, and wakes that thread up.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_nudge, args=(reading,), name="signals", daemon=True).start()


def _nudge(reading: int) -> None:
    """Interrupt what the main thread waits for until it must have heard; a wait goes on by itself."""
    main = threading.main_thread().ident
    assert main is not None
    while True:
        if _ENDS & set(os.read(reading, 4096)):
            end = time.monotonic() + _NUDGED_S
            while time.monotonic() < end:
                signal.pthread_kill(main, _NUDGE)
                time.sleep(_NUDGE_EVERY_S)


def _told_to_end(number: int, frame: FrameType | None) -> None:
    """The first time in good order; the second time at once, what is left goes at the next start."""
    if process.stopping():
        process.kill_all()
        os._exit(128 + number)
    process.stop()
    raise KeyboardInterrupt


def columns() -> int:
    """Of the terminal; 0, no limit, where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _fail(error: HarnessError, code: int) -> NoReturn:
    hint = f"\n  → {error.hint}" if error.hint else ""
    raise Exit(intake.shown(f"error: {error.message}{hint}"), code=code)


# Of a verdict; any other is 0.
STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNKNOWN: 3}


def number(option: str, text: str) -> int:
    """An option's whole number; invoke itself answers a word with a traceback."""
    if not text.isdecimal():
        raise UsageError(f"--{option} wants a whole number, not '{text}'")
    return int(text)


def finish(code: int) -> None:
    """End the task with that status."""
    if code:
        raise Exit(code=code)


class _Program(Program):
    """invoke's, with wrong use ending in 2: its own 1 would read as a kernel that fails."""

    # typing.override is of Python 3.12.
    def parse_core(self, argv: list[str] | None) -> None:  # type: ignore[explicit-override]
        with _parsing():
            super().parse_core(_joined(list(sys.argv if argv is None else argv)))

    def parse_tasks(self) -> None:  # type: ignore[explicit-override]
        with _parsing():
            super().parse_tasks()


def _joined(argv: list[str]) -> list[str]:
    """`resolve a.o b.o --btf x`: invoke has no argument that takes several words, we join them."""
    if "resolve" not in argv:
        return argv
    start = argv.index("resolve") + 1
    options = (i for i, word in enumerate(argv) if i >= start and word.startswith("-"))
    end = next(options, len(argv))
    return [*argv[:start], *filter(None, [",".join(argv[start:end])]), *argv[end:]]


@contextlib.contextmanager
def _parsing() -> Iterator[None]:
    try:
        yield
    except ParseError as error:
        raise Exit(f"error: {error}\n  → kernel-matrix --list names the tasks", code=2) from error


class _Shown(logging.Formatter):
    """Warnings tell of files and words of others too."""

    # typing.override is of Python 3.12.
    def format(self, record: logging.LogRecord) -> str:  # type: ignore[explicit-override]
        return intake.shown(super().format(record))


def run(namespace: Collection) -> None:
    """Do what the command line says, with these tasks; returns by SystemExit."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Shown())
    logging.getLogger().addHandler(handler)
    try:
        version = metadata.version("kernel-matrix")
        name = "kernel-matrix"
        _Program(name=name, binary=name, version=version, namespace=namespace).run()
    except SystemExit as end:
        if process.stopping():
            # A thread that waits for something would be waited for.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise
