"""Readers of acquisition batches."""

from collections.abc import Collection, Iterable

import pyarrow as pa

from baal_ray import storage
from baal_ray.storage.parquet import LoadedParquet, open_parquet
from baal_ray.workspace.table_schemas import SELECTION

_ROWS_AT_A_TIME = 64


def batch_files(folder: str) -> list[str]:
    """Return the files of acquisition batches in a folder, each named by its sha256."""
    return list(filter(storage.is_named_by_sha256, storage.list_files(folder, ".parquet")))


def read_batch(files: Iterable[str]) -> pa.Table:
    """Read the rows of an acquisition batch without their images, in order of rank.

    Raises:
        LostFileError: If a file is missing or damaged.
        StorageError: If a file cannot be read.
    """
    tables = [SELECTION.empty_table()]
    for file in files:
        rows = LoadedParquet(storage.read_verified(file), file, verified=True)
        tables.append(rows.read(SELECTION.names).cast(SELECTION))
    return pa.concat_tables(tables).sort_by("rank")


def encoded_images(files: Iterable[str], ids: Collection[str]) -> dict[str, bytes]:
    """Return the encoded images of those ids that the files hold, by id.

    Only a few rows are in memory at a time.
    """
    wanted, found = set(ids), dict[str, bytes]()
    for file in files:
        if len(found) == len(wanted):
            break
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=["id", "image"]):
                rows = zip(batch["id"].to_pylist(), batch["image"].to_pylist(), strict=True)
                found |= {image_id: image for image_id, image in rows if image_id in wanted}
    return found
