# SPDX-License-Identifier: Apache-2.0
"""An emulated guest's clock: what its kernel does with it may not end a boot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import baseroot, rundir, session
from harness.cache import Cache
from harness.place import Local
from harness.session import Command, Files
from harness.supply import KernelFiles
from tests.conftest import NEWEST, OLDEST

pytestmark = pytest.mark.vm

# The watchdog looks twice a second, from the boot's first second on.
_SCRIPT = "while [ $(cut -d. -f1 /proc/uptime) -lt 5 ]; do sleep 0.5; done; dmesg"


@pytest.mark.parametrize("name", [OLDEST, NEWEST])
def test_no_cpu_waits_for_another_to_compare_clocks(
    name: str, kernel: Callable[[str], KernelFiles], cache: Cache
) -> None:
    """7.3 does, for ever when the other waits for it; it told of a late answer at every boot."""
    root = baseroot.obtain(cache, print)
    files = Files(vmlinuz=kernel(name).vmlinuz, base=baseroot.guest_archive(root, cache, print))
    where = Local(prefix=root.qemu_prefix, environment=root.environment)
    with rundir.run_directory(cache) as run_dir:
        outcome = session.run_command(
            Command(argv=("sh", "-c", _SCRIPT)), files, where=where, run_dir=run_dir
        )

    about = [line for line in outcome.stdout.decode().splitlines() if "clocksource: " in line]
    assert any("Switched to clocksource" in line for line in about)
    assert not [line for line in about if "atchdog" in line]
