# SPDX-License-Identifier: Apache-2.0
"""An earlier run, as far as trends need it; apart from them, for they load the drawing libraries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What an earlier run of the same subject measured, for trends."""

    started: str  # ISO 8601, UTC
    commit: str
    quantities: dict[str, dict[str, float]]  # quantity → kernel → value
