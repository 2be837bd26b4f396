# SPDX-License-Identifier: Apache-2.0
"""Asking for the kernel's version is found in each of its forms, and nothing else is."""

from __future__ import annotations

from harness.btf import BpfObject
from harness.btf.version import version_questions
from tests.btf.conftest import Compile


def test_every_way_to_ask_for_the_version_is_found_with_its_line(compile_bpf: Compile) -> None:
    """libbpf's extern, the release as text behind CO-RE, and the kernel's own variable."""
    found = version_questions(BpfObject.from_file(compile_bpf("version.bpf.c")))

    assert {one.program: one.what for one in found} == {
        "asks_extern": "LINUX_KERNEL_VERSION",
        "asks_release": "struct uts_namespace.name.release",
        "asks_banner": "linux_banner",
    }
    assert all(one.file.endswith("version.bpf.c") and one.line and one.text for one in found)
