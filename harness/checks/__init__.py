# SPDX-License-Identifier: Apache-2.0
"""The questions asked of each kernel, one file each, in the order they are asked."""

from harness.checks import attach, function, load, splat
from harness.checks.context import Check, Context

ALL: tuple[Check, ...] = (
    load.CHECK,
    attach.CHECK,
    function.CHECK,
    splat.CHECK,
)

__all__ = ["ALL", "Check", "Context"]
