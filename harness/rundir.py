# SPDX-License-Identifier: Apache-2.0
"""A directory for one guest's socket, initrd and console, that never outlives its harness for long."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import place
from harness.cache import Cache


@contextlib.contextmanager
def run_directory(cache: Cache) -> Iterator[Path]:
    """A directory of our own for one guest's socket, initrd and console; gone afterwards."""
    base = cache.directory("run")
    path = Path(tempfile.mkdtemp(prefix=f"{place.owner().replace(':', '-')}-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_orphans(cache: Cache) -> int:
    """Remove run directories whose harness is dead; how many."""
    removed = 0
    for path in cache.directory("run").iterdir():
        pid, _, rest = path.name.partition("-")
        if not place.alive(f"{pid}:{rest.partition('-')[0]}"):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed
