from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import RayTaskError

from answering import answering
from baal_ray.config import PoolConfig
from baal_ray.errors import PoolError, StorageError
from baal_ray.ids import IdSet
from baal_ray.image_set import ImageSet
from baal_ray.pool import check_ids, is_exhausted, list_pool, read_pool, sample_pool, unique_ids
from baal_ray.pool.reading import _parts, _reader, _Wanted
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE

pytestmark = pytest.mark.usefixtures("ray_cluster")


def write(path, columns, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def listed(uri, folder="", form="parquet", roots=()):
    config = PoolConfig(uri=str(uri), format=form, roots=[str(root) for root in roots])
    return list_pool(config, str(folder))


def read(listing, **which):
    """Return the pool's rows by id."""
    rows = read_pool(listing, **which).take_all()
    assert all(list(row) == ["id", "source", "image", "error"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["source"], row["image"], row["error"]) for row in rows}


def images(start, stop):
    return {
        "id": [f"{n}" for n in range(start, stop)],
        "image": [b"%d" % n for n in range(start, stop)],
    }


def test_encoded_images_less_those_left_out_or_only_those_asked_for(tmp_path):
    first = write(tmp_path / "1.parquet", images(0, 200), row_group_size=70)
    second = write(tmp_path / "2.parquet", images(200, 300))
    listing = listed(tmp_path)
    everything = read(listing)
    assert everything == {
        f"{n}": (first if n < 200 else second, b"%d" % n, None) for n in range(300)
    }
    some = [f"{n}" for n in range(0, 300, 7)]
    left = read(listing, leave_out=IdSet.of([*some, "not in the pool"]))
    assert left == {i: row for i, row in everything.items() if i not in some}
    assert read(listing, only=IdSet.of(some)) == {i: everything[i] for i in some}
    assert read_pool(listing, leave_out=IdSet.of(everything)).count() == 0
    assert read_pool(listing, only=IdSet.of([])).count() == 0


@pytest.mark.parametrize("form", ["image", "uri", "files"])
def test_evaluation_images_are_withheld_under_whatever_id(tmp_path, form):
    folder = tmp_path / "pool"
    rows = images(0, 40)
    if form == "image":
        write(folder / "1.parquet", rows, row_group_size=7)
    else:
        folder.mkdir()
        for name, image in zip(*rows.values(), strict=True):
            (folder / f"{name}.png").write_bytes(image)
    if form == "uri":
        uris = [f"{name}.png" for name in rows["id"]]
        write(folder / "1.parquet", {"id": rows["id"], "uri": uris})
    listing = listed(folder, tmp_path / "listing", "files" if form == "files" else "parquet")
    suffix = ".png" if form == "files" else ""
    evaluation = ImageSet([pa.array([b"7", b"31", b"99"])])
    withheld = {f"7{suffix}", f"31{suffix}"}
    found = read(listing, evaluation=evaluation)
    whole = read(listing)
    assert len(found) == 40
    for name, (source, image, error) in found.items():
        expected = (None, EVALUATION_IMAGE) if name in withheld else (whole[name][1], None)
        assert (image, error) == expected
        assert source == whole[name][0]
    some = read(listing, only=IdSet.of([f"7{suffix}", f"8{suffix}"]), evaluation=evaluation)
    assert [some[f"{n}{suffix}"][1] for n in (7, 8)] == [None, b"8"]


def test_a_pool_is_exhausted_only_if_each_of_its_images_is_left_out(tmp_path):
    write(tmp_path / "1.parquet", images(0, 5))
    listing = listed(tmp_path)
    gone = [f"gone {n}" for n in range(10)]
    assert not is_exhausted(listing, IdSet.of(["0", "1", "2", "3"]))
    # More ids to leave out than images, of which one is still left.
    assert not is_exhausted(listing, IdSet.of(["0", "1", "2", "3", *gone]))
    assert is_exhausted(listing, IdSet.of(["0", "1", "2", "3", "4", *gone]))


def test_a_sample_is_from_all_over_the_pool(tmp_path):
    for number in range(10):
        rows = images(100 * number, 100 * (number + 1))
        write(tmp_path / f"{number}.parquet", rows, row_group_size=50)
    empty = {"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())}
    write(tmp_path / "5.parquet", empty)
    sample = sample_pool(listed(tmp_path), places=3, images=2)
    assert sample["id"].to_pylist() == ["0", "1", "400", "401", "950", "951"]
    assert sample["image"].to_pylist() == [
        image_id.encode() for image_id in sample["id"].to_pylist()
    ]
    assert len(sample_pool(listed(tmp_path / "5.parquet"), places=3, images=2)) == 0


def test_null_images_and_other_types_and_files_without_rows(tmp_path):
    write(
        tmp_path / "1.parquet",
        {
            "id": pa.array(["a", "b\0", "é"]).dictionary_encode(),
            "image": pa.array([b"1", None, b""], pa.binary_view()),
        },
    )
    write(
        tmp_path / "2.parquet",
        {"id": pa.array(["c"], pa.string_view()), "image": pa.array([b"3"], pa.large_binary())},
    )
    write(
        tmp_path / "3.parquet",
        {"id": pa.array([], pa.string()), "image": pa.array([], pa.binary())},
    )
    found = read(listed(tmp_path), leave_out=IdSet.of(["é"]))
    assert {i: row[1:] for i, row in found.items()} == {
        "a": (b"1", None),
        "b\0": (None, "its image is null"),
        "c": (b"3", None),
    }


@pytest.mark.parametrize(("column", "type_"), [("image", pa.binary()), ("uri", pa.string())])
def test_a_pool_without_rows_is_an_empty_dataset(tmp_path, column, type_):
    write(
        tmp_path / "1.parquet",
        {"id": pa.array([], pa.string()), column: pa.array([], type_)},
    )
    listing = listed(tmp_path)
    check_ids(listing)
    assert read_pool(listing).count() == 0


def test_row_groups_with_nothing_left_are_not_read(tmp_path):
    # The image pages of these row groups are corrupt, so reading them would fail.
    file = write(tmp_path / "1.parquet", images(0, 40), row_group_size=10, compression="zstd")
    with pq.ParquetFile(file) as parquet:
        chunks = [parquet.metadata.row_group(group).column(1) for group in (0, 2)]
    data = bytearray(Path(file).read_bytes())
    for chunk in chunks:
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    Path(file).write_bytes(data)
    listing = listed(tmp_path)
    rotten = [f"{n}" for n in [*range(10), *range(20, 30)]]
    assert len(read(listing, leave_out=IdSet.of(rotten))) == 20
    assert len(read(listing, only=IdSet.of(["15", "35"]))) == 2
    with pytest.raises((RayTaskError, StorageError), match=r"1\.parquet"):
        read(listing, leave_out=IdSet.of(rotten[1:]))


def test_few_large_images_are_held_at_a_time_and_many_small_ones(tmp_path):
    write(tmp_path / "small" / "1.parquet", images(0, 11_000))
    large = {
        "id": [f"{n}" for n in range(40)],
        "image": [b"%02d" % n * 300_000 for n in range(40)],
    }
    write(tmp_path / "large" / "1.parquet", large, use_dictionary=False)

    def held(size):
        listing = listed(tmp_path / size)
        return [len(rows) for rows in _reader(listing, _parts(listing), _Wanted(None, False))()]

    assert held("small") == [10_000, 1_000]
    assert held("large") == [16, 16, 8]
    assert len(sample_pool(listed(tmp_path / "large"), places=1, images=20)) == 20


def test_uris_relative_and_absolute_and_out_of_reach(tmp_path):
    (tmp_path / "pool" / "é").mkdir(parents=True)
    (tmp_path / "pool" / "é" / "a b.jpg").write_bytes(b"1")
    (tmp_path / "c.jpg").write_bytes(b"3")
    uris = {
        "relative": "é/a b.jpg",
        "up": "../c.jpg",
        "absolute": str(tmp_path / "c.jpg"),
        "url": f"file://{tmp_path}/c.jpg",
        "missing": "nothing.jpg",
        "refused": "http://127.0.0.1:9/a.jpg",
        "unknown": "nothing://a.jpg/b",
        "folder": "é",
        "null": None,
    }
    columns = {"id": list(uris), "uri": pa.array(uris.values()).dictionary_encode()}
    file = write(tmp_path / "pool" / "1.parquet", columns)
    found = read(
        listed(tmp_path / "pool", roots=[tmp_path, "http://127.0.0.1:9/", "nothing://a.jpg"])
    )
    assert {source for source, _, _ in found.values()} == {file}
    assert {i: image for i, (_, image, error) in found.items() if error is None} == {
        "relative": b"1",
        "up": b"3",
        "absolute": b"3",
        "url": b"3",
    }
    errors = {i: error for i, (_, image, error) in found.items() if image is None}
    assert errors.pop("null") == "its uri is null"
    assert errors.keys() == {"missing", "refused", "unknown", "folder"}
    assert all(uris[i] in error and "cannot be" in error for i, error in errors.items())


def test_a_folder_of_images(tmp_path):
    names = ["a.JPG", "b/c/d.png", "b/日本 1.webp", "x#1%20?.jpeg", "z::y.jpg"]
    for name in names:
        path = tmp_path / "pool" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    listing = listed(tmp_path / "pool", tmp_path / "listing", "files")
    (tmp_path / "pool" / "a.JPG").unlink()
    check_ids(listing)
    found = read(listing, leave_out=IdSet.of(["b/c/d.png"]))
    assert "No such file" in found.pop("a.JPG")[2]
    assert found == {
        name: (str(tmp_path / "pool" / name), name.encode(), None) for name in names[2:]
    }


def test_one_row_group_of_many_uris_is_read_by_several_tasks(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    ids = [f"{n}" for n in range(2_500)]
    uris = ["a.jpg" if n % 100 == 0 else "none.jpg" for n in range(2_500)]
    write(tmp_path / "pool.parquet", {"id": ids, "uri": uris})
    listing = listed(tmp_path / "pool.parquet")
    dataset = read_pool(listing).materialize()
    assert dataset.num_blocks() == 5  # of 512 rows
    rows = dataset.take_all()
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert {row["id"] for row in rows if row["image"] == b"a"} == set(ids[::100])
    some = [f"{n}" for n in (999, 1000, 1999, 2000, 2499)]
    assert sorted(read(listing, only=IdSet.of(some))) == sorted(some)


def test_a_pool_in_a_bucket(bucket, tmp_path):
    client = boto3.client("s3")
    for key in ("pool/a.jpg", "pool/b/c.PNG"):
        client.put_object(Bucket="bucket", Key=key, Body=key.encode())
    write(tmp_path / "1.parquet", images(0, 5))
    client.upload_file(str(tmp_path / "1.parquet"), "bucket", "table/1.parquet")
    listing = listed(f"{bucket}/pool", f"{bucket}/listing", "files")
    check_ids(listing)
    assert read(listing) == {
        "a.jpg": (f"{bucket}/pool/a.jpg", b"pool/a.jpg", None),
        "b/c.PNG": (f"{bucket}/pool/b/c.PNG", b"pool/b/c.PNG", None),
    }
    assert read(listed(f"{bucket}/table"), only=IdSet.of(["3"])) == {
        "3": (f"{bucket}/table/1.parquet", b"3", None)
    }


@pytest.mark.parametrize("per_partition", [4_000_000, 7])
def test_every_id_is_there_once(tmp_path, monkeypatch, per_partition):
    monkeypatch.setattr(unique_ids, "_IDS_PER_PARTITION", per_partition)
    write(tmp_path / "1.parquet", images(0, 20), row_group_size=6)
    write(tmp_path / "2.parquet", images(20, 40))
    assert check_ids(listed(tmp_path)) == 0
    evaluation = IdSet.of(["3", "25", "39", "elsewhere"])
    assert check_ids(listed(tmp_path), evaluation) == 3
    third = write(tmp_path / "3.parquet", images(39, 42))
    with pytest.raises(PoolError, match=r"1 ids occur .* '39' in .*2\.parquet and .*3\.parquet"):
        check_ids(listed(tmp_path))
    write(third, {"id": ["x", "y", "x"], "image": [b""] * 3})
    with pytest.raises(PoolError, match=r"1 ids occur more than once .* 'x' in .*3\.parquet$"):
        check_ids(listed(tmp_path))
    write(third, {"id": [*"abcd", None, "", "f"], "image": [b""] * 7}, row_group_size=3)
    with pytest.raises(
        PoolError, match=r"3\.parquet has 2 rows with a null or empty id \(rows 4, 5"
    ):
        check_ids(listed(tmp_path))


def test_spellings_of_one_character_are_two_ids(tmp_path):
    write(tmp_path / "1.parquet", {"id": ["é", "e\u0301", "a", "a\0"], "image": [b""] * 4})
    check_ids(listed(tmp_path))


def test_hostile_uris_are_refused_and_not_one_byte_is_fetched(tmp_path, capfd):
    # The canary beside the pool has an image's bytes, and so has every answer of the server.
    pool, outside, secret = tmp_path / "pool", tmp_path / "outside.jpg", "c4n4ry"
    (pool / "a").mkdir(parents=True)
    outside.write_bytes(b"canary")
    (pool / "link.jpg").symlink_to(outside)
    (pool / "linked").symlink_to(tmp_path)
    with answering(200, b"canary") as other, answering(302, b"", Location=other.url) as allowed:
        uris = [
            str(outside),
            f"file://{outside}",
            f"local://{outside}",
            f"FILE://{outside}",
            "../outside.jpg",
            "a/../../outside.jpg",
            "link.jpg",
            "linked/outside.jpg",
            f"simplecache::file://{outside}",
            f"simplecache::{other.url}/a.jpg",
            f"{other.url}/a.jpg?sig={secret}",
            f"http://ann:{secret}@127.0.0.1:{other.server_port}/a.jpg",
            f"{allowed.url}/photos/../a.jpg",
            f"{allowed.url}/photos/%2e%2e/a.jpg",
            f"{allowed.url}/photos/a::{other.url}/b.jpg",
            f"{allowed.url}/photos/a.jpg?sig={secret}",
            "http://169.254.169.254/latest/meta-data/",
            "s3://bucket/a.jpg",
        ]
        write(pool / "1.parquet", {"id": uris, "uri": uris})
        found = read(listed(pool, roots=[f"{allowed.url}/photos"]))
        assert (other.requests, allowed.requests) == (0, 1)
    assert [image for _, image, _ in found.values()] == [None] * len(uris)
    errors = {uri: error for uri, (_, _, error) in found.items()}
    assert [uri for uri, error in errors.items() if "pool.roots" not in error] == [
        f"{allowed.url}/photos/a::{other.url}/b.jpg",
        f"{allowed.url}/photos/a.jpg?sig={secret}",
    ]
    written = "".join(errors.values()) + "".join(capfd.readouterr())
    assert secret not in written


def test_links_out_of_a_folder_of_images_are_not_followed(tmp_path):
    for name in ("pool/1.jpg", "elsewhere/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"image")
    (tmp_path / "pool" / "2.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    found = read(listed(tmp_path / "pool", tmp_path / "listing", "files"))
    assert found["1.jpg"][1:] == (b"image", None)
    assert "which is" in found["2.jpg"][2]
    assert "pool.roots" in found["2.jpg"][2]
    roots = [tmp_path / "elsewhere"]
    found = read(listed(tmp_path / "pool", tmp_path / "listing", "files", roots))
    assert found["2.jpg"][1:] == (b"image", None)
