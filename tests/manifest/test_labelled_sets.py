import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baal_ray import storage
from baal_ray.errors import LabelError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest import labelled_sets as labelled_import
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace.table_schemas import BATCH
from delta_tables import delete_rows, write_delta
from pools import hugging_face_images, picture

CLASSES = ["cat", "dog", "3"]


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(str(tmp_path / "manifest"))
    manifest.acquire(pa.table({"id": ["a", "b"]}), "2026-11-22")
    return manifest


def labels_of(manifest):
    table = manifest.labelled()
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))


def images(*ids, label="cat", **columns):
    """Return a labelled set of noise, with a different image per id."""
    pixels = [picture_of(id) for id in ids]
    return pa.table({"id": list(ids), "image": pixels, "label": [label] * len(ids), **columns})


def picture_of(id):
    return picture(0, int.from_bytes(id.encode()))


def copied(workspace, round_id):
    files = storage.list_files(storage.join(workspace, "rounds", round_id, "batch"), ".parquet")
    assert all(storage.read_verified(file) for file in files)
    return files, pa.concat_tables([pq.read_table(file) for file in files]).sort_by("rank")


def bring_in(manifest, source, tmp_path, **options):
    options = {"workspace": str(tmp_path / "work"), "classes": CLASSES} | options
    return import_labelled_set(manifest, str(source), **options)


def test_a_labelled_set_is_copied_with_its_images_and_comes_in_once(manifest, tmp_path):
    folder = tmp_path / "seeds"
    folder.mkdir()
    pq.write_table(images("s3", "s1", extra=[1, 2]), folder / "1.parquet")
    pq.write_table(images("s2", label="dog"), folder / "2.parquet")
    (folder / "_SUCCESS").write_text("")
    assert bring_in(manifest, folder, tmp_path, labelled_by="them") == 3
    assert labels_of(manifest) == {"s1": "cat", "s2": "dog", "s3": "cat"}
    row = manifest.labelled().to_pylist()[1]
    assert (row["id"], row["labelled_by"], row["rank"]) == ("s2", "them", None)
    assert row["source"] == str(folder / "2.parquet")
    assert row["round"].startswith("labelled-")
    assert len(row["round"]) == len("labelled-") + 12

    files, batch = copied(str(tmp_path / "work"), row["round"])
    assert len(files) == 1
    assert batch.schema == BATCH
    assert batch["id"].to_pylist() == ["s3", "s1", "s2"]
    assert batch["image"].to_pylist() == [*map(picture_of, ("s3", "s1", "s2"))]
    assert batch["rule"].to_pylist() == ["labelled_set"] * 3
    assert batch["score"].null_count == batch["model"].null_count == 3

    version = manifest.version
    assert bring_in(manifest, folder, tmp_path) == 0
    pq.write_table(images("s1", "s3"), folder / "1.parquet")
    assert bring_in(manifest, folder, tmp_path) == 0
    assert manifest.version == version


def test_a_label_corrected_since_does_not_stop_the_same_import(manifest, tmp_path):
    pq.write_table(images("s1", "s2"), tmp_path / "seeds.parquet")
    bring_in(manifest, tmp_path / "seeds.parquet", tmp_path)
    manifest.label(pa.table({"id": ["s1"], "label": ["dog"]}), overwrite=True)
    assert bring_in(manifest, tmp_path / "seeds.parquet", tmp_path) == 0
    assert labels_of(manifest)["s1"] == "dog"


def test_a_large_labelled_set_is_copied_in_files_of_bounded_size(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(labelled_import, "_FILE_ROWS", 40)
    ids = [f"s{number:03}" for number in range(100)]
    pq.write_table(images(*ids), tmp_path / "seeds.parquet", row_group_size=33)
    assert bring_in(manifest, tmp_path / "seeds.parquet", tmp_path, round_id="seeds") == 100
    files, batch = copied(str(tmp_path / "work"), "seeds")
    assert len(files) >= 3
    assert all(pq.read_metadata(file).num_rows <= 40 for file in files)
    assert batch["id"].to_pylist() == ids
    assert batch["rank"].to_pylist() == list(range(1, 101))

    monkeypatch.setattr(labelled_import, "_FILE_BYTES", 1)
    assert bring_in(manifest, tmp_path / "seeds.parquet", tmp_path, round_id="seeds") == 0


def set_faults(manifest, table, tmp_path, **options):
    pq.write_table(table, tmp_path / "seeds.parquet")
    version = manifest.version
    with pytest.raises(LabelError) as caught:
        bring_in(manifest, tmp_path / "seeds.parquet", tmp_path, **options)
    assert manifest.version == version
    return caught.value.faults


def test_every_fault_of_a_labelled_set_is_told_before_an_image_is_copied(manifest, tmp_path):
    table = pa.table(
        {
            "id": ["s", None, "s", "t", "u"],
            "label": ["cat", "cat", "cat", None, "horse"],
            "image": ["path/to/s"] * 5,
        }
    )
    assert set_faults(manifest, table, tmp_path) == [
        "seeds.parquet schema: it has a column `image` of type string; it must be binary: encoded "
        "bytes. Write the file again with that type",
        "seeds.parquet row 2: the id is empty",
        "seeds.parquet row 3: id 's' occurs in an earlier row; each id must be unique",
        "seeds.parquet row 4: 't' has no label",
        "seeds.parquet row 5: label 'horse' is not one of the classes 'cat', 'dog', '3'",
    ]
    assert not (tmp_path / "work").exists()


def test_a_labelled_set_that_contradicts_the_manifest_is_refused(manifest, tmp_path):
    (fault,) = set_faults(manifest, images("s", "a"), tmp_path)
    assert fault == "seeds.parquet row 2: 'a' is already in the manifest, in round '2026-11-22'"
    pq.write_table(images("s", "t"), tmp_path / "first.parquet")
    bring_in(manifest, tmp_path / "first.parquet", tmp_path, round_id="seeds")
    (fault,) = set_faults(manifest, images("s", "u"), tmp_path, round_id="seeds")
    assert fault.startswith(
        "round 'seeds' is already in the manifest with 2 ids, including 1 of these 2"
    )
    faults = set_faults(manifest, images("s", "t", label="dog"), tmp_path, round_id="seeds")
    assert faults[0].startswith("seeds.parquet row 1: 's' is already labelled 'cat', not 'dog'")


def test_a_hugging_face_dataset_is_a_labelled_set(manifest, tmp_path):
    table = images("s", "t")
    given = table["image"].to_pylist()
    table = table.set_column(1, "image", hugging_face_images(given))
    pq.write_table(table, tmp_path / "hf.parquet")
    assert bring_in(manifest, tmp_path / "hf.parquet", tmp_path, round_id="seeds") == 2
    _, batch = copied(str(tmp_path / "work"), "seeds")
    assert batch["image"].to_pylist() == given
    table = table.set_column(1, "image", hugging_face_images([None, None]))
    faults = set_faults(manifest, table, tmp_path)
    assert "schema: it has 2 images without bytes, 2 or more of which have only" in faults[0]


def test_integer_ids_of_a_labelled_set_are_taken_if_it_is_said_so(manifest, tmp_path):
    table = images("s", "t").set_column(0, "id", [[7, 8]])
    (fault,) = set_faults(manifest, table, tmp_path)
    assert "column `id` of type int64; it must be string. Set pool.integer_ids" in fault
    assert bring_in(manifest, tmp_path / "seeds.parquet", tmp_path, integer_ids=True) == 2
    assert labels_of(manifest) == {"7": "cat", "8": "cat"}


def test_a_delta_table_is_a_labelled_set_without_its_deleted_rows(manifest, tmp_path):
    rows = pa.concat_tables([images("s", "t", "u"), images("v", "w", label="dog")])
    uri = write_delta(tmp_path / "set", rows, partition_by=["label"])
    delete_rows(uri, [0], inline=False)
    assert bring_in(manifest, uri, tmp_path, round_id="seeds") == 4
    labels = labels_of(manifest)
    assert labels.items() <= {"s": "cat", "t": "cat", "u": "cat", "v": "dog", "w": "dog"}.items()
    _, batch = copied(str(tmp_path / "work"), "seeds")
    assert batch["image"].to_pylist() == [picture_of(name) for name in batch["id"].to_pylist()]
    assert set(batch["id"].to_pylist()) == labels.keys()


def test_a_missing_image_stops_the_import(manifest, tmp_path):
    table = images("s", "t").set_column(1, "image", [[picture_of("s"), None]])
    (fault,) = set_faults(manifest, table, tmp_path)
    assert fault == "seeds.parquet row 2: 't' has no image"
    (fault,) = set_faults(manifest, table.drop_columns("image"), tmp_path)
    assert fault.startswith("seeds.parquet schema: it has no column `image`")
    with pytest.raises(StorageError):
        bring_in(manifest, tmp_path / "nowhere", tmp_path)


def test_images_that_cannot_be_decoded_are_told_together_and_nothing_is_written(
    manifest, tmp_path
):
    pixels = [picture_of("s"), b"<html>404", picture_of("u")[:100], picture(0, 0, size=40)]
    table = images("s", "t", "u", "v").set_column(1, "image", [pixels])
    faults = set_faults(manifest, table, tmp_path, max_pixels=1000)
    assert [fault.split(": ")[0] for fault in faults] == [
        f"seeds.parquet row {n}" for n in (2, 3, 4)
    ]
    assert "'t' cannot be decoded: 9 bytes, looks like HTML" in faults[0]
    assert "is truncated" in faults[1]
    assert "max_pixels allows 1000" in faults[2]
    assert not (tmp_path / "work").exists()
    sound = table.filter(pa.array([True, False, False, False]))
    pq.write_table(sound, tmp_path / "seeds.parquet")
    assert bring_in(manifest, tmp_path / "seeds.parquet", tmp_path) == 1


def test_other_string_and_binary_types_are_as_good(manifest, tmp_path):
    table = images("s", "t").cast(
        pa.schema({"id": pa.large_string(), "image": pa.large_binary(), "label": pa.string_view()})
    )
    pq.write_table(table, tmp_path / "seeds.parquet")
    assert bring_in(manifest, tmp_path / "seeds.parquet", tmp_path) == 2
