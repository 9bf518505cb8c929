"""Tests of the verdicts: their words, and by simulation how often they are false."""

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import isotonic_regression

from baal_ray.experiment.curves_by_seed import curves_by_seed
from baal_ray.experiment.labels_needed import labels_needed
from baal_ray.experiment.verdicts import verdicts
from curves import curves, needed

MNIST = Path(__file__).parents[2] / "benchmarks/experiments/mnist_300/curves.parquet"
SAVES, BOUND = (0.6, 0.5, 0.7), (0.9, None, None)
NOTHING = needed()


@pytest.mark.parametrize(
    ("better", "outcome"),
    [(0.1, "better"), (0.0, "no clear difference"), (-0.1, "worse")],
)
def test_the_verdict_is_that_of_the_area_between_the_curves(better, outcome):
    # The labels needed say the opposite, and decide nothing.
    (verdict,) = verdicts(curves({"bald": better, "random": 0.0}), needed(("bald", 0.8, SAVES)))
    assert (verdict.rule, verdict.outcome) == ("bald", outcome)


def test_a_verdict_has_its_figures():
    table = needed(("bald", 0.8, SAVES), ("bald", 0.9, BOUND), ("bald", 0.95, None))
    (verdict,) = verdicts(curves({"bald": 0.1, "random": 0.0}), table)
    assert verdict.sentence == (
        "bald is better than random picks. Averaged over the whole curve, its accuracy differs by "
        "+10.0 percentage points (+10.0 to +10.0). Labels needed compared with random picks: 0.60 "
        "times as many for accuracy 0.8 (0.50 to 0.70), at most 0.90 times as many for accuracy "
        "0.9."
    )


def test_without_random_picks_there_is_no_comparison():
    (verdict,) = verdicts(curves({"bald": 0.1}), needed(("bald", 0.8, None)))
    assert verdict.sentence == "bald cannot be compared with random picks."


@pytest.mark.parametrize(
    ("seeds", "outcome", "doubt"),
    [
        (1, "not compared", "With one seed, this may be luck."),
        (2, "not compared", "With 2 seeds, this may be luck: an interval needs 3."),
        (3, "better", "With only 3 seeds, only large differences show."),
        (5, "better", ""),
    ],
)
def test_few_seeds_are_said_to_be_few(seeds, outcome, doubt):
    (verdict,) = verdicts(curves({"bald": 0.1, "random": 0.0}, seeds=seeds), NOTHING)
    assert verdict.outcome == outcome
    assert verdict.details.endswith(doubt)
    assert ("luck" in verdict.details) == ("luck" in doubt)


@cache
def mnist():
    """Return the labels of MNIST's curves, random's monotone mean, and the noise around means."""
    if not MNIST.exists():  # an sdist leaves the results of experiments out
        pytest.skip("the curves of MNIST are not here")
    table = pq.read_table(MNIST)
    random, rule = (curves_by_seed(table, name, "accuracy") for name in ("random", "power_bald"))
    noise_2_S_L = [each.values_S_L - each.values_S_L.mean(axis=0) for each in (random, rule)]
    level_L = isotonic_regression(random.values_S_L.mean(axis=0)).x
    return random.labels_L, level_L, np.stack(noise_2_S_L)


def simulated(rng, seeds, rules, share):
    """Return curves of rules that need a share of random's labels, with the noise of MNIST.

    The noise is normal, with the covariance of the five seeds' curves on disk, between the numbers
    of labels and between rule and random.
    """
    labels_L, level_L, noise_2_S_L = mnist()
    mixed = np.einsum("rns,bsl->rbnl", rng.normal(size=(rules, seeds, 5)) / 2, noise_2_S_L)
    rule_R_S_L = np.interp(labels_L / share, labels_L, level_L) + mixed[:, 1]
    accuracy = np.concatenate([level_L + mixed[:1, 0], rule_R_S_L])
    return pa.table(
        {
            "rule": np.repeat(["random", *(f"rule-{r}" for r in range(rules))], seeds * 29),
            "seed": np.tile(np.repeat(np.arange(seeds), 29), rules + 1),
            "labels": np.tile(labels_L, seeds * (rules + 1)),
            "accuracy": accuracy.ravel(),
        }
    )


def found(seeds, rules, share, draws=400):
    """Return the outcomes of each simulated experiment."""
    rng = np.random.default_rng(seeds)
    tables = (simulated(rng, seeds, rules, share) for _ in range(draws))
    return [{verdict.outcome for verdict in verdicts(table, NOTHING)} for table in tables]


@pytest.mark.parametrize(("seeds", "rules"), [(3, 1), (3, 3), (5, 3), (10, 1)])
def test_rules_that_equal_random_are_seldom_told_from_it(seeds, rules):
    false = np.mean([bool(each & {"better", "worse"}) for each in found(seeds, rules, 1.0)])
    assert false <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_two_seeds_allow_no_verdict():
    assert found(2, 1, 0.7, draws=20) == [{"not compared"}] * 20


@pytest.mark.parametrize("rules", [1, 3])
def test_a_rule_that_needs_0_7_of_the_labels_is_found_with_five_seeds(rules):
    power = np.mean(["better" in each for each in found(5, rules, 0.7)])
    assert power >= 0.8


def test_a_ratio_of_0_7_is_estimated_without_bias():
    rng = np.random.default_rng(0)
    tables = (simulated(rng, 5, 1, 0.7) for _ in range(200))
    rows = [labels_needed(table, [0.85]).to_pylist()[1] for table in tables]
    ratios = [row["ratio"] for row in rows if row["ratio_is"] == "exact"]
    assert len(ratios) > 190
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(0.7, abs=0.02)
