"""Tests of Parquet files of a few kilobytes that stand for gigabytes, in their own processes."""

import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from baal_ray.errors import StorageError
from baal_ray.storage.bounded_rows import MOST_IMAGE_BYTES, bounded_rows
from baal_ray.storage.parquet import open_parquet, publish_table
from baal_ray.storage.table_files import TableFile

# Prints the peak of the process's memory in MiB over what importing takes, and what was found.
PREAMBLE = """
import json, resource, sys
import pyarrow as pa
from collections import Counter
from pathlib import Path

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def tell(found):
    print(json.dumps([peak() - before, found]))

path, folder = sys.argv[1:]
"""
POOL = """
from baal_ray.config import PoolConfig
from baal_ray.pool.listing import list_pool
from baal_ray.pool.reading import _parts, _reader, _Wanted
listing = list_pool(PoolConfig(uri=path), folder)
before = peak()
found = Counter()
for rows in _reader(listing, _parts(listing), _Wanted(None, listed=False))():
    found.update(str(error)[:14] for error in rows["error"].to_pylist())
tell(found)
"""
LABELLED = """
from baal_ray.errors import LabelError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
before = peak()
try:
    import_labelled_set(Manifest(folder + "/m"), path, workspace=folder, classes=["a", "b"])
except (LabelError, StorageError) as error:
    tell(str(error))
"""
EVALUATION = """
from baal_ray.config import ModelConfig
from baal_ray.errors import LabelError, StorageError
from baal_ray.training.examples import evaluation_examples, load_share
from baal_ray.training.evaluation_images import EvaluationImages
before = peak()
try:
    examples = evaluation_examples(path, ["a", "b"])
    EvaluationImages.of(examples)
    _, labels = load_share(examples, 0, 1, ModelConfig(), 10**8)
    tell(labels.tolist().count(-1))
except (LabelError, StorageError) as error:
    tell(str(error))
"""


def measured(script, path, folder):
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, str(path), str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(path, ids, values, column="image", **options):
    """Write rows that share one value; other columns are harmless."""
    rows = len(ids)
    table = {"id": ids, "image": pa.array([b"x"] * rows), "label": ["a"] * rows}
    table[column] = values
    options |= {"compression": "zstd", "store_schema": False, "write_statistics": False}
    pq.write_table(pa.table(table), path, **options)
    return path


def repeated(value, rows, kind):
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([value], kind))


def ids_of(rows):
    return [f"image-{number:05}" for number in range(rows)]


@pytest.fixture
def dictionary(tmp_path):
    """A file whose 200 images of 10 MB are one entry of a dictionary."""
    image = repeated(b"\0" * 10_000_000, 200, pa.binary())
    return write(tmp_path / "a.parquet", ids_of(200), image)


@pytest.fixture
def deltas(tmp_path):
    """A file whose 120 images of 10 MB repeat each other's beginning."""
    images = pa.array([bytes(10_000_000 - number) for number in range(120)], pa.binary())
    options = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    return write(tmp_path / "a.parquet", ids_of(120), images, **options)


@pytest.fixture
def page(tmp_path):
    """A file with one image of 600 MB of zeros."""
    images = pa.array([bytes(600_000_000)], pa.binary())
    return write(tmp_path / "a.parquet", ids_of(1), images, use_dictionary=False)


@pytest.mark.parametrize("script", [POOL, LABELLED, EVALUATION], ids=["pool", "labels", "fit"])
@pytest.mark.parametrize("bomb", ["dictionary", "deltas", "page"])
def test_a_small_file_of_large_images_takes_a_bounded_memory(bomb, script, request, tmp_path):
    path = request.getfixturevalue(bomb)
    assert path.stat().st_size < 100_000 or bomb == "page"
    megabytes, found = measured(script, path, tmp_path)
    # 128 MiB of rows, and their copies as Python's bytes and for the dataset.
    assert megabytes < 1000
    if bomb == "page":
        assert "its row group" in str(found)


@pytest.mark.parametrize(
    ("column", "script", "told"),
    [
        ("label", LABELLED, "label has 5000000 characters; it must have at most 4096"),
        ("id", LABELLED, "id has 5000000 characters; it must have at most 4096"),
        ("label", EVALUATION, "more than 4096 bytes in the column label"),
        ("id", EVALUATION, "more than 4096 bytes in the column id"),
    ],
)
def test_a_small_file_of_large_texts_is_refused_in_a_bounded_memory(
    column, script, told, tmp_path
):
    ids = ids_of(300)
    path = write(tmp_path / "a.parquet", ids, repeated("a" * 5_000_000, 300, pa.string()), column)
    megabytes, found = measured(script, path, tmp_path)
    assert told in found
    assert megabytes < 1000


def test_many_large_pictures_are_decoded_a_few_at_a_time(tmp_path):
    buffer = BytesIO()
    Image.new("RGB", (6000, 6000)).save(buffer, "PNG")
    path = write(tmp_path / "a.parquet", ids_of(12), repeated(buffer.getvalue(), 12, pa.binary()))
    # A picture takes 144 MB, and the six that as many threads would decode 864 MB.
    script = LABELLED.replace("except", "    tell(0)\nexcept", 1)
    megabytes, found = measured(script, path, tmp_path)
    assert found == 0
    assert megabytes < 700


def test_an_image_above_the_limit_is_an_error_of_its_own(tmp_path):
    noise = np.random.default_rng(0).bytes(MOST_IMAGE_BYTES + 1)
    images = pa.array([b"first", noise, b"last"], pa.binary())
    path = write(tmp_path / "a.parquet", ids_of(3), images, use_dictionary=False)
    found = pa.concat_tables(TableFile(uri=str(path)).image_rows(64))
    assert found["image"].to_pylist() == [b"first", None, b"last"]
    assert [bool(error) for error in found["error"].to_pylist()] == [False, True, False]
    assert f"more than {MOST_IMAGE_BYTES} bytes" in found["error"][1].as_py()


@pytest.mark.parametrize("dictionary", [True, False])
def test_harmless_rows_are_read_in_their_order(tmp_path, dictionary):
    images = pa.array([bytes([n % 256]) * n for n in range(500)], pa.binary())
    options = {"use_dictionary": dictionary, "row_group_size": 70}
    path = write(tmp_path / "a.parquet", ids_of(500), images, **options)
    found = pa.concat_tables(TableFile(uri=str(path)).image_rows(64))
    with open_parquet(str(path)) as parquet:
        third = pa.Table.from_batches(bounded_rows(parquet, ["id"], 2, uri=str(path)))
    assert found["image"].to_pylist() == images.to_pylist()
    assert found["id"].to_pylist() == ids_of(500)
    assert third["id"].to_pylist() == ids_of(500)[140:210]


def test_a_row_group_that_is_all_air_is_refused_before_it_is_read(page):
    with (
        open_parquet(str(page)) as parquet,
        pytest.raises(StorageError, match=r"takes 6000\d+ bytes in memory and \d+ in the file"),
    ):
        next(bounded_rows(parquet, ["id", "image"], uri=str(page)))


def test_a_batch_of_bitmaps_is_read(tmp_path):
    # Black ones, such as masks, of 152 MB that take 7 MB in the file.
    bitmap = bytes(2_000_000)
    rows = pa.table({"id": ids_of(76), "image": pa.array([bitmap] * 76, pa.binary())})
    file = TableFile(uri=publish_table(str(tmp_path), rows))
    for verified in (True, False):
        assert sum(len(some) for some in file.image_rows(8, verified=verified)) == 76
