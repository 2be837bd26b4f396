# SPDX-License-Identifier: Apache-2.0
"""A machine that fails under a guest: its disk, most often, which has no room for the guest's files."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence

from harness.cache import Cache
from harness.errors import HarnessError

logger = logging.getLogger(__name__)


def told(error: HarnessError | OSError, cache: Cache) -> HarnessError:
    """The error as a person can act on it; one that says so already is as it was."""
    hint = f"free some space for the cache '{cache.root}', or name another in KERNEL_MATRIX_CACHE"
    if isinstance(error, OSError):
        where = error.filename or cache.root
        return HarnessError(f"this machine failed at '{where}': {error.strerror}", hint=hint)
    if not error.hint and os.strerror(errno.ENOSPC) in error.message:
        return HarnessError(error.message, hint=hint)
    return error


@contextlib.contextmanager
def kept(answers: Sequence[object]) -> Iterator[None]:
    """What fails on the way out of a guest does not cost the answers that it gave."""
    try:
        yield
    except (HarnessError, OSError) as error:
        if not answers:
            raise
        logger.warning("on the way out of a guest: %s", error)
