"""Tests of rounds whose rules draw at random, or compare predictions of several images."""

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


class Workspace:
    """A workspace whose rounds share the fit and the scores, as nobody labels."""

    def __init__(self, folder: Path) -> None:
        write_pool(folder, IMAGES)
        self._folder, self._rounds = folder, 0
        config = round_config(folder)
        self.manifest = Manifest(manifest_uri(config.workspace))
        labelled = write_labelled(folder)
        import_labelled_set(
            self.manifest, labelled, workspace=config.workspace, classes=config.classes
        )

    def acquired(self) -> list[str]:
        """Return the ids that earlier rounds picked."""
        return self.manifest.rows(status="acquired")["id"].to_pylist()

    def round(self, selection: dict, **settings) -> tuple[RoundConfig, dict, int, pa.Table]:
        """Run a round. Return its configuration, record and seed, and its rows by rank."""
        self._rounds += 1
        round_id = f"round-{self._rounds}"
        config = round_config(self._folder, selection=selection, **settings)
        run_round(config, round_id)
        folder = Path(config.workspace, "rounds", round_id)
        record = json.loads((folder / "round.json").read_text())
        seed = json.loads((folder / "plan.json").read_text())["seed"]
        return config, record, seed, self.manifest.rows(round_id=round_id).sort_by("rank")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("rules"))


def predictions(config: RoundConfig, record: dict, ids: list[str]) -> Tensor:
    """Return what the round's posterior samples predict for images of the pool, without Ray."""
    pool = pq.read_table(config.pool.uri).to_pandas().set_index("id")
    pixels, _ = decode_many(
        list(pool.loc[ids, "image"]), *config.model.image_size, max_pixels=10**6
    )
    checkpoint = load_checkpoint(checkpoint_uri(config.workspace, record["result"]["checkpoint"]))
    posterior = MCDropout(checkpoint.classifier, config.scoring.last_stage.samples, config.seed)
    return posterior.log_probs(torch.from_numpy(pixels))


def test_power_bald_draws_again_in_each_round(workspace: Workspace) -> None:
    seeds = set()
    for _ in range(2):
        taken = IdSet.of(workspace.acquired())
        selection = {"k": 5, "by": "power_bald", "coldness": 0.5}
        _, record, seed, rows = workspace.round(selection)
        expected = top_k(record["scores"], 5, "power_bald", seed, coldness=0.5, leave_out=taken)
        assert rows["id"].to_pylist() == expected["id"].to_pylist()
        assert set(rows["rule"].to_pylist()) == {"power_bald"}
        seeds.add(seed)
    assert len(seeds) == 2


def test_batch_bald_picks_by_the_predictions_of_the_best_candidates(workspace: Workspace) -> None:
    taken = IdSet.of(workspace.acquired())
    selection = {"k": 4, "by": "batch_bald", "candidates": 20}
    config, record, seed, rows = workspace.round(selection)
    candidates = top_k(record["scores"], 20, seed=seed, leave_out=taken)["id"].to_pylist()
    batch = batch_bald(predictions(config, record, candidates), 4, seed=seed)
    assert rows["id"].to_pylist() == [candidates[n] for n in batch.picks_B]
    assert rows["score"].to_pylist() == pytest.approx(batch.gains_B.tolist(), abs=1e-5)
    assert set(rows["rule"].to_pylist()) == {"batch_bald"}


def test_epig_picks_by_the_predictions_of_candidates_and_targets(workspace: Workspace) -> None:
    taken = IdSet.of(workspace.acquired())
    selection = {"k": 4, "by": "epig", "candidates": 20, "target_images": 15}
    config, record, seed, rows = workspace.round(selection)
    candidates = top_k(record["scores"], 10, seed=seed, leave_out=taken)["id"].to_pylist()
    taken |= IdSet.of(candidates)
    others = top_k(record["scores"], 10, "random", seed + 3, leave_out=taken)
    candidates += others["id"].to_pylist()
    targets = top_k(record["scores"], 15, "random", seed)["id"].to_pylist()
    gain_N = epig(predictions(config, record, candidates), predictions(config, record, targets))
    assert set(rows["id"].to_pylist()) == {candidates[n] for n in gain_N.topk(4).indices}
    assert rows["score"].to_pylist() == pytest.approx(gain_N.topk(4).values.tolist(), abs=1e-5)


def test_epig_takes_its_targets_from_another_pool(workspace: Workspace, tmp_path: Path) -> None:
    """All images of that pool are one image, so only what tells about it counts."""
    taken = IdSet.of(workspace.acquired())
    pool_of_one = write_pool(tmp_path / "other", 1)
    selection = {"k": 3, "by": "epig", "targets": {"uri": pool_of_one}}
    config, record, _, rows = workspace.round(selection)
    ids = top_k(record["scores"], IMAGES, leave_out=taken)["id"].to_pylist()
    one = pq.read_table(pool_of_one)["id"].to_pylist()
    gain_N = epig(predictions(config, record, ids), predictions(config, record, one))
    assert rows["score"].to_pylist() == pytest.approx(
        np.sort(gain_N.numpy())[::-1][:3].tolist(), abs=1e-5
    )


def test_of_near_duplicates_only_the_best_is_picked(workspace: Workspace) -> None:
    taken = IdSet.of(workspace.acquired())
    selection = {"k": 4, "candidates": 30, "most_alike": 0.9}
    config, record, seed, rows = workspace.round(selection)
    candidates = top_k(record["scores"], 30, seed=seed, leave_out=taken)["id"].to_pylist()
    pool = pq.read_table(config.pool.uri).to_pandas().set_index("id")
    pixels, _ = decode_many(list(pool.loc[candidates, "image"]), 12, 12, max_pixels=10**6)
    checkpoint = load_checkpoint(checkpoint_uri(config.workspace, record["result"]["checkpoint"]))
    features_N_D = features(checkpoint.classifier, torch.from_numpy(pixels), "logits")
    expected = [candidates[n] for n in spread_out(features_N_D, 4, 0.9)]
    assert expected != candidates[:4]
    assert rows["id"].to_pylist() == expected
    assert rows["rank"].to_pylist() == [1, 2, 3, 4]
    assert set(rows["rule"].to_pylist()) == {"bald"}


def test_a_control_of_the_whole_pool_stands_beside_the_best_candidates(
    workspace: Workspace,
) -> None:
    """BatchBALD among the 20 best, by 8 samples, and a third of the batch at random."""
    taken = IdSet.of(workspace.acquired())
    selection = {"k": 6, "by": "batch_bald", "candidates": 20, "random_share": 0.33}
    scoring = {"further_stages": [{"samples": 8, "share": 0.1}]}
    config, record, seed, rows = workspace.round(selection, scoring=scoring)
    assert rows["rule"].to_pylist() == ["batch_bald", "random", "batch_bald"] * 2
    picks = rows["id"].to_pylist()
    control, active = [picks[1], picks[4]], [picks[0], picks[2], picks[3], picks[5]]

    first, last = record["scores"], record["candidates"]["scores"]
    drawn = top_k(first, 2, "random", seed + 1, leave_out=taken)
    assert control == drawn["id"].to_pylist()
    left = top_k(last, IMAGES, seed=seed, leave_out=IdSet.of(control))["id"].to_pylist()
    batch = batch_bald(predictions(config, record, left), 4, seed=seed)
    assert active == [left[n] for n in batch.picks_B]
    assert record["result"]["random"] == 2

    files = Path(config.workspace, "rounds", record["result"]["round_id"], "batch")
    for ids, folder in ((control, first), (active, last)):
        scores = pq.read_table(folder).to_pandas().set_index("id")
        predicted = pq.read_table(files).to_pandas().set_index("id")["predicted"]
        assert list(predicted[ids]) == [config.classes[n] for n in scores.loc[ids, "predicted"]]
