from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from baal_ray.config import ModelConfig, ResourcesConfig, ScoringConfig
from baal_ray.errors import ResourceError
from baal_ray.images import decode_many
from baal_ray.model import build_classifier, load_checkpoint, save_checkpoint
from baal_ray.pool import read_pool
from baal_ray.pool_listing import list_pool
from baal_ray.posterior import MCDropout
from baal_ray.schema import SCORE_COLUMNS
from baal_ray.scoring import PoolScorer, decode, score_pool
from baal_ray.workspace import checkpoint_uri
from pools import CLASSES, round_config, table, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")

MODEL = ModelConfig(image_size=[12, 12])


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    torch.manual_seed(0)
    sha256 = save_checkpoint(str(tmp_path), build_classifier(MODEL, 3), MODEL, CLASSES, {})
    return checkpoint_uri(str(tmp_path), sha256)


def read_scores(folder: str) -> pd.DataFrame:
    return pq.read_table(folder).to_pandas().set_index("id").sort_index()


def test_scores_are_the_mean_over_posterior_samples_whatever_runs_them(
    tmp_path: Path, checkpoint: str
) -> None:
    write_pool(tmp_path, images=150)
    pool = read_pool(list_pool(round_config(tmp_path).pool, ""))
    config = ScoringConfig(samples=5, batch_size=64)
    one = score_pool(pool, checkpoint, str(tmp_path / "one"), config=config)
    resources = ResourcesConfig(scoring_actors=2, scoring_cpus=0.6)
    two = score_pool(pool, checkpoint, str(tmp_path / "two"), config=config, resources=resources)
    assert (one.scored, two.scored) == (150, 150)
    scores = read_scores(one.uri)
    columns = [*SCORE_COLUMNS, "predicted"]
    # Bit for bit at one mini-batch size, as each is padded to it.
    pd.testing.assert_frame_equal(scores[columns], read_scores(two.uri)[columns], check_exact=True)

    classifier = load_checkpoint(checkpoint).classifier
    pixels, _ = decode_many(table(0, 150)["image"].to_pylist(), 12, 12, max_pixels=10**6)
    posterior = MCDropout(classifier, samples=5)
    probs = [posterior.sample(k)(torch.from_numpy(pixels)).exp().detach() for k in range(5)]
    confidence = torch.stack(probs).mean(dim=0).amax(dim=1).numpy()
    np.testing.assert_allclose(scores["confidence"], confidence, atol=1e-5)


@pytest.mark.parametrize("masks", ["shared", "per_item"])
def test_an_image_has_the_same_score_in_mini_batches_of_1_7_and_256(
    checkpoint: str, masks: str
) -> None:
    rows = decode(table(0, 40).select(["id", "image"]), 12, 12, max_pixels=10**6)
    scores = []
    for size in (1, 7, 256):
        config = ScoringConfig.model_validate({"samples": 3, "batch_size": size, "masks": masks})
        scorer = PoolScorer(checkpoint, config, seed=0, on_gpu=False)
        parts = [
            scorer({name: column[start : start + size] for name, column in rows.items()})
            for start in range(0, 40, size)
        ]
        scores.append(pa.concat_tables(parts).select(list(SCORE_COLUMNS)).to_pandas())
    for other in scores[1:]:
        np.testing.assert_allclose(scores[0], other, atol=1e-5)


def test_only_what_is_not_scored_yet_is_scored_and_rotten_files_are_scored_again(
    tmp_path: Path, checkpoint: str
) -> None:
    scores, config = str(tmp_path / "scores"), ScoringConfig(samples=2)
    some = ray.data.from_arrow(table(0, 20))
    everything = ray.data.from_arrow(table(0, 50))
    assert score_pool(some, checkpoint, scores, config=config).scored == 20
    done = score_pool(everything, checkpoint, scores, config=config)
    assert (done.scored, done.rows) == (30, 50)
    before = read_scores(done.uri)

    (rotten, *_) = sorted(Path(done.uri).glob("*.parquet"), key=lambda file: file.stat().st_size)
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    rotten.write_bytes(data)
    Path(done.uri, ".DS_Store").write_bytes(b"junk")
    assert score_pool(everything, checkpoint, scores, config=config).scored in (20, 30)
    pd.testing.assert_frame_equal(read_scores(done.uri), before, check_exact=True)
    assert len(before) == 50


def test_an_output_that_is_not_finite_is_an_error_row(tmp_path: Path, checkpoint: str) -> None:
    scorer = PoolScorer(checkpoint, ScoringConfig(samples=2), seed=0, on_gpu=False)
    with torch.no_grad():
        for weights in scorer._posterior.model.parameters():
            weights.fill_(torch.nan)
    rows = decode(table(0, 3).select(["id", "image"]), 12, 12, max_pixels=10**6)
    scores = scorer(rows).to_pandas()
    assert (scores["error"] == "the model's output is not finite").all()
    assert scores[list(SCORE_COLUMNS)].isna().all().all()


def test_what_the_cluster_can_never_give_is_told_at_once(checkpoint: str) -> None:
    pool = ray.data.from_arrow(table(0, 3))
    for resources, needed in (
        (ResourcesConfig(scoring_actors=2), "needs 2.75 CPUs, and the cluster has at most 2"),
        (ResourcesConfig(scoring_gpus=1), "needs 1 GPUs, and the cluster has at most 0"),
    ):
        with pytest.raises(ResourceError, match=needed):
            score_pool(pool, checkpoint, "/nowhere", resources=resources)
