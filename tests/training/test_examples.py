from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from baal_ray import storage
from baal_ray.config import ModelConfig
from baal_ray.errors import LabelError, LostFileError, StorageError
from baal_ray.images import decode_many
from baal_ray.storage.parquet import publish_table
from baal_ray.storage.table_files import TableFile
from baal_ray.training.examples import (
    LEFT_OUT,
    Examples,
    evaluation_examples,
    hold_out,
    labelled_examples,
    load_share,
)
from baal_ray.workspace import batch_uri
from disks import mounted
from pools import CLASSES, picture, table

MODEL = ModelConfig(image_size=[12, 12])


def write(path, rows, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **options)
    return str(path)


def load(examples, rank=0, workers=1, max_pixels=10**6):
    return load_share(examples, rank, workers, MODEL, max_pixels)


def decoded(rows):
    pixels, _ = decode_many(rows["image"].to_pylist(), 12, 12, max_pixels=10**6)
    return torch.from_numpy(pixels)


def test_labelled_rows_find_their_images_where_their_rounds_left_them(tmp_path):
    workspace = str(tmp_path)
    for round_id, rows in {"1": table(0, 5), "2": table(5, 9), "3": table(9, 12)}.items():
        publish_table(batch_uri(workspace, round_id), rows.drop_columns("label"))
    labelled = table(0, 9).take([8, 1, 6]).drop_columns("image")
    labelled = labelled.append_column("round", [["2", "1", "2"]])
    examples = labelled_examples(workspace, labelled, CLASSES)
    assert [file.uri.split("/")[-3] for file in examples.files] == ["1", "2"]
    images_N, labels_N = load(examples)
    assert labels_N.tolist() == [1 % 3, 6 % 3, 8 % 3]
    assert torch.equal(images_N, decoded(table(0, 9).take([1, 6, 8])))
    (file,) = (file.uri for file in examples.files if "/1/" in file.uri)
    data = bytearray(storage.read(file))
    data[20] ^= 1
    storage.publish(file, bytes(data))
    with pytest.raises(LostFileError, match=f"{file} is damaged"):
        load(examples)
    storage.delete(file)
    with pytest.raises(LostFileError, match=r"rounds/\*/batch/\*.parquet lack 1 labelled images"):
        load(labelled_examples(workspace, labelled, CLASSES))


def test_a_temporary_disk_that_is_too_small_is_named(tmp_path, monkeypatch):
    examples = evaluation_examples(write(tmp_path / "e.parquet", table(0, 3)), CLASSES)
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk") as disk:  # of one megabyte
        monkeypatch.setattr("tempfile.tempdir", disk)
        with pytest.raises(StorageError) as caught:
            load_share(examples, 0, 1, ModelConfig(image_size=[500, 500]), 10**6)
        load(examples)
    told = str(caught.value)
    assert f"{disk} has no room for the decoded labelled images" in told
    assert "they need 2250000 bytes, and 1048576 are free (No space left on device)" in told
    assert "set TMPDIR to a folder on a larger disk" in told


def test_shares_are_apart_and_together_everything(tmp_path):
    rows = table(0, 23)
    examples = evaluation_examples(write(tmp_path / "e.parquet", rows, row_group_size=7), CLASSES)
    whole_N, labels_N = load(examples)
    assert torch.equal(whole_N, decoded(rows))
    for rank in range(4):
        images_N, some_N = load(examples, rank, 4)
        assert torch.equal(images_N, whole_N[rank::4])
        assert torch.equal(some_N, labels_N[rank::4])
    none_N, _ = load(examples, 30, 31)
    assert none_N.shape == (0, 3, 12, 12)


def test_an_image_in_two_files_counts_once(tmp_path):
    # A round that was run again may leave the same image twice.
    write(tmp_path / "1.parquet", pa.concat_tables([table(0, 3), table(1, 2)]))
    write(tmp_path / "2.parquet", table(2, 5))
    files = [str(tmp_path / f"{n}.parquet") for n in (1, 2)]
    images_N, _ = load(
        Examples(
            [TableFile(uri=file) for file in files], {f"image-{n:04}": n % 3 for n in range(5)}
        )
    )
    assert torch.equal(images_N, decoded(table(0, 5)))


def test_an_image_that_is_in_no_file_stops_the_fit(tmp_path):
    file = write(tmp_path / "1.parquet", table(0, 3))
    with pytest.raises(StorageError, match="1 labelled images, such as 'x': they are in none of"):
        load(Examples([TableFile(uri=file)], {"image-0001": 1, "x": 1}))


def test_images_that_cannot_be_decoded_are_told_and_left_out(tmp_path, caplog):
    rows = table(0, 3).set_column(1, "image", [[picture(0, 0), None, b"<html>404"]])
    file = write(tmp_path / "1.parquet", rows)
    images_N, labels_N = load(
        Examples([TableFile(uri=file)], {f"image-{n:04}": n for n in range(3)})
    )
    assert labels_N.tolist() == [0, LEFT_OUT, LEFT_OUT]
    assert torch.equal(images_N[:1], decoded(rows[:1]))
    assert "2 labelled images cannot be decoded" in caplog.text
    assert "'image-0001': 0 bytes, empty" in caplog.text
    assert "'image-0002': 9 bytes, looks like HTML" in caplog.text
    _, labels_N = load(Examples([TableFile(uri=file)], {"image-0000": 0}), max_pixels=10)
    assert labels_N.tolist() == [LEFT_OUT]


def test_other_string_and_binary_types_are_as_good(tmp_path):
    rows = table(0, 4)
    columns = {
        "id": rows["id"].cast(pa.string_view()),
        "image": rows["image"].cast(pa.binary_view()),
        "label": rows["label"].dictionary_encode(),
    }
    file = write(tmp_path / "e.parquet", pa.table(columns))
    images_N, labels_N = load(evaluation_examples(file, CLASSES))
    assert torch.equal(images_N, decoded(rows))
    assert labels_N.tolist() == [0, 1, 2, 0]


def test_an_evaluation_set_may_be_a_folder(tmp_path):
    write(tmp_path / "e.parquet" / "1.parquet", table(0, 2))
    write(tmp_path / "e.parquet" / "2.parquet", table(2, 4))
    assert len(evaluation_examples(str(tmp_path / "e.parquet"), CLASSES).class_of) == 4


def test_integer_labels_are_names_of_classes(tmp_path):
    rows = table(0, 3).set_column(2, "label", [[2, 0, 1]])
    file = write(tmp_path / "e.parquet", rows)
    assert [*evaluation_examples(file, ["0", "1", "2"]).class_of.values()] == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.drop_columns("image"), "has no column `image`"),
        (lambda rows: rows.drop_columns(["id", "label"]), "has no column `id`"),
        (
            lambda rows: rows.set_column(2, "label", [["left", "x", "y"]]),
            "'x' is not one of the 3",
        ),
        (
            lambda rows: rows.set_column(2, "label", [["left", None, "left"]]),
            r"e\.parquet:\n  - 1 images have a null label, such as 'image-0001'",
        ),
        (
            lambda rows: rows.set_column(2, "label", [[0.0, float("nan"), None]]),
            "2 images have a null label, such as 'image-0001', 'image-0002'; .* Label them, or",
        ),
        (lambda rows: rows.set_column(0, "id", [["a", "b", "a"]]), "null or duplicated"),
        (lambda rows: rows.set_column(0, "id", [["a", "b", None]]), "null or duplicated"),
    ],
)
def test_an_evaluation_set_that_would_mislead_is_refused(tmp_path, change, told):
    file = write(tmp_path / "e.parquet", change(table(0, 3)))
    with pytest.raises(LabelError, match=told):
        evaluation_examples(file, CLASSES)


def test_a_null_is_not_the_label_of_a_class_of_that_name(tmp_path):
    rows = table(0, 3).set_column(2, "label", [["None", None, "yes"]])
    with pytest.raises(LabelError, match="1 images have a null label"):
        evaluation_examples(write(tmp_path / "e.parquet", rows), ["None", "yes"])


def test_an_id_in_two_files_of_an_evaluation_set_is_refused(tmp_path):
    write(tmp_path / "e" / "1.parquet", table(0, 2))
    write(tmp_path / "e" / "2.parquet", table(1, 3))
    with pytest.raises(LabelError, match=r"2\.parquet:\n  - an id is null or duplicated"):
        evaluation_examples(str(tmp_path / "e"), CLASSES)


def test_an_evaluation_set_that_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("id,label")
    for name in ("empty", "none", "none.parquet"):
        with pytest.raises(StorageError, match="where there is no Parquet file"):
            evaluation_examples(str(tmp_path / name), CLASSES)
    with pytest.raises(StorageError, match="is not a complete Parquet file"):
        evaluation_examples(str(tmp_path / "text.parquet"), CLASSES)


def examples(count):
    return Examples([TableFile(uri="f")], {f"i{n}": n % 3 for n in range(count)})


@pytest.mark.parametrize(
    ("count", "share", "held"),
    # Of 1 to 3 images of three classes, each is the only one of its class. Of 10, 7 are not.
    [(1, 0.5, 0), (3, 0.9, 0), (4, 0.1, 1), (10, 0.96, 7), (100, 0.1, 10), (9, 0.001, 1)],
)
def test_a_share_is_held_out_as_far_as_each_class_keeps_an_image(count, share, held):
    training, held_out = hold_out(examples(count), share, 0)
    assert (len(training.class_of), len(held_out.class_of)) == (count - held, held)
    assert training.class_of | held_out.class_of == examples(count).class_of
    assert set(training.class_of.values()) == set(examples(count).class_of.values())


@pytest.mark.parametrize("seed", range(20))
def test_each_class_has_the_same_share_held_out(seed):
    # At (i - 1/2)/n, a class of n has round(n/10) of its images among the first tenth of all.
    sizes = {0: 500, 1: 300, 2: 140, 3: 40, 4: 10, 5: 10, 6: 1}
    class_of = {f"{c}-{i}": c for c, size in sizes.items() for i in range(size)}
    training, held_out = hold_out(Examples([TableFile(uri="f")], class_of), 0.1, seed)
    held = Counter(held_out.class_of.values())
    assert dict(held) == {0: 50, 1: 30, 2: 14, 3: 4, 4: 1, 5: 1}
    assert Counter(training.class_of.values()) + held == sizes


def test_who_is_held_out_stays_so_as_labels_come_in():
    # Of 100 held out of 1000, at most the few at the border change sides for 10 more labels.
    _, before = hold_out(examples(1000), 0.1, 0)
    _, after = hold_out(examples(1010), 0.1, 0)
    assert len(before.class_of.keys() - after.class_of.keys()) <= 5
    _, other = hold_out(examples(1000), 0.1, 1)
    assert len(before.class_of.keys() & other.class_of.keys()) < 40
