"""How far a mean over few images can be trusted: intervals, and tests of paired differences.

Everything random is seeded: the same numbers give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Values = np.ndarray[Any, np.dtype[np.float64]]

SEED = 0
CONFIDENCE = 0.95
RESAMPLES = 10_000
# Up to this many differences every one of their 2^n signs is tried; a million sums.
EXACT_UP_TO = 20
FLIPS = 100_000
# Random numbers that are held at a time.
_AT_ONCE = 2_000_000
# Sums that differ by rounding alone, relative to the sum of the sizes, count as equal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean, in the values' unit."""

    low: float
    high: float


@dataclass(frozen=True)
class PermutationTest:
    """The two-sided p-value; ``exact`` if every sign was tried, else ``flips`` random ones were."""

    p_value: float
    exact: bool
    flips: int


@dataclass(frozen=True)
class SignTest:
    """How many differences are above, below and at zero; ``p_value`` is two-sided."""

    positive: int
    negative: int
    zero: int
    p_value: float


def bootstrap_interval(
    values: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval | None:
    """The BCa bootstrap interval of the mean; None for one value, or one that is not finite.

    BCa corrects the percentiles for the mean's bias and skewness, which sets of 5 to 100 images
    have. With few values every bootstrap is too narrow: Set5's five are few.

    Source: B. Efron, "Better bootstrap confidence intervals", JASA 82(397), 1987.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2 or not np.isfinite(x).all():
        return None
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]))
    means = np.sort(np.concatenate(list(_resampled_means(x, resamples, seed))))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [_bca_level(x, means, level) for level in (tail, 1 - tail)])
    return Interval(float(low), float(high))


def _resampled_means(x: Values, resamples: int, seed: int) -> Iterator[Values]:
    random = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // len(x))
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        yield x[random.integers(len(x), size=(count, len(x)))].mean(axis=1)


def _bca_level(x: Values, means: Values, level: float) -> float:
    """The quantile of the resampled ``means`` that stands for ``level``."""
    normal = NormalDist()
    mean = x.mean()
    below = float(np.mean(means < mean) + np.mean(means == mean) / 2)
    # Never 0 or 1: the normal quantile of those is infinite.
    bias = normal.inv_cdf(min(max(below, 1 / len(means)), 1 - 1 / len(means)))
    # The jackknife's means differ from their own mean by (x - mean) / (n - 1): the factor cancels.
    away = x - mean
    skew = float((away**3).sum() / (6 * (away**2).sum() ** 1.5))
    z = bias + normal.inv_cdf(level)
    return normal.cdf(bias + z / (1 - skew * z))


def sign_flip_test(
    differences: Sequence[float], *, flips: int = FLIPS, seed: int = SEED
) -> PermutationTest:
    """Whether the mean of paired differences is zero: were each sign a coin's, how often as far?

    Exact up to ``EXACT_UP_TO`` differences, else from ``flips`` random signs, the observed one
    counted too, so that no p-value is 0.

    Raises:
        ValueError: no differences, or one that is not finite.
    """
    x = _checked(differences)
    limit = abs(x.sum()) - _ROUNDING * np.abs(x).sum()
    if len(x) <= EXACT_UP_TO:
        sums = np.zeros(1)
        for value in x:
            sums = np.concatenate([sums + value, sums - value])
        return PermutationTest(float(np.mean(np.abs(sums) >= limit)), True, len(sums))
    random = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // len(x))
    as_far = 0
    for start in range(0, flips, batch):
        signs = random.integers(2, size=(min(batch, flips - start), len(x))) * 2 - 1
        as_far += int((np.abs(signs @ x) >= limit).sum())
    return PermutationTest((1 + as_far) / (1 + flips), False, flips)


def sign_test(differences: Sequence[float]) -> SignTest:
    """Whether differences are as often above as below zero, whatever their size; exact.

    Zeros are left out of the p-value.

    Raises:
        ValueError: no differences, or one that is not finite.
    """
    x = _checked(differences)
    positive, negative = int((x > 0).sum()), int((x < 0).sum())
    count, fewer = positive + negative, min(positive, negative)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    return SignTest(positive, negative, len(x) - count, min(1.0, 2 * tail))


def _checked(differences: Sequence[float]) -> Values:
    x = np.asarray(differences, dtype=np.float64)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError("differences must be finite, and at least one")
    return x
