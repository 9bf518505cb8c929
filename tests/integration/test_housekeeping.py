"""Tests that forget images and prune old models between the nights of one workspace."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from baal_ray.config import RoundConfig
from baal_ray.driver import run_round
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.operations.forgetting import forget_images
from baal_ray.operations.pruning import plan_pruning
from baal_ray.training.fit import fit_model
from baal_ray.workspace import manifest_uri
from pools import label_of, round_config, write_labelled, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")


def label(config: RoundConfig, round_id: str) -> list[str]:
    """Label the picks of a round, and return their ids."""
    manifest = Manifest(manifest_uri(config.workspace))
    ids: list[str] = manifest.rows(round_id=round_id)["id"].to_pylist()
    manifest.label(pa.table({"id": ids, "label": [label_of(image_id) for image_id in ids]}))
    return ids


def take_out_of_pool(folder: str, ids: list[str]) -> None:
    for file in Path(folder).iterdir():
        rows = pq.read_table(file)
        pq.write_table(rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(ids)))), file)


def named_in(workspace: str, ids: list[str]) -> list[str]:
    """Return the files in a folder, including hidden ones, that name any of these images."""
    found = []
    for path in Path(workspace).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content = str(pq.read_table(path).to_pylist()).encode()
            if any(image_id.encode() in content for image_id in ids):
                found.append(str(path))
    return found


def test_nights_go_on_without_what_was_forgotten_and_pruned(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, images=60, per_file=30)
    config = round_config(tmp_path)
    manifest = Manifest(manifest_uri(config.workspace))
    seeds = write_labelled(tmp_path)
    import_labelled_set(manifest, seeds, workspace=config.workspace, classes=config.classes)
    run_round(config, "first")
    picks = label(config, "first")

    unpicked = sorted({f"image-{i:04}" for i in range(60)} - set(picks))[0]
    forgotten = [picks[0], "image-9000", unpicked]
    take_out_of_pool(pool, forgotten)
    assert len(named_in(config.workspace, forgotten)) > 3
    forget_images(config.workspace, forgotten)
    assert named_in(config.workspace, forgotten) == []

    second = run_round(config, "second")
    assert second.labels + second.metrics["images"] == 30 + len(picks) - 2
    assert named_in(config.workspace, forgotten) == []

    plan_pruning(config.workspace, keep=1).run()
    left = {path.name for path in Path(config.workspace, "checkpoints").iterdir()}
    assert left == {second.checkpoint}
    (fingerprint,) = Path(config.workspace, "scores").glob("*/_fingerprint.json")
    assert json.loads(fingerprint.read_text())["checkpoint"] == second.checkpoint

    again = fit_model(config, manifest.at(manifest.version).labelled())
    assert (again.checkpoint, again.reused) == (second.checkpoint, True)
    correction = pa.table({"id": ["image-9001"], "label": [label_of("image-9002")]})
    manifest.label(correction, overwrite=True)
    corrected = fit_model(config, manifest.labelled())
    assert not corrected.reused
    assert corrected.checkpoint != second.checkpoint
