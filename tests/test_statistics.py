"""Intervals and tests against what can be enumerated or simulated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sruplift.statistics import (
    EXACT_UP_TO,
    Interval,
    bootstrap_interval,
    sign_flip_test,
    sign_test,
)


class TestBootstrap:
    def test_covers_the_true_mean_about_as_often_as_it_says(self) -> None:
        """400 samples of 30 from a skewed distribution whose mean is 1."""
        random = np.random.default_rng(1)
        hits = 0
        for _ in range(400):
            found = bootstrap_interval(random.exponential(size=30), resamples=1000)
            assert found is not None
            hits += found.low <= 1 <= found.high
        # 0.935; the plain percentiles of the same resamples: 0.915.
        assert 0.925 <= hits / 400 <= 0.975

    def test_of_symmetric_values_is_the_percentiles(self) -> None:
        """All 3^3 resamples of (-1, 0, 1): 1 of 27 has the mean 1, so 2.5 % lies inside it."""
        found = bootstrap_interval([-1, 0, 1])
        assert found == Interval(-1, 1)
        narrow = bootstrap_interval([-1, 0, 1], confidence=0.5)
        assert narrow is not None
        # 4 of 27 resamples have a mean above 1/3, 10 have at least 1/3: the quartile is there.
        assert (narrow.low, narrow.high) == pytest.approx((-1 / 3, 1 / 3))

    def test_leans_towards_the_long_tail(self) -> None:
        values = [0.0] * 12 + [1.0, 2.0, 9.0]
        found = bootstrap_interval(values)
        assert found is not None
        mean = sum(values) / len(values)
        assert found.high - mean > 1.3 * (mean - found.low)
        mirrored = bootstrap_interval([-value for value in values])
        assert mirrored is not None
        assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=0.15)

    def test_is_reproducible_and_narrows_with_more_values(self) -> None:
        values = list(np.random.default_rng(2).normal(30, 3, 100))
        assert bootstrap_interval(values) == bootstrap_interval(values)
        few, many = bootstrap_interval(values[:25]), bootstrap_interval(values)
        assert few is not None
        assert many is not None
        assert many.high - many.low < 0.75 * (few.high - few.low)
        # Nearly normal: mean +- 1.96 standard errors.
        error = np.std(values, ddof=1) / 10
        assert many.low == pytest.approx(np.mean(values) - 1.96 * error, abs=0.2 * error)

    def test_batches_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = list(np.random.default_rng(3).normal(30, 3, 7))
        whole = bootstrap_interval(values)
        monkeypatch.setattr("sruplift.statistics._AT_ONCE", 700)
        assert bootstrap_interval(values) == whole

    @pytest.mark.parametrize("values", [[31.0], [31.0, math.inf], [31.0, math.nan]])
    def test_where_there_is_none(self, values: list[float]) -> None:
        assert bootstrap_interval(values) is None

    def test_equal_values(self) -> None:
        assert bootstrap_interval([0.9, 0.9, 0.9]) == Interval(0.9, 0.9)


class TestSignFlips:
    def test_exact_against_every_sign(self) -> None:
        differences = [0.3, -0.1, 0.25, 0.4, -0.05, 0.0]
        sums = [
            abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=6)
        ]
        expected = sum(value >= sum(differences) - 1e-12 for value in sums) / 64
        found = sign_flip_test(differences)
        assert (found.p_value, found.exact, found.flips) == (expected, True, 64)

    def test_five_images_cannot_be_below_a_sixteenth(self) -> None:
        assert sign_flip_test([0.1, 0.2, 0.3, 0.4, 5]).p_value == 2 / 32

    def test_rounding_of_sums_is_no_difference(self) -> None:
        """0.1 + 0.2 - 0.3 is not zero in floating point; all 8 signs of it are as far as 0."""
        assert sign_flip_test([0.1, 0.2, -0.3]).p_value == 1

    def test_random_flips_agree_with_exact_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        differences = list(np.random.default_rng(4).normal(0.1, 0.3, EXACT_UP_TO))
        exact = sign_flip_test(differences)
        monkeypatch.setattr("sruplift.statistics.EXACT_UP_TO", 5)
        drawn = sign_flip_test(differences)
        assert (drawn.exact, drawn.flips) == (False, 100_000)
        error = math.sqrt(exact.p_value * (1 - exact.p_value) / 100_000)
        assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * error)
        assert sign_flip_test(differences) == drawn

    def test_of_many_is_never_zero(self) -> None:
        assert sign_flip_test([1.0] * 100).p_value == 1 / 100_001


class TestSigns:
    def test_is_binomial(self) -> None:
        found = sign_test([1, 2, 3, 4, 5, 6, 7, 8, -1, 0])
        assert (found.positive, found.negative, found.zero) == (8, 1, 1)
        assert found.p_value == 2 * (1 + 9) / 512

    @pytest.mark.parametrize("differences", [[0.0], [1, -1], [0, 0, 2, -3]])
    def test_is_at_most_one(self, differences: list[float]) -> None:
        assert sign_test(differences).p_value == 1


@pytest.mark.parametrize("values", [[], [math.nan], [1, math.inf]])
def test_differences_must_be_numbers(values: list[float]) -> None:
    for test in (sign_flip_test, sign_test):
        with pytest.raises(ValueError, match="must be finite"):
            test(values)
