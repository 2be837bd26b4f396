# SPDX-License-Identifier: Apache-2.0
"""Jinja with everything escaped: what results say was written by others."""

from __future__ import annotations

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined


@functools.cache
def environment() -> Environment:
    """The one environment of all templates."""
    return Environment(
        loader=PackageLoader("harness.reporting", "data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
