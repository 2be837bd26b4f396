# SPDX-License-Identifier: Apache-2.0
"""Kernel supply: from a wanted kernel to its image, BTF and configuration, in a shared cache."""

from harness.supply.directory import from_directory
from harness.supply.files import KernelFiles
from harness.supply.lock import Lock, read_lock
from harness.supply.obtaining import LockReport, obtain, resolve_lock
from harness.supply.outlook import Outlook, foresee

__all__ = [
    "KernelFiles",
    "Lock",
    "LockReport",
    "Outlook",
    "foresee",
    "from_directory",
    "obtain",
    "read_lock",
    "resolve_lock",
]
