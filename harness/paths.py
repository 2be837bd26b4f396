# SPDX-License-Identifier: Apache-2.0
"""Where the project's own data lie: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def catalogue_dir() -> Path:
    """The kernel catalogue: the one of the user's own project if it has any."""
    own = Path.cwd() / "kernels"
    return own if any(own.glob("*.toml")) else _data("kernels")


def default_manifest() -> Path:
    """The manifest of the DNS observer."""
    return _data("bpf") / "dns_monitor.toml"


def _data(name: str) -> Path:
    installed = _PACKAGE / "data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
