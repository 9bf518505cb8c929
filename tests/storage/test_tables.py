"""Tests of tables as other engines write them. Every Delta table here is read by deltalake too."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.storage.table_files import DeletedRows
from baal_ray.storage.tables import find_table
from delta_tables import delete_rows, write_delta, write_mapped
from pools import table


def ids_in(uri):
    files = find_table(str(uri)).files
    return [i for file in files for rows in file.rows(["id"], 7) for i in rows["id"].to_pylist()]


def ids_by_deltalake(uri):
    return pa.table(DeltaTable(str(uri)).scan(columns=["id"]))["id"].to_pylist()


def test_files_that_a_delta_table_has_removed_are_not_in_it(tmp_path):
    uri = write_delta(tmp_path / "pool", table(0, 5), table(5, 9))
    DeltaTable(uri).delete("id = 'image-0001'")  # rewrites a file; the old one stays
    assert len(list(Path(uri).glob("*.parquet"))) == 3
    found = find_table(uri)
    assert (len(found.files), found.version, found.root) == (2, 2, uri)
    assert sorted(ids_in(uri)) == sorted(ids_by_deltalake(uri))
    assert "image-0001" not in ids_in(uri)


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("rows", [[0], [3, 7, 19], range(20), range(0, 20, 2)], ids=str)
def test_rows_deleted_by_a_vector_are_not_in_it(inline, rows, tmp_path):
    uri = write_delta(tmp_path / "a pool", table(0, 20))
    delete_rows(uri, rows, inline=inline)
    assert ids_in(uri) == ids_by_deltalake(uri)
    assert ids_in(uri) == [f"image-{i:04}" for i in range(20) if i not in rows]
    (file,) = find_table(uri).files
    assert file.deleted.count == len(rows)


def test_a_vector_belongs_to_its_file_whatever_the_partition_is_called(tmp_path):
    rows = table(0, 20).append_column("day", pa.array(["a b", "c/d=%"] * 10))
    uri = write_delta(tmp_path / "pool", rows, partition_by=["day"])
    delete_rows(uri, [2, 4], inline=False)
    assert sorted(ids_in(uri)) == sorted(ids_by_deltalake(uri))
    assert len(ids_in(uri)) == 18


def test_a_mask_may_be_shorter_than_the_file():
    deleted = DeletedRows.of(np.array([False, True]))
    assert deleted.mask(12).tolist() == [False, True] + [False] * 10
    assert deleted.mask(0).tolist() == []


def test_partition_columns_have_their_values_from_the_log(tmp_path):
    uri = write_delta(tmp_path / "set", table(0, 6), partition_by=["label"])
    rows = pa.concat_tables(
        rows for file in find_table(uri).files for rows in file.rows(["id", "label"], 100)
    )
    assert rows.sort_by("id")["label"].to_pylist() == table(0, 6)["label"].to_pylist()


@pytest.mark.parametrize("column", ["id", "image", "uri"])
def test_a_partition_for_each_image_is_refused(column, tmp_path):
    rows = pa.table({"id": ["a"], "image": ["b"], "uri": ["c"], "day": ["d"]})
    uri = write_delta(tmp_path / "pool", rows, partition_by=[column])
    with pytest.raises(StorageError, match=f"is partitioned by `{column}`, which must be in its"):
        find_table(uri)


def test_columns_under_other_names_are_refused_by_name(tmp_path):
    rows = table(0, 3).drop_columns("label")
    renamed = write_mapped(tmp_path / "renamed", rows, {"id": "col-7", "image": "image"})
    assert ids_by_deltalake(renamed) == rows["id"].to_pylist()
    with pytest.raises(StorageError, match="stores its column `id` as `col-7`"):
        find_table(renamed)
    # A table that was switched to column mapping later has its old names in the files.
    same = write_mapped(tmp_path / "same", rows, {"id": "id", "image": "image"})
    assert ids_in(same) == ids_by_deltalake(same) == rows["id"].to_pylist()


def test_a_shallow_clone_is_refused(tmp_path):
    uri = write_delta(tmp_path / "pool", table(0, 3))
    (log,) = Path(uri, "_delta_log").glob("*.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "add" in line:
            line["add"]["path"] = f"file://{uri}/{line['add']['path']}"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StorageError, match=r"a file of another table, .* deep clone"):
        find_table(uri)


def test_a_log_that_cannot_be_read_is_no_reason_to_read_the_files(tmp_path):
    uri = write_delta(tmp_path / "pool", table(0, 3))
    for log in Path(uri, "_delta_log").glob("*.json"):
        log.write_text("{")
    with pytest.raises(StorageError, match=f"the Delta table {uri} cannot be read"):
        find_table(uri)


def test_a_part_of_a_delta_table_is_refused(tmp_path):
    rows = table(0, 6).append_column("day", pa.array(["1"] * 6))
    uri = write_delta(tmp_path / "lake" / "pool", rows, partition_by=["label", "day"])
    (part, *_) = find_table(uri).files
    day = os.path.dirname(part.uri)
    for inside in (part.uri, day, os.path.dirname(day)):
        with pytest.raises(StorageError, match=rf"is a part of the Delta table .*\. Use {uri}$"):
            find_table(inside)
    with pytest.raises(StorageError, match=rf"holds the Delta table pool\. Use {uri}$"):
        find_table(str(tmp_path / "lake"))


@pytest.mark.parametrize(
    ("kind", "marker"),
    [("Iceberg", "metadata/v1.metadata.json"), ("Hudi", ".hoodie/hoodie.properties")],
)
def test_other_kinds_of_table_are_refused_by_name(kind, marker, tmp_path):
    for below in ("", "deeper"):
        uri = tmp_path / f"{kind}{below}"
        (uri / below / marker).parent.mkdir(parents=True)
        (uri / below / marker).write_text("{}")
        pq.write_table(table(0, 3), uri / below / "1.parquet")
        with pytest.raises(StorageError, match=rf"an? {kind} table, as .* Export its rows"):
            find_table(str(uri))


def test_a_delta_table_in_a_bucket_is_read_by_its_log(bucket, tmp_path):
    uri = write_delta(f"{bucket}/lake/pool", table(0, 5), storage_options={"AWS_ALLOW_HTTP": "1"})
    DeltaTable(uri, storage_options={"AWS_ALLOW_HTTP": "1"}).delete("id = 'image-0001'")
    assert ids_in(uri) == [f"image-{i:04}" for i in (0, 2, 3, 4)]
    local = write_delta(tmp_path / "pool", table(0, 5))
    delete_rows(local, [1, 2], inline=False)
    for path in Path(local).rglob("*.*"):
        storage.publish(f"{bucket}/copy/{path.relative_to(local)}", path.read_bytes())
    assert ids_in(f"{bucket}/copy") == [f"image-{i:04}" for i in (0, 3, 4)]
    with pytest.raises(StorageError, match="holds the Delta table"):
        find_table(f"{bucket}/lake")


def test_a_relative_path_is_a_table_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(0, 3), "set.parquet")
    assert len(ids_in("set.parquet")) == 3
    Path("folder").mkdir()
    shutil.move("set.parquet", "folder/set.parquet")
    assert len(ids_in("folder")) == len(ids_in(f"file:{tmp_path}/folder/")) == 3
