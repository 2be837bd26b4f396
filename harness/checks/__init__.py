# SPDX-License-Identifier: Apache-2.0
"""The questions asked of each kernel, one file each, in the order they are asked."""

from harness.checks import attach, corpus, crosscheck, function, load, sends, splat, verifier
from harness.checks.context import Check, Context, Need

ALL: tuple[Check, ...] = (
    load.CHECK,
    verifier.CHECK,
    crosscheck.CHECK,
    attach.CHECK,
    function.CHECK,
    sends.CHECK,
    corpus.CHECK,
    splat.CHECK,
)

__all__ = ["ALL", "Check", "Context", "Need"]
