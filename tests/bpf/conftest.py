# SPDX-License-Identifier: Apache-2.0
"""One build for all tests here."""

from pathlib import Path

import pytest

from tests.bpf import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the parser under sanitisers, the object and the loader."""
    if not build.has_clang:
        pytest.skip("clang and llvm-objdump are not installed")
    out = tmp_path_factory.mktemp("bpf")
    build.make(out, "object", "dnsmon", "senddrv", f"{out}/parse_host_asan", f"{out}/parse_fuzz")
    return out
