"""Tests of the estimate of how many picks other samples would pick, against other samples."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.score_names import BALD_WITHOUT
from baal_ray.selection.other_samples import of_other_samples
from baal_ray.selection.ranking import Ranking
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.scores import score_files
from score_tables import picks, scores

IDS = [str(n) for n in range(4000)]


def test_deviations_are_stretched_and_none_falls_below_0():
    columns = {name: pa.array([0.6, 0.1], pa.float32()) for name in BALD_WITHOUT}
    found = of_other_samples(scores("ab", [0.5, 0.5], samples=pa.array([20, 20]), **columns))
    assert found[BALD_WITHOUT[0]].to_pylist() == pytest.approx([0.5 + 8**0.5 * 0.1, 0])


def drawn(samples, seed, alike=False):
    """Return scores by logits of normal noise, whose scale differs between images or is alike."""
    rng = np.random.default_rng(0)
    mean_N_1_C = rng.normal(0, 1 if alike else 2, (4000, 1, 5))
    scale_N_1_1 = 0.6 if alike else rng.gamma(2, 0.25, (4000, 1, 1))
    noise_N_K_C = np.random.default_rng(seed).normal(size=(4000, samples, 5))
    logits_N_K_C = torch.from_numpy(mean_N_1_C + scale_N_1_1 * noise_N_K_C)
    found = PredictiveStatistics.of(logits_N_K_C.log_softmax(-1))
    others = zip(BALD_WITHOUT, found.bald_without(), strict=True)
    columns = {name: pa.array(bald_N.float().numpy()) for name, bald_N in others}
    count = pa.array([samples] * 4000, pa.int32())
    return scores(IDS, found.bald().float().numpy(), samples=count, **columns)


@pytest.mark.parametrize("by", ["bald", "power_bald"])
@pytest.mark.parametrize("samples", [10, 20])
def test_it_is_near_the_share_that_other_samples_pick(tmp_path, by, samples):
    estimates, shares = [], []
    for seed in range(3):
        folder, table = str(tmp_path / str(seed)), drawn(samples, seed)
        publish_table(folder, table)
        ranking = Ranking(by, seed)
        picked = picks(ranking.best_of([table], 100))
        others = picks(ranking.best_of([drawn(samples, 1000 + seed)], 100))
        estimates += ranking.overlaps(score_files(folder), picked)
        shares.append(len({*picked} & {*others}) / 100)
    assert -0.03 < np.mean(estimates) - np.mean(shares) < 0.08


def test_picks_that_are_noise_are_doubted(tmp_path):
    # Other samples pick 5 of 100. The estimate is far too high, but the page warns of it.
    table = drawn(10, 0, alike=True)
    publish_table(str(tmp_path), table)
    ranking = Ranking("bald")
    estimates = ranking.overlaps(score_files(str(tmp_path)), picks(ranking.best_of([table], 100)))
    assert np.mean(estimates) < 0.6
