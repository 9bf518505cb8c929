"""Acquisition batches on disk, read back."""

from collections.abc import Collection, Iterable

import pyarrow as pa

from baal_ray import storage
from baal_ray.errors import CorruptFileError
from baal_ray.storage.parquet import LoadedParquet, open_parquet
from baal_ray.workspace.schema import SELECTION


def read_batch(files: Iterable[str]) -> pa.Table:
    """The rows of an acquisition batch without their images, in order of rank.

    Batches of earlier versions do not have `predicted`: it is null there.

    Raises:
        CorruptFileError: a file is torn or rotten.
        StorageError: a file is missing or cannot be read.
    """
    tables = [SELECTION.empty_table()]
    for file in files:
        try:
            data = storage.read_verified(file)
        except CorruptFileError as error:
            raise CorruptFileError(
                f"{file} is torn, truncated or rotten. Put back a whole copy of it; while the "
                "manifest has no picks of its round, you may delete the round's folder instead, "
                "and run it again."
            ) from error
        tables.append(LoadedParquet(data, file, verified=True).read(SELECTION.names))
    batch = pa.concat_tables(tables, promote_options="default")
    return batch.cast(SELECTION).sort_by("rank")


_ROWS_AT_A_TIME = 64


def encoded_images(files: Iterable[str], ids: Collection[str]) -> dict[str, bytes]:
    """Encoded images by id, of those ids that the files hold; a few rows are read at a time."""
    wanted, found = set(ids), dict[str, bytes]()
    for file in files:
        if len(found) == len(wanted):
            break
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=["id", "image"]):
                rows = zip(batch["id"].to_pylist(), batch["image"].to_pylist(), strict=True)
                found |= {image_id: image for image_id, image in rows if image_id in wanted}
    return found
