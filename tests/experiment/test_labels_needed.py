"""Tests of the labels needed, on curves whose answers are known."""

import math

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from baal_ray.experiment.labels_needed import LABELS_NEEDED, labels_needed


def curves(**needed_by_rule):
    """Return curves of 10 to 50 labels that reach an accuracy of 0.9 at the given labels."""
    rows = [
        {"rule": rule, "seed": seed, "labels": labels, "accuracy": 0.95 if labels >= at else 0.5}
        for rule, needed in needed_by_rule.items()
        for seed, at in enumerate(needed)
        for labels in range(10, 60, 10)
    ]
    return pa.Table.from_pylist(rows)


def row(table, rule):
    (found,) = (row for row in table.to_pylist() if row["rule"] == rule)
    return found


def test_the_first_labels_that_reach_it_count():
    # The accuracy falls again afterwards.
    table = pa.table(
        {
            "rule": ["bald"] * 4,
            "seed": [0] * 4,
            "labels": [40, 20, 30, 10],
            "accuracy": [0.95, 0.9, 0.8, 0.1],
        }
    )
    found = row(labels_needed(table, [0.9]), "bald")
    assert found["median"] == 20
    assert (found["seeds"], found["reached"]) == (1, 1)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_have_no_interval(seeds):
    found = row(labels_needed(curves(random=[40] * seeds, bald=[20] * seeds), [0.9]), "bald")
    assert (found["median"], found["low"], found["high"]) == (20, None, None)
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (0.5, None, None)


def test_curves_that_are_alike_have_no_spread():
    found = labels_needed(curves(random=[40] * 5, bald=[20] * 5), [0.9])
    assert found.schema == LABELS_NEEDED
    bald = row(found, "bald")
    assert (bald["median"], bald["low"], bald["high"]) == (20, 20, 20)
    assert (bald["ratio"], bald["ratio_low"], bald["ratio_high"]) == (0.5, 0.5, 0.5)
    assert row(found, "random")["ratio"] is None


def test_the_interval_of_a_median_of_three_is_all_there_is():
    # The median of a resample is the lowest of three with probability 7/27, more than 2.5 %.
    found = row(labels_needed(curves(bald=[10, 30, 50]), [0.9]), "bald")
    assert (found["median"], found["low"], found["high"]) == (30, 10, 50)


def test_nine_seeds_narrow_it():
    # P(at most 3 of 9 draws are above the lowest) is below 2.5 %, so the extremes are outside.
    found = row(labels_needed(curves(bald=[10, 20, 20, 20, 30, 30, 40, 40, 50]), [0.9]), "bald")
    assert found["median"] == 30
    assert (found["low"], found["high"]) == (20, 40)


def test_seeds_are_paired():
    # Every seed needs half the labels of its random curve, so the ratio has no spread.
    random = [20, 40, 20, 40, 40]
    found = row(labels_needed(curves(random=random, bald=[n // 2 for n in random]), [0.9]), "bald")
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (0.5, 0.5, 0.5)


def test_only_seeds_that_random_has_too_are_compared():
    found = row(labels_needed(curves(random=[40], bald=[20, 50, 50]), [0.9]), "bald")
    assert found["median"] == 50
    assert found["ratio"] == 0.5


def test_what_is_never_reached_is_unknown():
    found = labels_needed(curves(random=[math.inf] * 5, bald=[10] * 5), [0.9])
    random, bald = row(found, "random"), row(found, "bald")
    assert (random["median"], random["low"], random["high"]) == (None, None, None)
    assert random["reached"] == 0
    # Random picks need more than the 50 labels they had, so bald needs less than 10/50 of that.
    assert (bald["ratio"], bald["ratio_low"], bald["ratio_high"]) == (None, 0, 0.2)


def test_a_rule_never_gets_there_where_random_picks_do():
    found = row(labels_needed(curves(random=[20] * 5, bald=[math.inf] * 5), [0.9]), "bald")
    # It needs more than the 50 labels it had, so more than 50/20 of random's.
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (None, 2.5, None)


def test_a_rule_with_fewer_labels_is_not_said_to_need_more_than_it_had():
    table = curves(random=[40] * 5, bald=[math.inf] * 5)
    short = pc.or_(pc.equal(table["rule"], "random"), pc.less_equal(table["labels"], 30))
    found = row(labels_needed(table.filter(short), [0.9]), "bald")
    assert found["ratio_low"] == 30 / 40


def test_neither_is_ever_reached():
    never = [math.inf] * 3
    found = row(labels_needed(curves(random=never, bald=never), [0.9]), "bald")
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (None, 0, None)


def test_a_median_that_is_reached_may_have_no_upper_end():
    found = row(labels_needed(curves(bald=[10, 10, 20, math.inf, math.inf]), [0.9]), "bald")
    assert (found["reached"], found["median"], found["high"]) == (3, 20, None)


def test_the_same_seed_gives_the_same_interval():
    table = curves(random=[20, 30, 40, 50], bald=[10, 20, 20, 30])
    assert labels_needed(table, [0.9], 1) == labels_needed(table, [0.9], 1)


def test_without_random_picks_there_is_no_ratio():
    found = row(labels_needed(curves(bald=[10, 20]), [0.9]), "bald")
    assert found["ratio"] is None
    assert found["median"] == pytest.approx(10)
