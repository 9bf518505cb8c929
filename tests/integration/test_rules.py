"""Rounds that acquire by rules that draw at random, or that need predictions of several images."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from baal_ray.checkpoint import load_checkpoint
from baal_ray.config import RoundConfig
from baal_ray.driver import run_round
from baal_ray.ids import IdSet
from baal_ray.images import decode_many
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.posterior import MCDropout
from baal_ray.posterior.head_inputs import features
from baal_ray.selection import top_k
from baal_ray.selection.batch_bald import batch_bald
from baal_ray.selection.epig import epig
from baal_ray.selection.near_duplicates import spread_out
from baal_ray.workspace import checkpoint_uri, manifest_uri
from pools import round_config, write_labelled, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")

IMAGES = 60


def rounds(folder: Path, *selections: dict, **settings) -> list[tuple[RoundConfig, dict]]:
    """A round for each selection in one workspace; the fit and the scores are shared."""
    write_pool(folder, IMAGES)
    path = write_labelled(folder)
    done = []
    for number, selection in enumerate(selections):
        config = round_config(folder, selection=selection, **settings)
        if not number:
            manifest = Manifest(manifest_uri(config.workspace))
            import_labelled_set(manifest, path, workspace=config.workspace, classes=config.classes)
        run_round(config, f"round-{number}")
        record = Path(config.workspace, "rounds", f"round-{number}", "round.json")
        done.append((config, json.loads(record.read_text())))
    return done


def acquired(config: RoundConfig, number: int) -> pa.Table:
    manifest = Manifest(manifest_uri(config.workspace))
    return manifest.rows(round_id=f"round-{number}").sort_by("rank")


def seed_of(config: RoundConfig, number: int) -> int:
    plan = Path(config.workspace, "rounds", f"round-{number}", "plan.json")
    return json.loads(plan.read_text())["seed"]


def predictions(config: RoundConfig, record: dict, ids: list[str]) -> Tensor:
    """What the round's posterior samples predict for images of the pool, without Ray."""
    pool = pq.read_table(config.pool.uri).to_pandas().set_index("id")
    pixels, _ = decode_many(
        list(pool.loc[ids, "image"]), *config.model.image_size, max_pixels=10**6
    )
    checkpoint = load_checkpoint(checkpoint_uri(config.workspace, record["result"]["checkpoint"]))
    posterior = MCDropout(checkpoint.classifier, config.scoring.last_stage.samples, config.seed)
    return posterior.log_probs(torch.from_numpy(pixels))


def test_power_bald_draws_anew_in_each_round(tmp_path: Path) -> None:
    by = {"k": 5, "by": "power_bald", "coldness": 0.5}
    done = rounds(tmp_path, by, by)
    taken: list[str] = []
    for number, (config, record) in enumerate(done):
        rows = acquired(config, number)
        everything = top_k(
            record["scores"], IMAGES, "power_bald", seed_of(config, number), coldness=0.5
        )
        expected = [image for image in everything["id"].to_pylist() if image not in taken][:5]
        assert rows["id"].to_pylist() == expected
        assert set(rows["rule"].to_pylist()) == {"power_bald"}
        taken += expected
    assert len({seed_of(config, number) for number, (config, _) in enumerate(done)}) == 2


def test_batch_bald_and_epig_pick_by_the_predictions_of_the_best_candidates(
    tmp_path: Path,
) -> None:
    together = {"k": 4, "by": "batch_bald", "candidates": 20}
    informative = {"k": 4, "by": "epig", "candidates": 20, "target_images": 15}
    (config, record), (later, later_record) = rounds(tmp_path, together, informative)

    candidates = top_k(record["scores"], 20, seed=seed_of(config, 0))["id"].to_pylist()
    batch = batch_bald(predictions(config, record, candidates), 4, seed=seed_of(config, 0))
    rows = acquired(config, 0)
    assert rows["id"].to_pylist() == [candidates[n] for n in batch.picks_B]
    assert rows["score"].to_pylist() == pytest.approx(batch.gains_B.tolist(), abs=1e-5)
    assert set(rows["rule"].to_pylist()) == {"batch_bald"}

    left = top_k(later_record["scores"], IMAGES, seed=seed_of(later, 1))["id"].to_pylist()
    candidates = [image for image in left if image not in rows["id"].to_pylist()][:20]
    targets = top_k(later_record["scores"], 15, "random", seed_of(later, 1))["id"].to_pylist()
    gain_N = epig(
        predictions(later, later_record, candidates), predictions(later, later_record, targets)
    )
    rows = acquired(later, 1)
    assert set(rows["id"].to_pylist()) == {candidates[n] for n in gain_N.topk(4).indices}
    assert rows["score"].to_pylist() == pytest.approx(gain_N.topk(4).values.tolist(), abs=1e-5)


def test_of_near_duplicates_only_the_best_is_picked(tmp_path: Path) -> None:
    selection = {"k": 4, "candidates": 30, "most_alike": 0.9}
    ((config, record),) = rounds(tmp_path, selection)
    candidates = top_k(record["scores"], 30, seed=seed_of(config, 0))["id"].to_pylist()
    pool = pq.read_table(config.pool.uri).to_pandas().set_index("id")
    pixels, _ = decode_many(list(pool.loc[candidates, "image"]), 12, 12, max_pixels=10**6)
    checkpoint = load_checkpoint(checkpoint_uri(config.workspace, record["result"]["checkpoint"]))
    features_N_D = features(checkpoint.classifier, torch.from_numpy(pixels), "logits")
    rows = acquired(config, 0)
    expected = [candidates[n] for n in spread_out(features_N_D, 4, 0.9)]
    assert expected != candidates[:4]
    assert rows["id"].to_pylist() == expected
    assert rows["rank"].to_pylist() == [1, 2, 3, 4]
    assert set(rows["rule"].to_pylist()) == {"bald"}


def test_a_control_of_the_whole_pool_stands_beside_the_best_candidates(tmp_path: Path) -> None:
    """BatchBALD among the 20 best, by 8 samples, and a third of the batch at random."""
    selection = {"k": 6, "by": "batch_bald", "candidates": 20, "random_share": 0.33}
    scoring = {"further_stages": [{"samples": 8, "share": 0.1}]}
    ((config, record),) = rounds(tmp_path, selection, scoring=scoring)
    seed = seed_of(config, 0)
    rows = acquired(config, 0)
    assert rows["rule"].to_pylist() == ["batch_bald", "random", "batch_bald"] * 2
    picks = rows["id"].to_pylist()
    control, active = [picks[1], picks[4]], [picks[0], picks[2], picks[3], picks[5]]

    first, last = record["scores"], record["candidates"]["scores"]
    assert control == top_k(first, IMAGES, "random", seed + 1)["id"].to_pylist()[:2]
    left = top_k(last, IMAGES, seed=seed, leave_out=IdSet.of(control))["id"].to_pylist()
    batch = batch_bald(predictions(config, record, left), 4, seed=seed)
    assert active == [left[n] for n in batch.picks_B]
    assert record["result"]["random"] == 2

    files = Path(config.workspace, "rounds", "round-0", "batch")
    for ids, folder in ((control, first), (active, last)):
        scores = pq.read_table(folder).to_pandas().set_index("id")
        predicted = pq.read_table(files).to_pandas().set_index("id")["predicted"]
        assert list(predicted[ids]) == [config.classes[n] for n in scores.loc[ids, "predicted"]]


def test_epig_takes_its_targets_from_another_pool(tmp_path: Path) -> None:
    """All images of that pool are one image, so only what tells about it counts."""
    pool_of_one = write_pool(tmp_path / "other", 1)
    selection = {"k": 3, "by": "epig", "targets": {"uri": pool_of_one}}
    ((config, record),) = rounds(tmp_path, selection)
    ids = top_k(record["scores"], IMAGES)["id"].to_pylist()
    one = pq.read_table(pool_of_one)["id"].to_pylist()
    gain_N = epig(predictions(config, record, ids), predictions(config, record, one))
    assert acquired(config, 0)["score"].to_pylist() == pytest.approx(
        np.sort(gain_N.numpy())[::-1][:3].tolist(), abs=1e-5
    )
