# SPDX-License-Identifier: Apache-2.0
"""Which Debian mirror serves us: what the environment or the machine's apt names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from harness import process
from harness.errors import UnavailableError
from harness.supply.apt import checked_url
from harness.supply.lock import Archive

MAIN_VARIABLE = "KERNEL_MATRIX_DEBIAN_MIRROR"
SECURITY_VARIABLE = "KERNEL_MATRIX_DEBIAN_SECURITY_MIRROR"

_URI_LINE = re.compile(r"'(?P<base>\S+?)/?/dists/(?P<path>\S+)' ")
_RELEASES = (
    "buster|bullseye|bookworm|trixie|forky|duke|sid|experimental"
    "|oldoldstable|oldstable|stable|testing|unstable"
)
_MAIN_SUITE = re.compile(
    rf"(?:{_RELEASES})(?:-(?:updates|backports|backports-sloppy|proposed-updates))?"
)
_SECURITY_SUITE = re.compile(rf"(?:{_RELEASES})(?:-security|/updates)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """The base addresses of the two archives, no slash at the end."""

    main: str
    security: str

    def url(self, archive: Archive) -> str:
        return self.security if archive is Archive.SECURITY else self.main


def find_mirror() -> Mirror:
    """The mirror to use; UnavailableError says why there is none."""
    main = os.environ.get(MAIN_VARIABLE, "")
    security = os.environ.get(SECURITY_VARIABLE, "")
    if main:
        main = checked_url(main, MAIN_VARIABLE)
        return Mirror(
            main=main,
            security=checked_url(security, SECURITY_VARIABLE) if security else f"{main}-security",
        )
    return mirror_of(_update_uris())


def mirror_of(uris: str) -> Mirror:
    """Debian's archives among what `apt-get update --print-uris` wants to fetch.

    Other archives use Debian's suite names too, so one that also has an -updates suite, or is
    called debian, goes first; a wrong guess fails its signature.
    """
    main: dict[str, int] = {}
    security: dict[str, int] = {}
    for match in _URI_LINE.finditer(uris):
        base, path = match["base"], match["path"]
        if not path.endswith("/InRelease"):
            continue
        suite = path.removesuffix("/InRelease")
        rank = 2 * (base.endswith(("/debian", "/debian-security"))) + ("-updates" in suite)
        if _MAIN_SUITE.fullmatch(suite):
            main[base] = max(main.get(base, 0), rank)
        elif _SECURITY_SUITE.fullmatch(suite):
            security[base] = max(security.get(base, 0), rank)
    if not main:
        raise UnavailableError(
            "this machine's apt names no Debian mirror",
            hint=f"name one in {MAIN_VARIABLE}",
        )
    best = max(main, key=lambda base: main[base])
    return Mirror(
        main=checked_url(best, "the machine's apt"),
        security=checked_url(
            max(security, key=lambda base: security[base], default=f"{best}-security"),
            "the machine's apt",
        ),
    )


def archive_of(suite: str) -> Archive:
    """Which archive has the suite: names tell ("bookworm-security", once "buster/updates")."""
    return Archive.SECURITY if _SECURITY_SUITE.fullmatch(suite) else Archive.MAIN


def _update_uris() -> str:
    if process.which("apt-get") is None:
        raise UnavailableError(
            "no apt on this machine", hint="name a kernel you have with --kernel-dir"
        )
    return process.run(
        ["apt-get", "update", "--print-uris"], timeout_s=30, check=False, env={"LC_ALL": "C"}
    ).text
