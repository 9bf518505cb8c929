"""Tests against the values that Newcombe published in 1998, and of what holds for all counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from baal_ray.report.intervals import newcombe, wilson


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(count, of, low, high):
    # Two-sided confidence intervals for the single proportion, table I, method 3.
    assert wilson(count, of) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_as_published(counts, low, high):
    # Interval estimation for the difference between independent proportions, table II, 10.
    assert newcombe(*counts) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("images", [1, 10, 50, 200])
@pytest.mark.parametrize("accuracy", [0.9, 0.95, 0.98])
def test_equal_accuracies_are_seldom_told_apart(images, accuracy):
    """The exact rate at which equal models seem to have become worse, nominally 2.5 %."""
    counts = np.arange(images + 1)
    weights = stats.binom.pmf(counts, images, accuracy)
    likely = counts[weights > 1e-7]
    false = sum(
        weights[now] * weights[before]
        for now in likely
        for before in likely
        if newcombe(now, images, before, images)[1] < 0
    )
    assert false <= 0.025


def proportions():
    return st.integers(1, 10**6).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))


@given(proportions(), proportions())
def test_a_difference_is_within_its_interval_and_turns_round(one, other):
    low, high = newcombe(*one, *other)
    assert -1 - 1e-9 <= low <= one[0] / one[1] - other[0] / other[1] <= high <= 1 + 1e-9
    assert newcombe(*other, *one) == pytest.approx((-high, -low), abs=1e-9)
