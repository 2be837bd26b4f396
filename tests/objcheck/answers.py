# SPDX-License-Identifier: Apache-2.0
"""Recorded answers of real kernels; see fixtures/README.md."""

from __future__ import annotations

from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
KERNELS = ("5.10.223", "6.1.192", "6.12.117", "6.18.15", "7.2.12", "7.3.4")


def recorded(kernel: str, name: str) -> str:
    return (FIXTURES / kernel / f"{name}.jsonl").read_text(encoding="utf-8")


def all_recorded(prefix: str) -> list[Path]:
    return sorted(FIXTURES.glob(f"*/{prefix}*.jsonl"))


def ident(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"
