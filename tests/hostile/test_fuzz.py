# SPDX-License-Identifier: Apache-2.0
"""Damaged input to every parser of foreign bytes: an answer or a HarnessError, soon.

A short run with fixed seeds; `python -m tests.hostile.parsers 600` is the long one.
"""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.parsers import PARSERS, attempt, spliced

_TRIES = 60
_SLOW_S = 10.0  # on a machine that has other work too; alone none takes 0.2 s


@pytest.mark.parametrize("name", PARSERS)
def test_an_undamaged_input_is_taken(name: str) -> None:
    """Otherwise the damage would prove nothing."""
    parser = PARSERS[name]

    assert all(attempt(parser, data) for data in parser.inputs())


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_input_ends_in_an_answer_or_one_error(name: str) -> None:
    """Bytes, words and lengths changed, tails cut and exchanged, stretches repeated."""
    parser = PARSERS[name]
    rng = random.Random(name)
    known = list(parser.inputs())

    for _ in range(_TRIES):
        data = spliced(rng, rng.choice(known), rng.choice(known))
        started = time.monotonic()
        attempt(parser, data)
        assert time.monotonic() - started < _SLOW_S, data.hex()


@pytest.mark.parametrize("name", PARSERS)
@settings(
    derandomize=True, max_examples=25, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.binary(max_size=300))
def test_any_bytes_end_in_an_answer_or_one_error(name: str, data: bytes) -> None:
    """Not even resembling what is expected."""
    attempt(PARSERS[name], data)
