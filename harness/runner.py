# SPDX-License-Identifier: Apache-2.0
"""What a CI runner needs before the first run: KVM for everyone, a Debian mirror to ask."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from harness import process
from harness.errors import HarnessError, UnavailableError
from harness.supply import mirror

_KVM = Path("/dev/kvm")
_IMAGE = "debian:12"
_TIMEOUT_S = 300.0


def prepare() -> list[str]:
    """Do what can be done here; what was done, line by line.

    On GitHub the mirror is handed to the steps that follow through $GITHUB_ENV.
    """
    return [_kvm(), _mirror()]


def _kvm() -> str:
    if not _KVM.exists():
        return f"{_KVM} is not there: guests run emulated"
    if os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM} opens"
    # udev would make it so for good; a runner lives for one job.
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    done = process.run([*sudo, "chmod", "0666", str(_KVM)], timeout_s=20, check=False)
    if done.status != 0:
        return f"{_KVM} may not be opened and could not be changed: guests run emulated"
    return f"{_KVM} opens for everyone now"


def _mirror() -> str:
    with contextlib.suppress(UnavailableError):
        return f"Debian mirror: {mirror.find_mirror().main}"
    image = process.run(
        ["docker", "run", "--rm", _IMAGE, "cat", "/etc/apt/sources.list.d/debian.sources"],
        timeout_s=_TIMEOUT_S, check=False,
    )  # fmt: skip
    found = re.search(r"^URIs:\s*(\S+)", image.text, re.MULTILINE)
    if image.status != 0 or found is None:
        raise HarnessError(
            f"no Debian mirror is configured here, and the image {_IMAGE} tells none: "
            f"{image.stderr.decode(errors='replace').strip()[-200:]}",
            hint=f"name one in {mirror.MAIN_VARIABLE}",
        )
    if github := os.environ.get("GITHUB_ENV"):
        with Path(github).open("a", encoding="utf-8") as file:
            file.write(f"{mirror.MAIN_VARIABLE}={found[1]}\n")
    return f"Debian mirror, from the image {_IMAGE}: {found[1]}"
