# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors that mean the harness, not the kernel, has a say."""

from __future__ import annotations


class HarnessError(Exception):
    """What happened, with the offending value quoted, and what the reader can do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HarnessError):
    """The request itself is wrong (exit status 2)."""


class UnavailableError(HarnessError):
    """A kernel could not be had from any source: its cells are `unavailable`, the run goes on."""
