"""Tests of differences from random picks, on curves whose differences are known."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from baal_ray.experiment.differences import differences
from curves import curves


def rows(rule, seed, accuracy_by_labels):
    return [
        {"rule": rule, "seed": seed, "labels": labels, "accuracy": accuracy}
        for labels, accuracy in accuracy_by_labels.items()
    ]


def test_the_area_is_that_between_two_broken_lines():
    random = rows("random", 0, {10: 0.5, 20: 0.5, 40: 0.5})
    bald = rows("bald", 0, {10: 0.5, 20: 0.6, 40: 0.8})
    (found,) = differences(pa.Table.from_pylist(bald + random))
    # Trapezia of 10 · 5 and 20 · 20 points, over 30 labels.
    assert found.area_S == pytest.approx([(10 * 5 + 20 * 20) / 30])
    assert found.interval is None


def test_seeds_are_paired():
    # Seeds differ by up to 20 points, but the rule is 3 or 4 better with each.
    table = pa.Table.from_pylist(
        [
            row
            for seed, luck in enumerate((0.0, 0.1, 0.2))
            for rule, more in (("random", 0), ("bald", 0.03 + 0.01 * (seed == 2)))
            for row in rows(rule, seed, dict.fromkeys((10, 20), 0.5 + luck + more))
        ]
    )
    (found,) = differences(table)
    # Mean 10/3, standard error 1/3, and t(0.975, 2) = 4.30265.
    assert found.mean == pytest.approx(10 / 3)
    assert found.interval == pytest.approx((10 / 3 - 4.30265 / 3, 10 / 3 + 4.30265 / 3), abs=1e-5)


def test_more_rules_make_the_interval_of_each_wider():
    noisy = curves({"bald": 0.1, "random": 0.0})
    shaken = pc.add(noisy["accuracy"], np.random.default_rng(0).normal(0, 0.01, len(noisy)))
    noisy = noisy.set_column(noisy.column_names.index("accuracy"), "accuracy", shaken)
    other = noisy.filter(pc.equal(noisy["rule"], "bald"))
    other = other.set_column(0, "rule", pa.array(["margin"] * len(other)))
    (alone,) = differences(noisy)
    both = differences(pa.concat_tables([noisy, other]))
    assert [each.mean for each in both] == [alone.mean] * 2
    assert both[0].interval[0] < alone.interval[0] < alone.interval[1] < both[0].interval[1]


def test_only_points_that_all_common_seeds_have_are_compared():
    whole = curves({"bald": 0.1, "random": 0.0}, seeds=4)
    (found,) = differences(whole.slice(0, len(whole) - 5))  # of random, a seed and a point less
    assert found.points_S_L.shape == (3, 3)
    assert found.labels_L.tolist() == [20, 30, 40]


def test_curves_without_a_common_seed_or_with_one_point_are_not_compared():
    assert differences(curves({"bald": 0.1})) == []
    assert differences(curves({"bald": 0.1, "random": 0.0}, rounds=1)) == []
    apart = rows("bald", 0, {10: 0.5, 20: 0.6}) + rows("random", 1, {10: 0.5, 20: 0.6})
    assert differences(pa.Table.from_pylist(apart)) == []
