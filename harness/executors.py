# SPDX-License-Identifier: Apache-2.0
"""Where cells are answered, from a person's words: here, or by a Dask cluster."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.cluster import Cluster

LOCAL = "local"
_DASK = re.compile(
    r"dask://(?P<address>(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5}))/?"
)


def refuse_unknown(words: str) -> None:
    """UsageError unless `words` say where cells are answered."""
    named = _DASK.fullmatch(words)
    # Not left to the socket: the resolver takes a port modulo 65,536.
    there = named is not None and 0 < int(named["port"]) < 1 << 16
    if words not in ("", LOCAL) and not there:
        raise UsageError(
            f"'{words}' is no executor", hint="there is local, and dask://HOST:PORT of a scheduler"
        )


@contextlib.contextmanager
def opened(words: str) -> Iterator[Cluster | None]:
    """The cluster that answers cells, None when they are answered here.

    Raises HarnessError when it cannot be reached, UsageError without Dask or for other versions.
    """
    refuse_unknown(words)
    found = _DASK.fullmatch(words)
    if found is None:
        yield None
        return
    try:
        from harness import cluster  # an extra: nobody else needs Dask
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--executor dask:// needs '{error.name}', which is not installed",
            hint="pip install 'kernel-matrix[dask]'",
        ) from error
    with cluster.joined(found["address"]) as joined:
        yield joined
