# SPDX-License-Identifier: Apache-2.0
"""Deadlines are on the monotonic clock: the wall's jumps, and is only for what people read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import harness

_ROOT = Path(harness.__file__).parent
_WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
# Where it stamps what is written down, or is compared with such a stamp; never waited for.
_STAMPS = {
    "benches.py": "the name of a report's directory",
    "images.py": "how old an engine's image is",
    "job.py": "the name of a report's directory; the day of a gate and of a quarantine",
    "kernel_container.py": "how old an ended container of an unknown owner is",
    "merge.py": "the day of a quarantine",
    "pipeline.py": "when a run began",
    "rundir.py": "how old a file is that nobody seems to write",
    "supply/obtaining.py": "when a lock entry was resolved",
}


def _wall_clocks(tree: ast.AST) -> Iterator[int]:
    """Line numbers where a module looks at the wall clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            if {alias.name for alias in node.names} & {"time", "time_ns", "datetime", "date"}:
                yield node.lineno
        elif isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if node.attr in _WALL.get(name, ()):
                yield node.lineno


def test_only_stamps_are_of_the_wall_clock() -> None:
    """A deadline on it would end a guest, or never end one, when somebody sets the clock."""
    found = {
        str(path.relative_to(_ROOT))
        for path in _ROOT.rglob("*.py")
        if any(_wall_clocks(ast.parse(path.read_text())))
    }

    assert found == set(_STAMPS)


def test_every_way_to_the_wall_clock_is_seen() -> None:
    text = (
        "import time, datetime\ntime.time()\nx = datetime.datetime.now()\nfrom time import time\n"
    )

    assert sorted(_wall_clocks(ast.parse(text))) == [2, 3, 4]
    assert not list(_wall_clocks(ast.parse("import time\ntime.monotonic()\n")))
