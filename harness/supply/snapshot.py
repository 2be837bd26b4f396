# SPDX-License-Identifier: Apache-2.0
"""Debian's snapshot archive: every package Debian ever had, under the moment it was there.

A moment between two snapshots is answered with the earlier one, so any timestamp will do.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path

from harness.errors import UnavailableError
from harness.supply.apt import Suite, checked_url, probe
from harness.supply.lock import Archive, DebFile
from harness.supply.mirror import archive_of

VARIABLE = "KERNEL_MATRIX_SNAPSHOT_MIRROR"
PROBE_DEADLINE_S = 6.0  # for its answer; where there is no network, none is needed

_probed: dict[str, str] = {}  # base address -> why it cannot be reached, "" if it can
_probing = threading.Lock()


def reached(configured: str) -> str:
    """The archive's base address; UnavailableError, at once from the second time, if it is off."""
    named = os.environ.get(VARIABLE, "")
    base = checked_url(named or configured, VARIABLE if named else "the snapshot archive")
    with _probing:
        if base not in _probed:
            _probed[base] = _why_not(base)
    if _probed[base]:
        raise UnavailableError(
            f"the snapshot archive {base} cannot be reached: {_probed[base]}",
            hint=f"name a reachable copy in {VARIABLE}, or the kernel itself with --kernel-dir",
        )
    return base


def suite(base: str, name: str, timestamp: str) -> Suite:
    archive = archive_of(name)
    return Suite(url=_archive_url(base, archive, timestamp), archive=archive, name=name, past=True)


def file_url(base: str, file: DebFile, timestamp: str) -> str:
    return f"{_archive_url(base, file.archive, timestamp)}/{file.filename}"


def _archive_url(base: str, archive: Archive, timestamp: str) -> str:
    return f"{base}/archive/{archive}/{timestamp}"


def _why_not(base: str) -> str:
    with tempfile.TemporaryDirectory(prefix="kernel-matrix-") as scratch:
        why = probe(f"{base}/archive/debian/", Path(scratch) / "probe", deadline_s=PROBE_DEADLINE_S)
    # An answer of any status is an answer: only the real request knows whether the file is there.
    return "" if re.match(r"[1-5][0-9]{2} ", why) else why
