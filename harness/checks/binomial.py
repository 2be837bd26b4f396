# SPDX-License-Identifier: Apache-2.0
"""How far counts of a fair 1-in-N sample may stray. Pure, with the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Sequence


def interval(n: int, p: float, error: float) -> tuple[int, int]:
    """Lowest and highest count of n trials with chance p that is believed.

    Exact (Clopper-Pearson's tails): a count below the lowest has a probability of at most
    error / 2, one above the highest too. Terms are summed from the far end of each tail; what
    rounding adds is below 1e-9 of the sum for n up to 1e7.
    """
    if n < 0 or not 0 < p < 1 or not 0 < error < 1:
        raise ValueError(f"no binomial interval for n {n}, p {p}, error {error}")
    low = _believed(n, p, error / 2)
    # Successes above the highest are failures below the lowest of the mirror image.
    return low, n - _believed(n, 1 - p, error / 2)


def _believed(n: int, p: float, tail: float) -> int:
    """The smallest k with P(K <= k) > tail."""
    # Nothing further down than this adds up to a thousandth of the tail (Hoeffding).
    start = max(0, math.floor(n * p - math.sqrt(n * math.log(1000 / tail) / 2)))
    below = 0.0
    for k in range(start, n + 1):
        below += math.exp(_log_chance(n, p, k))
        if below > tail:
            return k
    return n


def _log_chance(n: int, p: float, k: int) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def stray(sent: Sequence[int], kept: Sequence[int], p: float) -> float:
    """The chance that counts stray from sent * p as far as these, or farther, by Pearson's measure.

    sent, kept: for each stratum. As p is known and not estimated there are as many degrees of
    freedom as strata. An approximation: of ten million simulated samples 7 to 13 were called less
    likely than 1e-6 and 101 to 113 less likely than 1e-5, for 16 strata of 625 and of 125 expected
    and for 10 of 1,000.
    """
    if len(sent) != len(kept):
        raise ValueError(f"{len(sent)} strata were sent, {len(kept)} counted")
    measure = sum((k - n * p) ** 2 / (n * p * (1 - p)) for n, k in zip(sent, kept, strict=True))
    return chi_square_tail(measure, len(sent))


def chi_square_tail(measure: float, freedom: int) -> float:
    """P(X > measure) for a chi-square X, in closed form (Abramowitz and Stegun 26.4.4-5)."""
    half = measure / 2
    if half <= 0:
        return 1.0
    order = 1.0 if freedom % 2 == 0 else 0.5
    total = math.exp(-half) if freedom % 2 == 0 else math.erfc(math.sqrt(half))
    while order < freedom / 2:
        total += math.exp(order * math.log(half) - half - math.lgamma(order + 1))
        order += 1
    return min(total, 1.0)


def together(sizes: Sequence[int], kept: Sequence[int], p: float) -> float:
    """By how many standard deviations more pairs were kept in the groups than chance would.

    sizes, kept: of each group. Pairs of independent datagrams: expected is p**2 of them; two
    pairs with one datagram in common vary together. Normal for many groups.
    """
    pairs = variance = seen = 0.0
    for size, count in zip(sizes, kept, strict=True):
        mine = size * (size - 1) / 2
        pairs += mine
        seen += count * (count - 1) / 2
        variance += mine * (p**2 - p**4) + mine * 2 * (size - 2) * (p**3 - p**4)
    return (seen - pairs * p**2) / math.sqrt(variance) if variance else 0.0


def neighbours(rows: int, length: int, both: int, p: float) -> float:
    """The same for neighbours in rows of datagrams, of which `both` pairs were kept whole."""
    pairs, triples = rows * (length - 1), rows * max(length - 2, 0)
    variance = pairs * (p**2 - p**4) + 2 * triples * (p**3 - p**4)
    return (both - pairs * p**2) / math.sqrt(variance) if pairs > 0 else 0.0
