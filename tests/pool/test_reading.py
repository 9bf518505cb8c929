"""Tests of how a read task fetches images."""

import threading
import time

import pyarrow as pa
import pytest
from deltalake import DeltaTable, WriterProperties

from baal_ray import storage
from baal_ray.config import PoolConfig
from baal_ray.pool import PoolListing, list_pool, sample_pool
from baal_ray.pool.reading import _Fetcher
from baal_ray.pool.roots import Roots
from baal_ray.workspace.stage_files import ListedPool
from delta_tables import delete_rows, write_delta
from pools import table


@pytest.mark.parametrize(("wait", "by_threads"), [(0.0, False), (0.005, True)])
def test_images_that_are_waited_for_are_fetched_by_threads(
    wait, by_threads, tmp_path, monkeypatch
):
    readers = set()
    read = storage.read_at_most

    def waits(place, limit):
        readers.add(threading.get_ident())
        time.sleep(wait)
        return read(place, limit)

    monkeypatch.setattr(storage, "read_at_most", waits)
    names = [str(number).encode() for number in range(40)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name)
    fetch = _Fetcher(Roots(str(tmp_path)))
    assert list(fetch(names)) == [(name, None) for name in names]
    readers.discard(threading.get_ident())
    assert bool(readers) == by_threads
    *_, (image, error) = fetch([b"0", None, b"40"])
    assert image is None
    assert "40" in error


def test_names_are_found_as_they_are_written_and_as_spark_encodes_them(tmp_path):
    for name in ("a b.jpg", "100%25.jpg", "plain.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    fetch = _Fetcher(Roots(str(tmp_path)))
    uris = ["a%20b.jpg", f"file:{tmp_path}/a%20b.jpg", f"file://{tmp_path}/a b.jpg", "100%25.jpg"]
    assert [image for image, _ in fetch(map(str.encode, uris))] == [b"a b.jpg"] * 3 + [
        b"100%25.jpg"
    ]
    ((image, error),) = fetch([b"%2e%2e/outside%20.jpg"])
    assert image is None
    assert "cannot be read" in error


@pytest.mark.parametrize("column", ["image", "uri"])
def test_deleted_rows_of_a_delta_table_are_never_read(column, tmp_path):
    # The rows lie in several row groups, which a vector knows nothing of.
    names = [f"image-{i:04}" for i in range(20)]
    values = [name.encode() for name in names] if column == "image" else names
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    rows = pa.table({"id": names, column: values})
    uri = write_delta(
        tmp_path / "pool", rows, writer_properties=WriterProperties(max_row_group_size=6)
    )
    delete_rows(uri, [0, 5, 6, 13, 19], inline=True)
    listing = list_pool(PoolConfig(uri=uri, roots=[str(tmp_path)]), "")
    listing = listing.model_copy(update={"root": str(tmp_path)})
    left = [name for i, name in enumerate(names) if i not in (0, 5, 6, 13, 19)]
    assert len(listing.files[0].row_groups) > 1
    assert listing.rows == 15
    assert [i for rows in listing.read_ids() for i in rows["id"].to_pylist()] == left
    sample = sample_pool(listing, 20, 20)
    assert sample["id"].to_pylist() == left
    assert sample["image"].to_pylist() == [name.encode() for name in left]


def test_a_plan_keeps_to_the_version_of_a_delta_table_that_it_was_made_for(tmp_path):
    uri = write_delta(tmp_path / "pool", table(0, 20))
    delete_rows(uri, [3], inline=True)
    listing = list_pool(PoolConfig(uri=uri), "")
    kept = PoolListing.of(ListedPool.model_validate(listing.model_dump(mode="json")))
    assert (kept, kept.table_version) == (listing, 1)
    write_delta(tmp_path / "pool", table(20, 25))
    DeltaTable(uri).delete("id = 'image-0004'")
    assert kept.changes() == []
    assert kept.rows == 19
    assert list_pool(PoolConfig(uri=uri), "").rows == 23
    assert "image-0003" not in sample_pool(kept, 1, 100)["id"].to_pylist()
