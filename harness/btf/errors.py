# SPDX-License-Identifier: Apache-2.0
"""The one error of the BTF library: bad input, named by offset and field."""

from __future__ import annotations

from harness.errors import HarnessError


class BtfError(HarnessError):
    """A malformed BTF blob, `.BTF.ext` section or object.

    `offset` is in bytes from the start of the blob (or section) that is being read, `field` the
    name of the field there that cannot be true.
    """

    def __init__(
        self,
        message: str,
        *,
        offset: int | None = None,
        field: str = "",
        source: str = "",
        hint: str = "",
    ) -> None:
        where = ", ".join(
            part
            for part in (
                f"offset {offset:#x}" if offset is not None else "",
                f"field '{field}'" if field else "",
            )
            if part
        )
        text = f"{source or 'BTF'}: {message}" + (f" ({where})" if where else "")
        super().__init__(text, hint=hint or "check that the file is whole and of the named kind")
        self.offset = offset
        self.field = field
        self.source = source
