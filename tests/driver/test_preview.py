"""Tests of the preview of a round, on workspaces in each of their states."""

import logging
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from baal_ray import storage
from baal_ray.checkpoint import load_checkpoint, weights_uri
from baal_ray.driver.preview import preview_round
from baal_ray.errors import LabelError, ModelError
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.model import build_classifier, check_model
from baal_ray.scoring.job import ScoringJob
from baal_ray.storage.parquet import publish_table
from baal_ray.training.fit import _job, find_fit, fit_model
from baal_ray.workspace import checkpoint_uri, manifest_uri, scores_uri
from baal_ray.workspace.records import FitRecord
from baal_ray.workspace.table_schemas import SCORES
from pools import round_config, write_labelled, write_pool
from stage_files import fit_result, plan, put, round_record


def test_a_control(tmp_path):
    write_pool(tmp_path, images=100)
    config = round_config(tmp_path, selection={"random_share": 0.2})
    assert preview(config)["acquire"] == "10 images by random"
    bring_in_labels(config, tmp_path)
    assert preview(config)["acquire"] == "8 images by bald and 2 at random"


CHECKPOINT = "c0ffee" * 10 + "abcd"


@pytest.fixture
def config(tmp_path):
    write_pool(tmp_path, images=100)
    return round_config(tmp_path)


def manifest_of(config):
    return Manifest(manifest_uri(config.workspace))


def bring_in_labels(config, tmp_path):
    import_labelled_set(
        manifest_of(config),
        write_labelled(tmp_path),
        workspace=config.workspace,
        classes=config.classes,
    )


def finish(config, round_id, ids, **result):
    """Write the files of a finished round that a preview reads."""
    manifest_of(config).acquire(pa.table({"id": ids}), round_id)
    record = round_record(round_id, **{"labels": 15, "scored": 50, **result})
    put(config.workspace, round_id, record)


def preview(config, round_id="night"):
    return dict(line.split(maxsplit=1) for line in preview_round(config, round_id))


def test_nothing_labelled(config):
    assert preview(config) == {
        "round": "night, new",
        "pool": "100 images, of which 0 were acquired before",
        "fit": "nothing is labelled yet",
        "score": "nothing: the first acquisition batch is random",
        "acquire": "10 images by random",
    }


def test_files_that_are_no_part_of_the_pool_are_counted(config):
    for name in ("notes.txt", "part-0000"):
        storage.publish(storage.join(config.pool.uri, name), b"no Parquet")
    assert preview(config)["files"].startswith(
        "2 files left out: 1 without an extension, 1 .txt, such as "
    )


def test_a_first_fit(config, tmp_path):
    bring_in_labels(config, tmp_path)
    told = preview(config)
    assert told["fit"] == "on 30 labels, for about 12 steps"
    assert told["score"] == "100 images (0 have scores already), 4 posterior samples each"
    assert told["acquire"] == "10 images by bald"
    assert told["time"] == "unknown until a first round is finished"


def test_evaluation_images_in_the_pool_are_left_out(config, tmp_path):
    # Ten of 100 images are evaluation images, and two of these were acquired before.
    manifest_of(config).acquire(pa.table({"id": ["image-0008", "image-0009"]}), "before")
    training = {"evaluation_set": write_labelled(tmp_path, 0, 10)}
    told = preview(round_config(tmp_path, training=training, selection={"k": 95}))
    assert (
        told["pool"] == "100 images, of which 2 were acquired before; 8 more are evaluation images"
    )
    assert told["acquire"] == "90 images by random"
    bring_in_labels(config, tmp_path)
    told = preview(round_config(tmp_path, training=training))
    assert told["score"].startswith("90 images (0 have scores already)")


def test_an_evaluation_set_that_shares_labelled_images_is_told(config, tmp_path):
    bring_in_labels(config, tmp_path)
    training = {"evaluation_set": write_labelled(tmp_path, 9020, 30)}
    with pytest.raises(LabelError, match="10 labelled images, such as 'image-9020'"):
        preview(round_config(tmp_path, training=training))


def test_a_given_model_needs_neither_labels_nor_a_fit(config, tmp_path):
    weights = tmp_path / "given.safetensors"
    save_file(build_classifier(config.model, 3).network.state_dict(), weights)
    model = {"image_size": 12, "weights": str(weights)}
    given = round_config(tmp_path, model=model, training={"epochs": 0})
    told = preview(given)
    assert told["fit"] == "not needed: training.epochs is 0, so model.weights are used as they are"
    assert told["score"].startswith("100 images (0 have scores already)")
    assert told["acquire"] == "10 images by bald"
    # Images that the same model has scored are known before the model is in the workspace.
    before = find_fit(given, manifest_of(given).labelled())
    assert not Path(given.workspace, "checkpoints").exists()
    fit = fit_model(given, manifest_of(given).labelled())
    assert (fit, fit.metrics, fit.labels) == (before, {}, 0)
    checkpoint = load_checkpoint(checkpoint_uri(given.workspace, fit.checkpoint))
    for name, tensor in load_file(weights).items():
        assert torch.equal(checkpoint.classifier.network.state_dict()[name], tensor)


def test_a_given_model_must_have_all_its_weights(config, tmp_path):
    weights = tmp_path / "given.safetensors"
    save_file(build_classifier(config.model, 5).network.state_dict(), weights)  # of five classes
    model = {"image_size": 12, "weights": str(weights)}
    given = round_config(tmp_path, model=model, training={"epochs": 0})
    with pytest.raises(ModelError, match=r"lacks 2 tensors .* such as '11\.bias'; .* these cl"):
        preview(given)
    with pytest.raises(ModelError, match="lacks 2 tensors"):
        check_model(given.model, 3, trained=True)
    check_model(given.model, 5, trained=True)


def test_time_goes_by_the_last_round_that_scored(config, tmp_path):
    # 15 labels took 60 s and 50 images took 600 s: 30 labels take 120 s, 95 images 1,140 s.
    bring_in_labels(config, tmp_path)
    finish(config, "old", ["image-0000"], seconds={"fit": 1.0, "score": 1.0, "select": 1.0})
    seconds = {"fit": 60.0, "score": 600.0, "select": 3.0}
    finish(config, "one", [f"image-{i:04}" for i in range(1, 5)], seconds=seconds)
    finish(config, "two", ["elsewhere"], seconds={"fit": 0.0, "select": 1.0}, scored=0)
    told = preview(config)
    assert told["pool"] == "100 images, of which 5 were acquired before"
    assert told["score"].startswith("95 images ")
    assert told["time"] == "about 21 min, judging by round one: 2 min to fit, 19 min to score"


def test_few_labels_take_as_long_to_fit_as_more_do(tmp_path):
    config = round_config(tmp_path, training={"min_steps": 1200})
    write_pool(tmp_path)
    bring_in_labels(config, tmp_path)
    finish(config, "one", ["image-0000"], seconds={"fit": 60.0, "score": 0.0, "select": 0.0})
    told = preview(config)
    assert told["fit"] == "on 30 labels, for about 1,200 steps"
    assert told["time"] == "about 60 s, judging by round one: 60 s to fit, 0 s to score"


def test_what_is_fitted_and_scored_already_is_not_done_again(config, tmp_path, caplog):
    bring_in_labels(config, tmp_path)
    caplog.set_level(logging.ERROR)  # no evaluation set
    record = FitRecord(checkpoint=CHECKPOINT, labels=27, history=[])
    storage.publish(_job(config, manifest_of(config).labelled()).record, record.to_json())
    checkpoint = checkpoint_uri(config.workspace, CHECKPOINT)
    storage.publish(weights_uri(checkpoint), b"")
    folder = ScoringJob(checkpoint, config.scoring).folder(scores_uri(config.workspace))
    ids = pa.array([f"image-{i:04}" for i in range(60)])
    nulls = {f.name: pa.nulls(60, f.type) for f in SCORES if f.name != "id"}
    publish_table(folder, pa.table({"id": ids, **nulls}).select(SCORES.names).cast(SCORES))
    unreadable = pa.table({"id": ["image-0070"], **{n: v[:1] for n, v in nulls.items()}})
    at = unreadable.column_names.index("error")
    unreadable = unreadable.set_column(at, "error", pa.array(["empty"]))
    publish_table(folder, unreadable.select(SCORES.names).cast(SCORES))
    damaged = storage.join(folder, f"{'0' * 64}.parquet")
    storage.publish(damaged, b"cut")
    finish(config, "one", ["image-0000"], seconds={"fit": 60.0, "score": 50.0, "select": 1.0})
    told = preview(config)
    assert told["fit"] == "not needed: checkpoint c0ffeec0ffee… was fitted on these labels"
    assert told["score"].startswith("40 images (59 have scores already)")
    assert storage.exists(damaged)
    assert told["time"] == "about 41 s, judging by round one: 0 s to fit, 40 s to score"


def test_a_round_that_was_begun_or_has_ended(config):
    put(config.workspace, "night", plan(), fit_result(CHECKPOINT))
    assert preview(config)["round"] == "night, begun before; done: plan, fit"
    put(config.workspace, "night", round_record("night"))
    assert preview_round(config, "night") == ["round night is already committed: nothing to do"]


def test_nothing_is_written(config, tmp_path):
    bring_in_labels(config, tmp_path)
    before = sorted(Path(config.workspace).rglob("*"))
    preview(config)
    assert sorted(Path(config.workspace).rglob("*")) == before
