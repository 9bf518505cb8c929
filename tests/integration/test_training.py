import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from baal_ray import storage
from baal_ray.checkpoint import describe, load_checkpoint
from baal_ray.config import RoundConfig
from baal_ray.errors import BaalRayError, LabelError, TrainingError
from baal_ray.images import encode_png
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.storage.parquet import publish_table
from baal_ray.training.fit import _job, fit_model
from baal_ray.workspace import checkpoint_uri, manifest_uri
from pools import round_config, table, write_labelled

pytestmark = pytest.mark.usefixtures("ray_cluster")


def labelled(config: RoundConfig, folder: Path, images: int = 30) -> Manifest:
    manifest = Manifest(manifest_uri(config.workspace))
    path = write_labelled(folder, images=images)
    import_labelled_set(manifest, path, workspace=config.workspace, classes=config.classes)
    return manifest


def test_two_workers_use_every_row_and_go_on_from_the_epoch_on_disk_when_one_dies(
    tmp_path: Path,
) -> None:
    # test_stores.py has the same with one worker, on an object store.
    evaluation = write_labelled(tmp_path, start=7000, images=21)
    marker = tmp_path / "died"
    config = round_config(
        tmp_path,
        model={"factory": "pools:Mortal", "arguments": {"marker": str(marker)}},
        training={
            "evaluation_set": evaluation,
            "epochs": 12,
            "min_steps": 60,
            "batch_size": 16,
            "learning_rate": 3e-3,
        },
        resources={"training_workers": 2, "training_cpus": 0.5},
    )
    manifest = labelled(config, tmp_path, images=61)
    fit = fit_model(config, manifest.labelled())
    assert marker.exists()
    # One pass is four steps. Twelve epochs of one pass make 48 steps, which is too few, so each
    # epoch is two passes: eight steps per worker. The first epoch is on disk before the kill in
    # the tenth step, so eleven epochs are left after it.
    steps = len(marker.with_suffix(".steps").read_text().splitlines())
    assert steps <= 2 * (10 + 11 * 8)
    assert not list(Path(config.workspace).rglob("state.pt"))
    assert (fit.labels, fit.reused) == (61, False)
    assert [epoch["epoch"] for epoch in fit.history] == list(range(1, 13))
    assert {epoch["images"] for epoch in fit.history} == {21}
    # Three classes that a line can tell apart.
    assert fit.history[-1]["accuracy"] > 0.9
    # A mean over images and passes, which is ln 3 for a model that has learned nothing.
    assert fit.history[-1]["train_loss"] < fit.history[0]["train_loss"] < 1.2 * math.log(3)
    uri = checkpoint_uri(config.workspace, fit.checkpoint)
    checkpoint = load_checkpoint(uri, model=config.model)
    assert checkpoint.classes == config.classes
    description = describe(checkpoint_uri(config.workspace, fit.checkpoint))
    assert description.fit is not None
    assert description.fit.metrics == fit.history[-1]
    assert fit.by_class is not None
    assert fit.by_class.images == [7, 7, 7]
    assert sum(fit.by_class.correct) == round(21 * fit.history[-1]["accuracy"])

    again = fit_model(config, manifest.labelled())
    assert (again.checkpoint, again.reused) == (fit.checkpoint, True)


@pytest.mark.timeout(900)  # each death costs the start of a process
def test_the_image_that_kills_a_fit_is_named(tmp_path: Path) -> None:
    rows = table(0, 3)
    images = rows["image"].to_pylist()
    images[1] = encode_png(np.full((3, 12, 12), 255, np.uint8))
    pq.write_table(rows.set_column(1, "image", pa.array(images)), tmp_path / "labelled.parquet")
    config = round_config(
        tmp_path,
        model={"factory": "pools:Deadly"},
        training={
            "evaluation_set": write_labelled(tmp_path, start=7000, images=3),
            "epochs": 1,
            "max_failures": 0,
        },
        resources={"training_workers": 1},
    )
    manifest = Manifest(manifest_uri(config.workspace))
    import_labelled_set(
        manifest,
        str(tmp_path / "labelled.parquet"),
        workspace=config.workspace,
        classes=config.classes,
    )
    blame = r"The labelled image 'image-0001' is to blame: it killed the process \d times"
    with pytest.raises(TrainingError, match=blame):
        fit_model(config, manifest.labelled())


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize(
    "damaged",
    [flipped, lambda data: data[:1000], lambda data: b""],
    ids=["flipped", "torn", "empty"],
)
def test_a_fit_whose_kept_state_is_damaged_starts_again(
    tmp_path: Path, damaged: Callable[[bytes], bytes]
) -> None:
    config = round_config(tmp_path)
    manifest = labelled(config, tmp_path)
    state = io.BytesIO()
    torch.save({"classifier": {"weight": torch.zeros(10_000)}, "history": [{}, {}]}, state)
    whole = storage.sha256(state.getvalue()).encode() + state.getvalue()
    storage.publish(_job(config, manifest.labelled()).state, damaged(whole))
    fit = fit_model(config, manifest.labelled())
    assert [epoch["epoch"] for epoch in fit.history] == [1, 2, 3]


def test_a_night_in_process_is_the_same_night_again(tmp_path: Path) -> None:
    histories = []
    for name in ("one", "two"):
        config = round_config(tmp_path).model_copy(update={"workspace": str(tmp_path / name)})
        manifest = labelled(config, tmp_path)
        fit = fit_model(config, manifest.labelled())
        histories.append((fit.checkpoint, fit.history))
    assert histories[0] == histories[1]


def test_a_class_added_later_is_only_another_configuration(tmp_path: Path) -> None:
    config = round_config(tmp_path)
    manifest = labelled(config, tmp_path)
    fit_model(config, manifest.labelled())
    wider = config.model_copy(update={"classes": ["new", *config.classes]})
    fit = fit_model(wider, manifest.labelled())
    uri = checkpoint_uri(config.workspace, fit.checkpoint)
    checkpoint = load_checkpoint(uri, model=config.model)
    assert not fit.reused
    assert checkpoint.classes == ["new", "left", "middle", "right"]
    narrower = config.model_copy(update={"classes": ["left", "middle"]})
    with pytest.raises(LabelError, match="'right'"):
        fit_model(narrower, manifest.labelled())


def spoil(config: RoundConfig, *rows: int) -> None:
    """Replace labelled images by an error page, as an earlier version let them in."""
    (file,) = Path(config.workspace, "rounds").rglob("*.parquet")
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    for row in rows:
        images[row] = b"<html>404"
    column = table.column_names.index("image")
    publish_table(str(file.parent), table.set_column(column, table.schema.field(column), [images]))
    file.unlink()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_decoded_are_left_out_of_the_fit(
    tmp_path: Path, workers: int
) -> None:
    # All images of one of two workers are spoilt, and one of the other's.
    config = round_config(
        tmp_path,
        training={
            "evaluation_set": write_labelled(tmp_path, start=7000, images=5),
            "batch_size": 4,
            "max_failures": 0,
        },
        resources={"training_workers": workers, "training_cpus": 0.5},
    )
    manifest = labelled(config, tmp_path, images=13)
    spoil(config, *range(0, 13, 2), 1)
    fit = fit_model(config, manifest.labelled())
    assert fit.labels == 5
    assert {epoch["images"] for epoch in fit.history} == {5}
    assert all(math.isfinite(epoch["train_loss"]) for epoch in fit.history)


def test_a_fit_that_no_image_is_left_for_fails(tmp_path: Path) -> None:
    config = round_config(tmp_path, training={"max_failures": 0})
    manifest = labelled(config, tmp_path)
    spoil(config, *range(30))
    with pytest.raises(BaalRayError, match="none of the 27 labelled images can be decoded"):
        fit_model(config, manifest.labelled())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fit_that_fails_says_why(tmp_path: Path, workers: int) -> None:
    config = round_config(
        tmp_path, training={"max_failures": 0}, resources={"training_workers": workers}
    )
    manifest = labelled(config, tmp_path)
    (batch,) = Path(config.workspace, "rounds").rglob("*.parquet")
    batch.unlink()
    with pytest.raises(BaalRayError, match=r"27 labelled images, such as .* are in none"):
        fit_model(config, manifest.labelled())
    assert not list(Path(config.workspace).rglob("fit.json"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fit_that_is_no_longer_finite_fails_and_says_what_to_do(
    tmp_path: Path, workers: int
) -> None:
    config = round_config(
        tmp_path,
        training={"learning_rate": 1e30, "optimizer": "sgd"},
        resources={"training_workers": workers, "training_cpus": 0.5},
    )
    manifest = labelled(config, tmp_path)
    with pytest.raises(
        TrainingError, match=r"train_loss is nan after epoch 1; .*, which is 1e\+30"
    ):
        fit_model(config, manifest.labelled())
    assert not list(Path(config.workspace).rglob("fit.json"))
    assert not list(Path(config.workspace).rglob("*.safetensors"))
