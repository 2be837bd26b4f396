# SPDX-License-Identifier: Apache-2.0
"""The bounds that sampling is judged by, against sums that are exact."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from harness.checks import binomial


def _below(n: int, p: Fraction, k: int) -> Fraction:
    """P(K <= k), in whole numbers."""
    return sum(
        (math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), start=Fraction(0)
    )


@pytest.mark.parametrize("n", [1, 40, 500])
@pytest.mark.parametrize("denominator", [2, 10, 100])
@pytest.mark.parametrize("error", [0.1, 1e-4, 1e-9])
def test_the_interval_is_the_exact_one(n: int, denominator: int, error: float) -> None:
    """One count wider would let more pass than is said, one narrower refuse more."""
    p, tail = Fraction(1, denominator), Fraction(error) / 2

    low, high = binomial.interval(n, float(p), error)

    assert _below(n, p, low - 1) <= tail < _below(n, p, low)
    assert 1 - _below(n, p, high) <= tail < 1 - _below(n, p, high - 1)


def test_the_interval_of_a_hundred_thousand_is_where_the_normal_one_is() -> None:
    """4.107 standard deviations of 94.9 around 10,000, and a little skew."""
    assert binomial.interval(100_000, 0.1, 4e-5) == (9612, 10392)


@pytest.mark.parametrize(("n", "p", "error"), [(-1, 0.5, 0.1), (1, 0.0, 0.1), (1, 0.5, 0.0)])
def test_no_interval_without_a_chance(n: int, p: float, error: float) -> None:
    """Nothing sensible could be said."""
    with pytest.raises(ValueError, match="no binomial interval"):
        binomial.interval(n, p, error)


@pytest.mark.parametrize(
    ("measure", "freedom", "chance"),
    [(0.0, 3, 1.0), (3.8414588, 1, 0.05), (5.9914645, 2, 0.05), (11.0704977, 5, 0.05),
     (39.2523548, 16, 0.001), (29.5882984, 10, 0.001)],
)  # fmt: skip
def test_the_chi_square_tail_is_that_of_the_tables(
    measure: float, freedom: int, chance: float
) -> None:
    """Even and odd degrees of freedom have formulas of their own."""
    assert binomial.chi_square_tail(measure, freedom) == pytest.approx(chance, rel=1e-6)


def test_strata_must_match() -> None:
    with pytest.raises(ValueError, match="2 strata were sent, 1 counted"):
        binomial.stray([1, 2], [1], 0.5)


def test_pairs_that_chance_keeps_stray_by_little() -> None:
    """Exact moments: all outcomes of a group of 5, each weighted by its chance."""
    p, size = 0.3, 5
    chance = [math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)]
    strays = [binomial.together([size], [k], p) for k in range(size + 1)]

    assert sum(c * z for c, z in zip(chance, strays, strict=True)) == pytest.approx(0, abs=1e-12)
    assert sum(c * z * z for c, z in zip(chance, strays, strict=True)) == pytest.approx(1)


def test_neighbours_that_chance_keeps_stray_by_little() -> None:
    """The same for all outcomes of two rows of 4."""
    p, rows, length = 0.3, 2, 4
    mean = square = 0.0
    for outcome in range(1 << rows * length):
        kept = [[outcome >> (row * length + at) & 1 for at in range(length)] for row in range(rows)]
        ones = sum(map(sum, kept))
        chance = p**ones * (1 - p) ** (rows * length - ones)
        both = sum(row[at] & row[at + 1] for row in kept for at in range(length - 1))
        strays_by = binomial.neighbours(rows, length, both, p)
        mean += chance * strays_by
        square += chance * strays_by**2

    assert mean == pytest.approx(0, abs=1e-12)
    assert square == pytest.approx(1)


def test_no_pairs_no_deviation() -> None:
    """Groups of one, rows of one: nothing is said, and nothing divided by zero."""
    assert binomial.together([1, 1], [1, 0], 0.5) == 0
    assert binomial.neighbours(3, 1, 0, 0.5) == 0
