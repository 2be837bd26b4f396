# SPDX-License-Identifier: Apache-2.0
"""Ask something of the harness in a child that may take so much memory and time, and no more."""

from __future__ import annotations

import os
import resource
import select
import signal
import traceback
from collections.abc import Callable

from harness.errors import HarnessError

FINE = "fine"  # it returned


def answer(ask: Callable[[], object], *, memory_mib: int = 512, seconds: float = 30.0) -> str:
    """`fine`, or the words of the HarnessError that it raised.

    Anything else (a traceback, a child that needed more memory or time) is an AssertionError.
    memory_mib: above what this process has mapped now.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(ask, writing, memory_mib)
    os.close(writing)
    said = b""
    try:
        while select.select([reading], [], [], seconds)[0]:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            said += chunk
        else:
            os.kill(child, signal.SIGKILL)
            raise AssertionError(f"no answer within {seconds:g} s")
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    words = said.decode()
    assert status == 0, f"the child ended with {status}: {words}"
    assert not words.startswith("Traceback"), words
    return words


def _be_child(ask: Callable[[], object], writing: int, memory_mib: int) -> None:
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (memory_mib << 20),) * 2)
    try:
        ask()
        words = FINE
    except HarnessError as error:
        words = error.message
    except BaseException:  # noqa: BLE001 - told to the parent
        words = traceback.format_exc()
    os.write(writing, words.encode(errors="backslashreplace")[: 60 << 10])
    os._exit(0)
