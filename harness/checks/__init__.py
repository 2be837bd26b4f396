# SPDX-License-Identifier: Apache-2.0
"""The questions asked of each kernel, one file each, in the order they are asked."""

from harness.checks import (
    attach,
    both,
    command,
    corpus,
    crosscheck,
    function,
    hotlines,
    leak,
    load,
    memory,
    overflow,
    overhead,
    ratelimit,
    sampling,
    sends,
    splat,
    verifier,
)
from harness.checks.context import Check, Context, Need

ALL: tuple[Check, ...] = (
    load.CHECK,
    verifier.CHECK,
    crosscheck.CHECK,
    attach.CHECK,
    function.CHECK,
    sends.CHECK,
    corpus.CHECK,
    command.CHECK,
    sampling.CHECK,
    overflow.CHECK,
    leak.CHECK,
    memory.CHECK,
    ratelimit.CHECK,
    both.CHECK,
    overhead.CHECK,
    splat.CHECK,
)

# Asked by name alone, not with "all": they judge nothing, they show something.
ON_REQUEST: tuple[Check, ...] = (hotlines.CHECK,)

__all__ = ["ALL", "ON_REQUEST", "Check", "Context", "Need"]
