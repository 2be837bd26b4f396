# SPDX-License-Identifier: Apache-2.0
"""What the loaders of libbpf-tools say: the second opinion on our verdicts.

Each is run as a command and must agree with what test_on_kernels says of the object it carries.
"""

from __future__ import annotations

import pytest

from harness import build
from harness.cache import Cache
from harness.checks import command
from harness.results import Run
from harness.subject import Command
from tests.conftest import NEWEST, OLDEST
from tests.thirdparty.conftest import Tools
from tests.vm.matrix import Matrix, leftovers

pytestmark = pytest.mark.vm

_BOOT_TIMEOUT_S = 240.0
_LOADERS = {
    # (what to run, does it work on the oldest kernel, on the newest)
    "opensnoop": ("timeout -s INT 3 ./opensnoop >/tmp/seen & sleep 2; cat /etc/hosts; wait $!; "
                  "grep -q 'cat .*/etc/hosts' /tmp/seen", True, True),
    "runqlen": ("./runqlen 1 1", True, False),
    "bitesize": ("./bitesize 1 1", False, True),
    "tcppktlat": ("timeout -s INT 3 ./tcppktlat", True, True),
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(
    cache: Cache, tools: Tools, kernel: object, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """The loaders themselves, dynamically linked as Debian ships them, on both kernels."""
    assert callable(kernel)
    commands = [Command(name=name, run=run, timeout_s=60) for name, (run, _, _) in _LOADERS.items()]
    subject = build.with_commands(
        build.from_commands("libbpf-tools"), commands, [tools.loader(name) for name in _LOADERS]
    )
    done = Matrix(
        cache=cache, kernels=(kernel(OLDEST), kernel(NEWEST)), subject=subject, backend="local",
        checks=(command.CHECK,), append=(), boot_timeout_s=_BOOT_TIMEOUT_S,
        report_dir=tmp_path_factory.mktemp("loaders"),
    ).run()  # fmt: skip
    assert leftovers(cache) == []
    return done


def test_their_own_loaders_agree(ran: Run) -> None:
    """Where we say that an object cannot, its own loader cannot either, and the other way round."""
    for cell in ran.cells:
        said = next(check for check in cell.checks if check.check == "command")
        status = {figure.name.partition(": ")[0]: figure.value for figure in said.figures
                  if figure.name.endswith(": status")}  # fmt: skip
        works = {name: value == 0 for name, value in status.items()}
        newest = cell.kernel.name == NEWEST
        assert works == {
            name: on_newest if newest else on_oldest
            for name, (_, on_oldest, on_newest) in _LOADERS.items()
        }, (cell.kernel.name, said.summary)
