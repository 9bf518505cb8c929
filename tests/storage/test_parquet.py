import os
import pickle
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baal_ray import storage
from baal_ray.errors import BaalRayError, CorruptFileError
from baal_ray.manifest import Manifest
from baal_ray.manifest.labels import import_labels
from baal_ray.selection import top_k
from baal_ray.storage.parquet import LoadedParquet, open_parquet, parquet_bytes

# This runs in a process without Ray's extension types, which could prevent the writing.
WRITE = """
import sys
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

file, name, pickled = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
kind = pa.binary() if name == "arrow.py_extension_type" else pa.large_binary()
extension = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickled}
fields = [pa.field(column, kind, metadata=extension) for column in ("id", "label", "bald")]
pq.write_table(pa.table([pa.array([pickled], kind)] * 3, schema=pa.schema(fields)), file)
"""


class Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "ray.data.arrow_pickled_object"])
def test_pickled_objects_in_a_file_are_never_unpickled(tmp_path, name):
    import ray.data  # noqa: F401  registers its own types, one of which unpickles

    canary, file = tmp_path / "canary", str(tmp_path / "a.parquet")
    pickled = pickle.dumps(Canary(canary))
    subprocess.run([sys.executable, "-c", WRITE, file, name, pickled.hex()], check=True)
    for read in (
        lambda: list(open_and_read(file)),
        lambda: LoadedParquet(storage.read(file), file).read().to_pylist(),
        lambda: top_k(str(tmp_path), 1),
        lambda: import_labels(Manifest(str(tmp_path / "m")), file, classes=["a", "b"]),
    ):
        if name == "arrow.py_extension_type":  # which nobody registers: plain bytes
            with suppress(BaalRayError, pa.ArrowInvalid):
                read()
        else:
            with pytest.raises(BaalRayError, match="a column of pickled Python objects"):
                read()
    assert not canary.exists()
    pq.read_table(file).to_pylist()
    assert canary.exists() == (name == "ray.data.arrow_pickled_object")


def open_and_read(file):
    with open_parquet(file) as parquet:
        for batch in parquet.iter_batches():
            yield batch.to_pylist()


def test_bytes_that_are_no_parquet():
    for data in (b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"<html>"):
        with pytest.raises(CorruptFileError, match=r"a\.parquet is not a complete Parquet file"):
            LoadedParquet(data, "a.parquet")


def test_some_rows_of_some_columns_are_read_from_their_row_groups_alone():
    table = pa.table({"id": list("abcdefg"), "score": np.arange(7.0), "other": [None] * 7})
    data = parquet_bytes(table, rows_per_group=3)
    file = LoadedParquet(data, "a.parquet")
    for number in range(2**7):
        rows = np.array([number >> row & 1 for row in range(7)], dtype=bool)
        assert file.read(["score", "id", "none"], rows).equals(
            table.select(["id", "score"]).filter(pa.array(rows))
        )
    assert file.read(["other"]).equals(table.select(["other"]))

    id_of_second_group = file._file.metadata.row_group(1).column(0)
    at = id_of_second_group.data_page_offset + id_of_second_group.total_compressed_size - 1
    rotten = LoadedParquet(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "a.parquet")
    assert rotten.read(["id"], np.arange(7) < 3)["id"].to_pylist() == list("abc")
    with pytest.raises(CorruptFileError, match=r"a\.parquet is not a complete Parquet file"):
        rotten.read(["id"], np.arange(7) < 4)
