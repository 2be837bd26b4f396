# SPDX-License-Identifier: Apache-2.0
"""What compiles static programs for guests of one architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """This machine's own compiler, unless said otherwise."""

    arch: str = "x86_64"  # of the guests
    compiler: tuple[str, ...] = ("cc",)
    libraries: str = ""  # that a static objcheck links; "": its Makefile finds out
    identity: str = ""  # changes with what is linked in; "": what this machine has installed

    @property
    def foreign(self) -> bool:
        """Whether a Makefile has to be told."""
        return bool(self.identity)

    @property
    def make_words(self) -> tuple[str, ...]:
        """Variables for make."""
        if not self.foreign:
            return ()
        return (f"ARCH={self.arch}", f"CC={' '.join(self.compiler)}")


NATIVE = Toolchain()
