"""Tests of the labels needed, on curves whose answers are known."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from baal_ray.experiment.labels_needed import LABELS_NEEDED, labels_needed

LABELS = np.arange(10, 60, 10)


def curves(**needed_by_rule):
    """Return curves of 10 to 50 labels whose straight line reaches 0.9 at the given labels."""
    rows = [
        {
            "rule": rule,
            "seed": seed,
            "labels": int(labels),
            "accuracy": 0.9 + (labels - at) / 1000 if math.isfinite(at) else 0.5,
        }
        for rule, needed in needed_by_rule.items()
        for seed, at in enumerate(needed)
        for labels in LABELS
    ]
    return pa.Table.from_pylist(rows)


def row(table, rule):
    (found,) = (row for row in table.to_pylist() if row["rule"] == rule)
    return found


def test_the_monotone_curve_is_crossed_between_its_points():
    # The points in order are 0.1, 0.9, 0.7, 1. Isotonic regression pools the middle two at 0.8.
    # The straight line from there to 1 crosses 0.9 half way between 30 and 40 labels.
    table = pa.table(
        {
            "rule": ["bald"] * 4,
            "seed": [0] * 4,
            "labels": [40, 20, 30, 10],
            "accuracy": [1.0, 0.9, 0.7, 0.1],
        }
    )
    found = row(labels_needed(table, [0.9]), "bald")
    assert found["median"] == pytest.approx(35)
    assert (found["seeds"], found["reached"]) == (1, 1)


def test_a_curve_that_is_there_at_the_start_needs_the_labels_of_the_start():
    assert row(labels_needed(curves(bald=[5]), [0.9]), "bald")["median"] == 10


def test_the_ratio_is_the_geometric_mean_over_paired_seeds():
    found = labels_needed(curves(random=[20, 30, 40], bald=[10, 30, 40]), [0.9])
    assert found.schema == LABELS_NEEDED
    bald = row(found, "bald")
    # The mean log is log(0.5)/3, its standard error the same without sign, t(0.975, 2) is 4.30265.
    mean = math.log(0.5) / 3
    assert bald["ratio"] == pytest.approx(math.exp(mean))
    assert bald["ratio_is"] == "exact"
    assert bald["ratio_low"] == pytest.approx(math.exp(mean * (1 + 4.30265)), rel=1e-5)
    assert bald["ratio_high"] == pytest.approx(math.exp(mean * (1 - 4.30265)), rel=1e-5)
    assert row(found, "random")["ratio"] is None


def test_more_accuracies_and_rules_widen_every_interval():
    table = curves(random=[20, 30, 40], bald=[15, 30, 40], margin=[20, 25, 30])
    alone = labels_needed(table.filter(pc.not_equal(table["rule"], "margin")), [0.9])
    wider = labels_needed(table, [0.9, 0.91])
    alone, wider = alone.to_pylist()[1], wider.to_pylist()[2]
    assert (alone["rule"], wider["rule"]) == ("bald", "bald")
    assert wider["ratio"] == alone["ratio"]
    assert wider["ratio_low"] < alone["ratio_low"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_have_no_interval(seeds):
    found = row(labels_needed(curves(random=[40] * seeds, bald=[20] * seeds), [0.9]), "bald")
    assert (found["median"], found["ratio"]) == (pytest.approx(20), pytest.approx(0.5))
    assert (found["ratio_low"], found["ratio_high"]) == (None, None)


def test_seeds_are_paired():
    # Every seed needs half the labels of its random curve, so the ratio has no spread.
    random = [20, 40, 30, 40, 50]
    found = row(labels_needed(curves(random=random, bald=[n // 2 for n in random]), [0.9]), "bald")
    ends = [found[name] for name in ("ratio", "ratio_low", "ratio_high")]
    assert ends == pytest.approx([0.5] * 3)


def test_only_seeds_that_random_has_too_are_compared():
    found = row(labels_needed(curves(random=[40], bald=[20, 50, 50]), [0.9]), "bald")
    assert found["median"] == pytest.approx(50)
    assert found["ratio"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("random", "bald", "kind", "ratio"),
    [
        # A curve that falls short is counted with the 50 labels that it had.
        ([20, 20, math.inf], [20, 20, 25], "at most", 0.5 ** (1 / 3)),
        ([20, 20, 25], [20, 20, math.inf], "at least", 2 ** (1 / 3)),
        ([20, 20, math.inf], [20, 20, math.inf], None, None),
        ([20, 20, math.inf], [math.inf, 20, 20], None, None),
    ],
)
def test_a_ratio_of_curves_that_fall_short_is_a_bound_or_unknown(random, bald, kind, ratio):
    found = row(labels_needed(curves(random=random, bald=bald), [0.9]), "bald")
    assert found["ratio_is"] == kind
    assert found["ratio"] == (None if ratio is None else pytest.approx(ratio))
    assert (found["ratio_low"], found["ratio_high"]) == (None, None)


def test_a_number_that_is_never_reached_is_unknown():
    found = row(labels_needed(curves(bald=[10, 20, 30, math.inf, math.inf]), [0.9]), "bald")
    assert found["reached"] == 3
    assert (found["fewest"], found["median"]) == (pytest.approx(10), pytest.approx(30))
    assert found["most"] is None


def test_without_random_picks_there_is_no_ratio():
    found = row(labels_needed(curves(bald=[10, 20]), [0.9]), "bald")
    assert found["ratio"] is None
    assert found["median"] == pytest.approx(15)


@pytest.mark.parametrize("noise", [(0.02, 0.005), (0.005, 0.02)])
def test_the_noisier_of_two_equal_curves_is_not_favoured(noise):
    """Coverage of the ratio's interval, where the first crossing covers 1 in 0.80 of cases."""
    rng = np.random.default_rng(0)
    labels_L = np.arange(20, 330, 10)
    level_L = 0.97 - 0.45 * np.exp(-labels_L / 90)
    inside = []
    for _ in range(400):
        luck_S = rng.normal(0, 0.01, (5, 1))
        accuracy_2_S_L = [level_L + luck_S + rng.normal(0, each, (5, 31)) for each in noise]
        table = pa.table(
            {
                "rule": np.repeat(["bald", "random"], 5 * 31),
                "seed": np.tile(np.repeat(np.arange(5), 31), 2),
                "labels": np.tile(labels_L, 10),
                "accuracy": np.ravel(accuracy_2_S_L),
            }
        )
        found = row(labels_needed(table, [0.9]), "bald")
        inside.append(found["ratio_low"] <= 1 <= found["ratio_high"])
    assert np.mean(inside) >= 0.92  # 0.95 less three standard errors
