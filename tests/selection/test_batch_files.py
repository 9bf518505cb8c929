import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.errors import LostFileError
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.batches import read_batch
from baal_ray.workspace.table_schemas import BATCH


def test_a_batch_file_that_is_rotten_or_missing_is_named(tmp_path):
    columns = {"id": ["a"], "rank": [1], "rule": ["random"], "image": [b"x"]}
    arrays = [pa.array(columns.get(field.name, [None]), field.type) for field in BATCH]
    file = publish_table(str(tmp_path), pa.table(arrays, schema=BATCH))
    assert read_batch([file])["id"].to_pylist() == ["a"]
    storage.publish(file, storage.read(file)[:100])
    with pytest.raises(LostFileError, match=f"{file} is damaged"):
        read_batch([file])
    storage.delete(file)
    with pytest.raises(LostFileError, match=f"{file} is missing"):
        read_batch([file])
