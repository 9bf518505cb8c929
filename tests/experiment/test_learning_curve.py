"""Tests of learning curves of a small model, without Ray."""

import numpy as np
import pytest
import torch

from baal_ray.acquisition import bald
from baal_ray.experiment.labelled_images import read_images
from baal_ray.experiment.learning_curve import CURVE, Curve
from baal_ray.posterior import MCDropout
from pools import CLASSES, experiment_config, label_of

RULES = ["random", "bald", "margin", "power_bald", "batch_bald", "epig"]


def curve(folder, by="bald", seed=0, **settings):
    config = experiment_config(folder, rules=[by], **settings)
    pool, evaluation = (
        read_images(uri, config) for uri in (config.labelled, config.training.evaluation_set)
    )
    return Curve(config, config.rules[0], seed, pool, evaluation), pool


def figures(row):
    return {name: value for name, value in row.items() if not name.endswith("seconds")}


@pytest.mark.parametrize("by", [*RULES, {"by": "bald", "most_alike": 0.9}])
def test_a_round_picks_k_new_images_and_fits_on_them(tmp_path, by):
    curve_of_rule, _ = curve(tmp_path, by)
    first = curve_of_rule.point([])
    second = curve_of_rule.point([first["picks"]])
    assert list(first) == CURVE.names
    assert (first["labels"], second["labels"]) == (3, 8)
    assert len(set(first["picks"]) | set(second["picks"])) == 10
    assert 0 <= first["accuracy"] <= 1
    start = curve_of_rule._start()
    assert not {curve_of_rule._ids[row] for row in start} & set(first["picks"])


@pytest.mark.parametrize("by", ["bald", "power_bald", "epig"])
def test_a_point_depends_on_the_picks_before_it_and_nothing_else(tmp_path, by):
    # A new curve, whose model has not seen the earlier fits, has the same figures bit for bit.
    one, _ = curve(tmp_path, by)
    first = one.point([])
    second = one.point([first["picks"]])
    other, _ = curve(tmp_path, by)
    assert figures(other.point([first["picks"]])) == figures(second)
    assert figures(one.point([])) == figures(first)


def test_all_rules_of_a_seed_start_alike_with_as_many_of_each_class(tmp_path):
    by_bald, by_chance = (curve(tmp_path, by, start=3)[0] for by in ("bald", "random"))
    other_seed, _ = curve(tmp_path, "bald", seed=1, start=3)
    start = by_bald._start()
    assert start.tolist() == by_chance._start().tolist()
    assert start.tolist() != other_seed._start().tolist()
    labels = [label_of(by_bald._ids[row]) for row in start]
    assert [labels.count(name) for name in CLASSES] == [3, 3, 3]
    one, two = by_bald.point([]), by_chance.point([])
    assert (one["accuracy"], one["nll"]) == (two["accuracy"], two["nll"])


def test_bald_picks_what_it_would_by_hand(tmp_path):
    curve_of_bald, pool = curve(tmp_path)
    picks = curve_of_bald.point([])["picks"]
    posterior = MCDropout(curve_of_bald._classifier, 4, curve_of_bald._seed_of(0))
    with torch.no_grad():
        score_N = bald(posterior.log_probs(torch.from_numpy(pool.pixels_N))).numpy()
    score_N[curve_of_bald._start()] = -1
    best = np.argsort(-score_N, kind="stable")[:5]
    assert picks == [pool.ids[row] for row in best]


def test_only_some_images_may_be_candidates(tmp_path):
    # Five of six candidates are picked, whatever the rule prefers. Each round draws other ones.
    few, _ = curve(tmp_path, "bald", scored=6)
    many, _ = curve(tmp_path, "bald")
    first = few.point([])
    assert set(first["picks"]) != set(many.point([])["picks"])
    assert len(few.point([first["picks"]])["picks"]) == 5


def test_further_stages_draw_more_samples_for_the_best(tmp_path):
    stages = {"samples": 4, "further_stages": [{"samples": 16, "share": 0.2}]}
    curve_of_stages, _ = curve(tmp_path, "bald", scoring=stages)
    assert len(curve_of_stages.point([])["picks"]) == 5
    assert sorted(curve_of_stages._posteriors) == [4, 16]
