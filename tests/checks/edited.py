# SPDX-License-Identifier: Apache-2.0
"""The observer with other words in its files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness import build, paths
from harness.build import Built
from harness.cache import Cache


def edited(directory: Path, edits: Mapping[str, tuple[str, str]], cache: Cache) -> Built:
    """Build a copy in `directory`; old words, each there once, and new ones by file."""
    origin = paths.default_manifest()
    shutil.copytree(origin.parent, directory, ignore=shutil.ignore_patterns("build", "*.o"))
    for name, (old, new) in edits.items():
        text = (directory / name).read_text()
        assert text.count(old) == 1, (name, old)
        (directory / name).write_text(text.replace(old, new))
    return build.from_manifest(directory / origin.name, cache, lambda text: None)
