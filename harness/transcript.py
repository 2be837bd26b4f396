# SPDX-License-Identifier: Apache-2.0
"""A guest that remembers which commands were run in it: evidence, and a recipe to follow by hand."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from harness.errors import HarnessError
from harness.guest import CommandFloodError, CommandResult, Guest
from harness.results import Ran

_LONGEST = 4000  # characters; a script with its data inside is cut


class Transcript:
    """Passes everything on to `guest` and keeps what was run."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._ran: list[Ran] = []

    def take(self) -> tuple[Ran, ...]:
        """What was run since the last take, in order."""
        ran, self._ran = tuple(self._ran), []
        return ran

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CommandResult:
        """As `Guest.run`; CommandFloodError rather than a cut answer, which would mislead."""
        started = time.monotonic()
        try:
            result = self._guest.run(argv, timeout_s=timeout_s, stdin=stdin)
        except HarnessError:
            self._keep(argv, None, time.monotonic() - started)
            raise
        self._keep(argv, result.status, result.duration_s)
        if result.truncated:
            size = max(len(result.stdout), len(result.stderr))
            raise CommandFloodError(
                f"'{' '.join(argv):.200}' flooded its output: only {size:,} bytes of it were kept"
            )
        return result

    def read_file(self, path: str, *, timeout_s: float = 60.0) -> bytes:
        """As `Guest.read_file`."""
        return self._guest.read_file(path, timeout_s=timeout_s)

    def start(self, argv: Sequence[str]) -> int:
        """As `Guest.start`."""
        pid = self._guest.start(argv)
        self._keep([*argv, "&"], None, 0.0)
        return pid

    def _keep(self, argv: Sequence[str], status: int | None, duration_s: float) -> None:
        words = argv[:-1] if argv[-1] == "&" else argv
        line = shlex.join(words) + (" &" if len(words) < len(argv) else "")
        if len(line) > _LONGEST:
            line = f"{line[:_LONGEST]} … ({len(line)} characters)"
        self._ran.append(Ran(command=line, status=status, duration_s=duration_s))
