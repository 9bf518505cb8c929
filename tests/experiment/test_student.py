"""Tests of Student's interval, by published values and by simulation of its coverage."""

import numpy as np
import pytest
from scipy import stats

from baal_ray.experiment.student import interval_of_mean

DRAWS = 20_000


def coverage(values_S_R, mean):
    low_R, high_R = interval_of_mean(values_S_R)
    return float(((low_R <= mean) & (mean <= high_R)).mean())


def test_it_is_the_interval_of_students_own_data():
    # The difference of two soporifics in ten patients, Student 1908, section IX. R prints it as
    # t.test(extra ~ group, sleep, paired = TRUE): 0.7001142 to 2.4598858.
    gained = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert interval_of_mean(gained) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_have_no_interval(seeds):
    assert interval_of_mean(np.arange(seeds)) is None


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_it_covers_the_mean_of_normal_values_in_95_percent(seeds):
    values_S_R = np.random.default_rng(seeds).normal(size=(seeds, DRAWS))
    assert coverage(values_S_R, 0) == pytest.approx(0.95, abs=0.006)  # four standard errors


@pytest.mark.parametrize(("seeds", "covered"), [(3, 0.89), (5, 0.88), (10, 0.90)])
def test_it_covers_less_where_values_are_as_skewed_as_an_exponential(seeds, covered):
    values_S_R = np.random.default_rng(seeds).exponential(size=(seeds, DRAWS))
    assert coverage(values_S_R, 1) == pytest.approx(covered, abs=0.01)


@pytest.mark.parametrize(("seeds", "covered"), [(3, 0.75), (5, 0.84)])
def test_the_percentile_bootstrap_covers_too_little(seeds, covered):
    """Show the figures in the changelog. Intervals were made in this way before."""
    values_S_R = np.random.default_rng(seeds).normal(size=(seeds, 4000))
    found = stats.bootstrap(
        (values_S_R,), np.mean, axis=0, n_resamples=999, method="percentile", rng=0
    ).confidence_interval
    assert ((found.low <= 0) & (found.high >= 0)).mean() == pytest.approx(covered, abs=0.02)


def test_paired_differences_of_skewed_values_are_symmetric_and_covered():
    values_S_R_2 = np.random.default_rng(0).exponential(size=(5, DRAWS, 2))
    assert coverage(np.diff(values_S_R_2)[..., 0], 0) >= 0.945


def test_intervals_of_several_comparisons_hold_together():
    values_S_R_C = np.random.default_rng(0).normal(size=(5, DRAWS, 4))
    low_R_C, high_R_C = interval_of_mean(values_S_R_C, comparisons=4)
    together = ((low_R_C <= 0) & (high_R_C >= 0)).all(axis=1).mean()
    assert together == pytest.approx(0.95, abs=0.006)
