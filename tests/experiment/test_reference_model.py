"""Tests of the reference model, which takes no part in the picks, without Ray."""

import numpy as np

from baal_ray.experiment.labelled_images import read_images
from baal_ray.experiment.reference_model import features_of_picks
from pools import experiment_config


def test_it_sees_picks_of_every_rule_and_images_that_it_was_not_fitted_on(tmp_path):
    config = experiment_config(tmp_path)
    pool = read_images(config.labelled, config)
    picks = {"random": pool.ids[:60], "bald": pool.ids[60:], "margin": []}
    sight = features_of_picks(config, pool, picks)
    assert config.most_labels == 13
    assert len(sight.features_N_D[sight.pool]) == 120 - 13
    shown = {rule: len(sight.labels_N[rows]) for rule, rows in sight.picks.items()}
    assert shown["random"] + shown["bald"] == 120 - 13
    assert shown["margin"] == 0
    # The same image has the same features in both groups.
    apart_P_N = np.abs(sight.features_N_D[sight.pool][:, None] - sight.features_N_D[None]).sum(2)
    assert (np.sort(apart_P_N, axis=1)[:, 1] < 1e-4).all()
    again = features_of_picks(config, pool, picks)
    assert np.array_equal(again.features_N_D, sight.features_N_D)
