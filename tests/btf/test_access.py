# SPDX-License-Identifier: Apache-2.0
"""The core-access audit finds fixed offsets into kernel structs, and only those."""

from __future__ import annotations

import pytest

from harness.btf import BpfObject
from harness.btf.access import audit
from tests.btf.conftest import Compile


@pytest.mark.parametrize("cpu", ["v1", "v3"])
def test_every_fixed_offset_is_found_with_its_line(cpu: str, compile_bpf: Compile) -> None:
    """The broken programs each have one, the clean ones none."""
    path = compile_bpf("access.bpf.c", f"-mcpu={cpu}")

    found = audit(BpfObject.from_file(path))

    places = {one.program: (one.offset, one.certain) for one in found}
    assert places == {
        "broken_first": (24, True),
        "broken_argument": (24, True),
        "broken_second_step": (32, True),
        "broken_typed": (24, True),
        "reads_plain": (24, True),
    }
    assert all(one.file.endswith("access.bpf.c") and one.line for one in found)
    assert all("->" in one.text for one in found)
