from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from baal_ray.errors import ManifestError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest.versioned_table import VersionedTable
from baal_ray.operations.forgetting import forget_images


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(str(tmp_path / "workspace" / "manifest"))
    manifest.acquire(images("a", "b", "c"), "first")
    manifest.acquire(images("d"), "second")
    return manifest


def images(*ids, **columns):
    return pa.table({"id": pa.array(ids, pa.string()), **columns})


def test_ids_that_another_program_doubled_are_named_with_the_way_back(manifest):
    rows, version = manifest.rows(), manifest.version
    write_deltalake(manifest.uri, rows.slice(1, 2), mode="append")
    for read in (manifest.rows, manifest.labelled, manifest.ids, lambda: manifest.forget(rows)):
        with pytest.raises(ManifestError, match=r"2 ids have several rows .*'b', 'c'.*restore"):
            read()
    assert [event["change"] for event in manifest.history()] == [None, "acquire", "acquire", None]
    assert not manifest.compact()
    DeltaTable(manifest.uri).restore(version)
    assert manifest.rows() == rows


def forgetting_first(monkeypatch, name, manifest, *ids):
    """Make the next call of a table's method come after images were forgotten."""
    method = getattr(VersionedTable, name)

    def forget_and_call(self, *args):
        monkeypatch.setattr(VersionedTable, name, method)
        forget_images(str(Path(manifest.uri).parent), list(ids))
        return method(self, *args)

    monkeypatch.setattr(VersionedTable, name, forget_and_call)


def test_a_reader_whose_files_are_forgotten_under_it_reads_the_new_version(manifest, monkeypatch):
    # The reader has opened the table, and the files of that version are then deleted.
    forgetting_first(monkeypatch, "read", manifest, "a")
    assert manifest.rows()["id"].to_pylist() == ["b", "c", "d"]


def test_a_merge_whose_files_are_forgotten_under_it_is_made_on_the_new_version(
    manifest, monkeypatch
):
    forgetting_first(monkeypatch, "merge", manifest, "a")
    assert manifest.label(images("b", label=["cat"])) == 1
    assert manifest.labelled()["id"].to_pylist() == ["b"]
    assert manifest.rows()["id"].to_pylist() == ["b", "c", "d"]


def test_a_torn_data_file_is_told_as_ours(tmp_path):
    manifest = Manifest(f"{tmp_path}/manifest")
    manifest.acquire(pa.table({"id": ["a"]}), "night")
    (file,) = (tmp_path / "manifest").glob("*.parquet")
    for data in (file.read_bytes()[:100], b""):
        file.write_bytes(data)
        with pytest.raises(StorageError, match=r"the manifest .* cannot be read"):
            manifest.rows()
