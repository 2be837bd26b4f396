# SPDX-License-Identifier: Apache-2.0
"""Events of a run, and the one place that draws them: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness import intake


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A kernel has entered a phase: "fetch", "boot", a check's name."""

    kernel: str
    phase: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A kernel's cell is complete."""

    kernel: str
    verdict: str
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something a person should know once."""

    text: str


Event = Phase | Finished | Note
Listener = Callable[[Event], None]

_STYLE = {"pass": "green", "fail": "bold red", "unsupported": "yellow", "unknown": "magenta",
          "unavailable": "dim", "skipped": "dim"}  # fmt: skip


class Progress:
    """Draws events. `with Progress() as listener: …` and call it from any thread."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._running: dict[str, tuple[str, str, float]] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Listener:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._table, console=self._console, refresh_per_second=4,
                transient=True,
            )  # fmt: skip
            self._live.start()
        return self._on_event

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _on_event(self, event: Event) -> None:
        with self._lock:
            match event:
                case Phase():
                    since = time.monotonic()
                    self._running[event.kernel] = (event.phase, event.detail, since)
                    if self._live is None:
                        detail = f": {event.detail}" if event.detail else ""
                        self._line(f"{event.kernel:<16} {event.phase}{detail}")
                case Finished():
                    self._running.pop(event.kernel, None)
                    summary = f"  {event.summary}" if event.summary else ""
                    self._line(f"{event.kernel:<16} ", event.verdict, summary)
                case Note():
                    self._line(event.text)

    def _line(self, before: str, verdict: str = "", after: str = "") -> None:
        line = Text(f"[{time.monotonic() - self._started:6.1f} s] ", style="dim")
        plain = Text(intake.shown(before))
        plain.append(verdict, style=_STYLE.get(verdict, ""))
        plain.append(intake.shown(after))
        self._console.print(line + plain, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for kernel, (phase, detail, since) in list(self._running.items()):
            # As texts: rich would take "[…]" in a string for its own markup.
            words = (kernel, phase, f"{now - since:5.1f} s", intake.line(detail, 60))
            table.add_row(*(Text(word) for word in words))
        return table
