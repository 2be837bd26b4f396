# SPDX-License-Identifier: Apache-2.0
"""Damaged input ends in a BtfError or in an answer: no traceback, hang or memory blow-up."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.btf import BtfError
from tests.btf import mutate
from tests.btf.builder import BtfBuilder


@pytest.mark.parametrize("seed", range(4))
def test_damaged_blobs_and_objects_are_refused_in_one_way(seed: int) -> None:
    """A short run; `python -m tests.btf.mutate 1000000` is the long one."""
    accepted, refused = mutate.run(300, seed)

    assert accepted + refused == 300
    assert refused


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.integers(0, 24), st.integers(0, 4), st.integers(0, 40), st.lists(st.integers(0, 99))
        ),
        max_size=20,
    )
)
def test_any_records_are_read_or_refused(
    records: list[tuple[int, int, int, list[int]]],
) -> None:
    """Types that make no sense, with ids that lead anywhere."""
    builder = BtfBuilder()
    for kind, vlen, third, trailer in records:
        builder.record(kind, "s", vlen, third, *trailer)
    data = builder.build()

    with contextlib.suppress(BtfError):
        mutate.read_btf(data)
