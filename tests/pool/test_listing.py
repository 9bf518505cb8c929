import os
from io import BytesIO
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from baal_ray import storage
from baal_ray.config import PoolConfig
from baal_ray.errors import PoolError, StorageError
from baal_ray.image_formats import FORMATS
from baal_ray.pool import PoolListing, list_pool, sample_pool
from baal_ray.pool import listing as pool_listing
from baal_ray.pool.reading import _fetched, _Fetcher
from baal_ray.pool.roots import Roots
from baal_ray.pool.unique_ids import _hash_file
from baal_ray.workspace.stage_files import ListedPool
from pools import hugging_face_images, picture


def write(path, columns, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options
    )
    return str(path)


def touch(folder, *names):
    for name in names:
        path = Path(os.path.join(folder, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(uri, folder="", form="parquet"):
    return list_pool(PoolConfig(uri=str(uri), format=form), str(folder))


def ids(listing):
    return [i for rows in listing.read_ids() for i in rows["id"].to_pylist()]


def test_a_folder_of_parquet_is_its_files_and_their_row_groups(tmp_path):
    second = write(tmp_path / "p" / "b" / "2.parquet", {"id": ["d"], "image": [b"4"]})
    first = write(
        tmp_path / "p" / "a=é" / "1.parquet",
        {"id": ["a", "b", "c"], "image": [b"1", b"2", None], "more": [1, 2, 3]},
        row_group_size=2,
    )
    touch(tmp_path / "p", "_SUCCESS", "_metadata.parquet", ".hidden.parquet", "notes.txt")
    listing = listed(tmp_path / "p")
    assert [(file.uri, file.row_groups) for file in listing.files] == [
        (first, [2, 1]),
        (second, [1]),
    ]
    root = str(tmp_path / "p")
    assert (listing.column, listing.root, listing.images_are_files) == ("image", root, False)
    assert listing.rows == 4
    assert pa.concat_tables(listing.read_ids()).to_pydict() == {
        "id": ["a", "b", "c", "d"],
        "source": [first, first, first, second],
    }
    assert listing.ids().contains(["a", "d", "other"]).tolist() == [True, True, False]
    assert listing.only({second}).files == listing.files[1:]
    assert PoolListing.of(ListedPool.model_validate(listing.model_dump(mode="json"))) == listing


def test_uris_are_relative_to_the_folder_or_to_the_one_file_in_it(tmp_path):
    file = write(tmp_path / "pool.parquet", {"id": ["a"], "uri": ["images/a.jpg"]})
    assert listed(file).column == "uri"
    assert listed(file).root == listed(tmp_path).root == str(tmp_path)


def test_parquet_is_known_by_extension_in_any_case_or_by_content(tmp_path):
    names = ["1.PARQUET", "2.parq", "3.Pq", "part-0000", "part-0001.c000.snappy.parquet"]
    for name in names:
        write(tmp_path / name, {"id": [name], "image": [b""]})
    touch(tmp_path, "notes.txt", "more.txt", "LICENSE", "_SUCCESS", ".part-0000.crc")
    listing = listed(tmp_path)
    assert ids(listing) == names
    assert listing.note == (
        "3 files left out: 2 .txt, 1 without an extension, such as "
        "'LICENSE', 'more.txt'. If they are Parquet, name them .parquet"
    )
    assert PoolListing.of(ListedPool.model_validate(listing.model_dump(mode="json"))) == listing
    assert listed(tmp_path / "part-0000").note == ""


def test_a_folder_may_be_named_like_a_file_as_spark_does(tmp_path):
    write(tmp_path / "pool.parquet" / "part-0.parquet", {"id": ["a"], "image": [b""]})
    assert ids(listed(tmp_path / "pool.parquet")) == ["a"]


@pytest.mark.parametrize(
    "id_type",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("image_type", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_every_kind_of_string_and_bytes_will_do(tmp_path, id_type, image_type):
    columns = {
        "id": pa.array(["a\0", "e\u0301", "é"]).cast(id_type),
        "image": pa.array([b"1"] * 3, image_type),
    }
    assert ids(listed(write(tmp_path / "1.parquet", columns))) == ["a\0", "e\u0301", "é"]


def test_pandas_categories_will_do(tmp_path):
    frame = pd.DataFrame({"id": pd.Categorical(["a", "b"]), "image": [b"1", b"2"]})
    frame.to_parquet(tmp_path / "1.parquet")
    assert ids(listed(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"image": [b""]}, "has no column `id`; it has image"),
        ({"id": ["a"]}, r"has no column `image` \(encoded bytes\) or `uri`; it has id"),
        ({"ID": ["a"], "Image": [b""]}, "has no column `id`; it has ID, Image"),
        ({"id": [1], "image": [b""]}, "a column `id` of type int64; it must be string. Set pool"),
        ({"id": [1.0], "image": [b""]}, "a column `id` of type double; it must be string. Write"),
        ({"id": ["a"], "image": ["a.jpg"]}, "`image` of type string; it must be binary"),
        ({"id": ["a"], "image": [{"path": "a"}]}, "`image` of type struct<.*; it must be binary"),
        ({"id": ["a"], "image": [[1, 2]]}, "`image` of type list<.*; it must be binary"),
        ({"id": ["a"], "uri": [b"a.jpg"]}, "`uri` of type binary; it must be string"),
        ({"id": pa.nulls(2), "image": [b"", b""]}, "`id` of type null; it must be string"),
    ],
)
def test_columns_that_cannot_be_used_are_named(tmp_path, columns, told):
    file = write(tmp_path / "1.parquet", columns)
    with pytest.raises(PoolError, match=f"pool file {file} .*{told}"):
        listed(tmp_path)


def test_a_hugging_face_dataset_is_a_pool(tmp_path):
    given = [picture(0, 1), None, picture(1, 2)]
    images = hugging_face_images(given).to_pylist()
    images[1] = None
    kind = hugging_face_images([]).type
    write(tmp_path / "1.parquet", {"id": [*"abc"], "image": pa.array(images, kind)})
    listing = listed(tmp_path)
    rows = sample_pool(listing, 1, 10)
    assert rows["image"].to_pylist() == given
    assert rows["error"].to_pylist() == [None, "its image is null", None]


def test_images_of_which_only_a_path_was_kept_are_refused(tmp_path):
    images = hugging_face_images([picture(0, 1), None, None])
    write(tmp_path / "1.parquet", {"id": [*"abc"], "image": images})
    told = r"1\.parquet has 2 images without bytes, 2 or more .*embed_table_storage"
    with pytest.raises(PoolError, match=told):
        listed(tmp_path)


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.uint8(), pa.dictionary(pa.int8(), pa.int32())], ids=str
)
def test_integer_ids_are_their_decimal_digits_if_it_is_said_so(kind, tmp_path):
    column = pa.array([7, 42, 0]).cast(getattr(kind, "value_type", kind))
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column
    file = write(tmp_path / "1.parquet", {"id": column, "image": [b"1"] * 3})
    listing = list_pool(PoolConfig(uri=file, integer_ids=True), "")
    assert ids(listing) == ["7", "42", "0"]
    assert sample_pool(listing, 1, 10)["id"].to_pylist() == ["7", "42", "0"]
    assert listing.changes() == []
    with pytest.raises(PoolError, match=r"Set pool\.integer_ids to true if"):
        listed(file)


def test_row_groups_that_keep_one_task_busy_are_named(tmp_path):
    rows = {"id": [str(i) for i in range(12_000)], "image": [b""] * 12_000}
    write(tmp_path / "1.parquet", rows, row_group_size=10_000)
    assert listed(tmp_path).large_groups == ""
    file = write(tmp_path / "2.parquet", rows)
    told = listed(tmp_path).large_groups
    assert told.startswith(
        f"{file} has a row group of 12,000 images (1 of 2 files have one of more"
    )
    assert told.endswith("Write the file again with row_group_size=1000")
    uris = {"id": rows["id"], "uri": rows["id"]}
    assert listed(write(tmp_path / "uris" / "1.parquet", uris)).large_groups == ""


def test_files_with_images_and_files_with_uris_do_not_mix(tmp_path):
    write(tmp_path / "1.parquet", {"id": ["a"], "image": [b""]})
    write(tmp_path / "2.parquet", {"id": ["b"], "uri": ["b.jpg"]})
    with pytest.raises(
        PoolError, match=r"`image` \(.*1\.parquet\), others `uri` \(.*2\.parquet\)"
    ):
        listed(tmp_path)


@pytest.mark.parametrize("form", ["parquet", "files"])
def test_a_pool_that_is_not_there_or_empty(tmp_path, form):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none", "none.parquet"):
        with pytest.raises(
            PoolError, match=r"where there are no .* files; correct it or pool\.format"
        ):
            listed(tmp_path / name, tmp_path / "listing", form)


def test_files_that_are_no_parquet(tmp_path):
    write(tmp_path / "1.parquet", {"id": ["a"], "image": [b""]})
    for content in (b"", b"PAR1", b"id,image\n", (tmp_path / "1.parquet").read_bytes()[:-9]):
        (tmp_path / "2.parquet").write_bytes(content)
        with pytest.raises(StorageError, match=r"2\.parquet is not a complete Parquet file"):
            listed(tmp_path)


def test_files_without_rows_are_a_pool_too(tmp_path):
    empty = pa.table({"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())})
    write(tmp_path / "1.parquet", empty)
    listing = listed(tmp_path)
    assert (listing.rows, ids(listing)) == (0, [])


def test_what_has_become_of_the_files_since_is_told(tmp_path):
    rows = {"id": ["a", "b", "c", "d"], "image": [b"x"] * 4}
    write(tmp_path / "same.parquet", rows)
    gone, longer, other = (write(tmp_path / f"{name}.parquet", rows) for name in "xyz")
    found = listed(tmp_path)
    assert found.changes() == []
    os.remove(gone)
    write(longer, rows, row_group_size=3)
    write(other, {"id": ["a"]})
    write(tmp_path / "new.parquet", rows)  # for the next round
    missing, rewritten, lacking = found.changes()
    assert missing.startswith(f"{gone} cannot be read: ")
    assert rewritten == (
        f"{longer} had row groups of [4] when the round was planned; it now has row groups of "
        "[3, 1]"
    )
    assert lacking.startswith(f"pool file {other} has no column `image`")


def test_a_file_with_other_contents_and_as_many_rows_is_a_change(tmp_path):
    file = write(tmp_path / "1.parquet", {"id": ["a"], "image": [b"x"]})
    planned = listed(tmp_path)
    write(file, {"id": ["b"], "image": [b"x"]})
    assert planned.changes() == [
        f"{file} has changed since the round was planned, according to its footer"
    ]


def not_utf8(*values):
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def test_an_id_that_is_not_utf8_is_told_with_its_file(tmp_path):
    columns = {"id": not_utf8(b"ok", b"t\xe9"), "image": [b"1", b"2"]}
    file = write(tmp_path / "1.parquet", columns)
    for reads in (listed(tmp_path).ids, lambda: _hash_file(listed(tmp_path).files[0], 1)):
        with pytest.raises(PoolError, match=f"{file} has an id that is not UTF-8 .*; write"):
            reads()


def test_a_uri_that_is_not_utf8_is_an_unreadable_image(tmp_path):
    touch(tmp_path, "a.jpg")
    rows = pa.table({"id": ["a", "b"], "uri": not_utf8(b"a.jpg", b"t\xe9.jpg")})
    (fetched,) = _fetched(rows, "pool.parquet", _Fetcher(Roots(str(tmp_path))))
    assert fetched["image"].to_pylist() == [b"x", None]
    assert "is not UTF-8" in fetched["error"].to_pylist()[1]


def test_a_column_that_is_there_twice_is_told(tmp_path):
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([b"1"])]
    write(tmp_path / "1.parquet", pa.Table.from_arrays(columns, names=["id", "id", "image"]))
    with pytest.raises(PoolError, match=r"1\.parquet has 2 columns `id`; there must be one"):
        listed(tmp_path)


def test_a_folder_of_images_is_listed_with_the_paths_below_it_as_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_listing, "_ROWS_AT_A_TIME", 3)  # several listing files
    shown = ["a.JPG", "_MG_1.jpeg", "b/c/d.png", "b/日本 1.webp", "b/x#1%20?.Png", "z::y.jpg"]
    shown += ["a.gif", "a.BMP", "a.tif", "a.TIFF", "a.avif", "a.jfif", "a.jpe"]
    hidden = ["._a.jpg", ".thumbs/a.jpg", "jpg", "b/Thumbs.db", "a.jpg.part", "_SUCCESS"]
    touch(tmp_path / "pool", *shown, *hidden, *(f"b/{number}.HEIC" for number in range(3)))
    listing = listed(f"{tmp_path}/pool/", tmp_path / "listing", "files")
    assert sorted(ids(listing)) == sorted(shown)
    assert len(listing.files) == 5
    assert all(storage.read_verified(file.uri) for file in listing.files)
    rows = pa.concat_tables(listing.read_ids())
    assert all(storage.read(uri) == b"x" for uri in rows["source"].to_pylist())
    assert listing.ids().contains(rows["id"]).all()
    assert listing.only({"anything"}) is listing
    assert listing.note == (
        "6 files left out: 3 .heic, 1 without an extension, 1 .db, 1 .part, such as "
        "'a.jpg.part', 'jpg', 'b/0.HEIC'. If they are images, convert them to JPEG, PNG, WebP, "
        "TIFF, BMP, GIF or AVIF"
    )


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_an_image_without_an_extension_is_known_by_its_content(known, tmp_path):
    content = BytesIO()
    Image.new("RGB", (4, 4)).save(content, known.name)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "0a1b2c").write_bytes(content.getvalue())
    touch(tmp_path / "pool", "README", "empty")
    os.truncate(tmp_path / "pool" / "empty", 0)
    listing = listed(tmp_path / "pool", tmp_path / "listing", "files")
    assert ids(listing) == ["0a1b2c"]
    assert listing.note.startswith("2 files left out: 2 without an extension, such as 'README'. ")


def test_images_that_arrive_after_the_listing_are_for_the_next_round(tmp_path):
    touch(tmp_path / "pool", "1.jpg")
    listing = listed(tmp_path / "pool", tmp_path / "listing", "files")
    touch(tmp_path / "pool", "2.jpg")
    assert ids(listing) == ["1.jpg"]


def test_a_name_that_is_no_text_is_told(tmp_path):
    (tmp_path / "pool").mkdir()
    try:
        open(os.fsencode(tmp_path / "pool") + b"/\xff.jpg", "wb").close()
    except OSError:
        pytest.skip("this disk takes UTF-8 only")
    with pytest.raises(PoolError, match=r"'\\udcff.jpg' in .* is not UTF-8"):
        listed(tmp_path / "pool", tmp_path / "listing", "files")


def test_a_bucket_of_images(bucket, tmp_path):
    client = boto3.client("s3")
    for key in ("pool/a.jpg", "pool/é/b.PNG", "pool/é/", "pool/.x/c.jpg", "pool2/d.jpg"):
        client.put_object(Bucket="bucket", Key=key, Body=b"x")
    client.put_object(Bucket="bucket", Key="pool/unnamed", Body=b"GIF89a")
    client.put_object(Bucket="bucket", Key="pool/empty", Body=b"")
    for uri in (f"{bucket}/pool", f"{bucket}/pool/"):
        listing = listed(uri, tmp_path, "files")
        names = ["a.jpg", "unnamed", "é/b.PNG"]
        assert sorted(ids(listing)) == names
        sources = [s for rows in listing.read_ids() for s in rows["source"].to_pylist()]
        assert sorted(sources) == [f"{bucket}/pool/{name}" for name in names]
        assert len(listing.other_files) == 1


def test_rows_without_an_id_are_counted_through_all_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_listing, "_ROWS_AT_A_TIME", 4)
    names = pa.array([*"abc", None, *"def", "", *"gh"]).dictionary_encode()
    file = write(tmp_path / "1.parquet", {"id": names, "image": [b""] * 10}, row_group_size=3)
    without, *partitions = _hash_file(listed(file).files[0], 3)
    assert without.tolist() == [3, 7]
    assert sum(map(len, partitions)) == 8
    assert len(np.unique(np.concatenate(partitions))) == 8
