import math

import numpy as np
import pytest

from baal_ray.ids import IdSet
from baal_ray.report.score_summary import predicted_counts, summarize_scores
from baal_ray.storage.parquet import publish_table
from rounds_on_disk import score_rows, unreadable_rows


def test_the_histogram_is_numpys_to_the_width_of_a_fine_bin(tmp_path):
    scores = np.random.default_rng(0).gamma(2, 0.1, 3000).clip(0, math.log(3))
    ids = [f"{i}" for i in range(3000)]
    for part in np.array_split(np.arange(3000), 3):
        publish_table(
            str(tmp_path), score_rows([ids[i] for i in part], scores[part].tolist(), part % 3)
        )
    summary = summarize_scores(str(tmp_path), "bald", 3, IdSet.of(ids[:100]))
    edges, pool, batch = summary.histogram()
    assert pool.sum() == 3000
    assert batch.sum() == 100
    assert (batch <= pool).all()
    expected, _ = np.histogram(scores, edges)
    assert np.abs(expected - pool).max() <= 3  # scores are float32, and so fall beside an edge
    assert edges[0] <= scores.min()
    assert edges[-1] >= scores.max()
    assert summary.predicted_C.tolist() == [1000, 1000, 1000]
    assert predicted_counts(summary).tolist() == [34, 33, 33]


@pytest.mark.parametrize("score", [0.0, 0.3, math.log(3)])
def test_scores_that_are_all_alike_have_a_histogram(tmp_path, score):
    publish_table(str(tmp_path), score_rows(["a", "b"], [score, score], [0, 1]))
    edges, pool, _ = summarize_scores(str(tmp_path), "bald", 3, IdSet.of([])).histogram()
    assert pool.tolist() == [2]
    assert edges[0] <= score <= edges[-1] + 1e-6


def test_an_image_that_was_tried_again_fails_once_and_not_if_it_was_read_at_last(tmp_path):
    for _ in range(2):
        publish_table(str(tmp_path), unreadable_rows(["a", "b"], ["empty", "empty"]))
    publish_table(str(tmp_path), unreadable_rows(["a", "c"], ["empty", "too large: 99"]))
    publish_table(str(tmp_path), score_rows(["b"], [0.1], [0]))
    summary = summarize_scores(str(tmp_path), "bald", 3, IdSet.of([]))
    assert {why: failure.images for why, failure in summary.failures.items()} == {
        "empty": 1,
        "too large: …": 1,
    }


def test_a_rotten_file_is_left_out(tmp_path, caplog):
    publish_table(str(tmp_path), score_rows(["a"], [0.1], [0]))
    publish_table(str(tmp_path), score_rows(["b", "c"], [0.1, 0.2], [0, 1]))
    file = min(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    assert summarize_scores(str(tmp_path), "bald", 3, IdSet.of([])).scored in (1, 2)
    assert "The report leaves it out" in caplog.text
