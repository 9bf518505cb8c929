"""Tests of how evaluation images are recognised among labelled images."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baal_ray.config import ModelConfig
from baal_ray.errors import LabelError
from baal_ray.training.evaluation_images import (
    EvaluationImages,
    read_evaluation,
    refuse_labelled,
    shared_images,
)
from baal_ray.training.examples import evaluation_examples, load_share
from delta_tables import delete_rows, write_delta
from pools import (
    CLASSES,
    hugging_face_images,
    label_of,
    round_config,
    table,
    write_labelled,
)


def examples(path, rows):
    pq.write_table(rows, path)
    return evaluation_examples(str(path), CLASSES)


def renamed(rows):
    ids = [f"copy-{image_id}" for image_id in rows["id"].to_pylist()]
    return rows.set_column(0, "id", [ids])


@pytest.fixture
def evaluation(tmp_path):
    return EvaluationImages.of(examples(tmp_path / "evaluation.parquet", table(0, 20)))


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        (table(20, 90), []),
        (table(18, 90), ["image-0018", "image-0019"]),
        (renamed(table(19, 90)), ["copy-image-0019"]),
        (table(19, 21).set_column(1, "image", [[b"another", b"picture"]]), ["image-0019"]),
    ],
)
def test_labelled_images_are_shared_by_id_or_by_their_bytes(tmp_path, evaluation, rows, shared):
    labelled = examples(tmp_path / "labelled.parquet", rows)
    assert shared_images(evaluation, labelled) == shared
    if not shared:
        refuse_labelled(evaluation, labelled, "there")
        return
    with pytest.raises(LabelError) as refused:
        refuse_labelled(evaluation, labelled, "there")
    for told in (f"{len(shared)} labelled images", repr(shared[0]), "there:", "baal-ray forget"):
        assert told in str(refused.value)


def test_an_image_that_is_not_labelled_does_not_count(tmp_path, evaluation):
    # The files of a batch also hold picks that wait for a label.
    labelled = examples(tmp_path / "labelled.parquet", table(0, 30))
    for image_id in table(0, 20)["id"].to_pylist():
        del labelled.class_of[image_id]
    assert shared_images(evaluation, labelled) == []


def test_without_an_evaluation_set_no_image_is_withheld(tmp_path):
    none = read_evaluation(round_config(tmp_path))
    assert (len(none.ids), len(none.images)) == (0, 0)
    path = write_labelled(tmp_path, images=12)
    config = round_config(tmp_path, training={"evaluation_set": path})
    found = read_evaluation(config)
    assert (len(found.ids), len(found.images)) == (12, 12)


def test_ids_and_images_of_other_types_are_recognised(tmp_path):
    rows = table(0, 4)
    columns = {
        "id": rows["id"].cast(pa.string_view()),
        "image": rows["image"].cast(pa.binary_view()),
        "label": rows["label"],
    }
    evaluation = EvaluationImages.of(examples(tmp_path / "views.parquet", pa.table(columns)))
    assert evaluation.images.contains(rows["image"]).all()
    numbers = rows.set_column(0, "id", [[1, 2, 3, 4]])
    with pytest.raises(LabelError, match=r"`id` of type int64; .* Set pool\.integer_ids"):
        examples(tmp_path / "numbers.parquet", numbers)
    file = str(tmp_path / "numbers.parquet")
    evaluation = EvaluationImages.of(evaluation_examples(file, CLASSES, integer_ids=True))
    assert evaluation.ids.contains(["4", "5"]).tolist() == [True, False]


def test_a_hugging_face_dataset_is_an_evaluation_set(tmp_path):
    rows = table(0, 4)
    images = hugging_face_images(rows["image"].to_pylist())
    found = examples(tmp_path / "e.parquet", rows.set_column(1, "image", images))
    assert EvaluationImages.of(found).images.contains(rows["image"]).all()
    pixels, classes = load_share(found, 0, 1, ModelConfig(image_size=12), 1000)
    assert classes.tolist() == [0, 1, 2, 0]
    assert pixels.any()
    without = rows.set_column(1, "image", hugging_face_images([None] * 4))
    with pytest.raises(LabelError, match=r"has 4 images without bytes, 4 or more .* only a path"):
        examples(tmp_path / "paths.parquet", without)


def test_a_delta_table_is_an_evaluation_set(tmp_path):
    uri = write_delta(tmp_path / "set", table(0, 6), partition_by=["label"])
    delete_rows(uri, [0], inline=True)
    found = evaluation_examples(uri, CLASSES)
    assert len(found.class_of) == 5
    assert all(CLASSES[i] == label_of(name) for name, i in found.class_of.items())
    assert len(EvaluationImages.of(found).images) == 5
    pixels, _ = load_share(found, 0, 1, ModelConfig(image_size=12), 1000)
    assert len(pixels) == 5
