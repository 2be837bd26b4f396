# SPDX-License-Identifier: Apache-2.0
"""What `inv` finds: the tasks of the harness, and the project's own."""

from harness.cli import namespace

__all__ = ["namespace"]
