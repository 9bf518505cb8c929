"""Fetch a few images of the pool again, by id."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from baal_ray import images, storage
from baal_ray.config import RoundConfig
from baal_ray.datasink import PublishedParquet, Written
from baal_ray.errors import CorruptFileError
from baal_ray.ids import IdSet
from baal_ray.parquet import LoadedParquet
from baal_ray.pool import read_pool
from baal_ray.pool_listing import PoolListing
from baal_ray.schema import BATCH, SELECTION

_BYTES_PER_FILE = 128 * 1024 * 1024


def write_batch(
    listing: PoolListing, selection: pa.Table, folder: str, config: RoundConfig
) -> list[str]:
    """Write the selected images to a folder, as encoded in the pool, with their rank and score.

    Args:
        listing: the pool.
        selection: rows of `schema.SELECTION`.
        folder: where else may be other files, which do not count.
        config: of the round.

    Returns:
        The files written. Images that they lack are gone from the pool by now, or cannot be
        decoded.
    """
    files: list[str] = []
    for place in places(listing, selection):
        written = _write(place, selection, folder, config)
        files = written.files
        if written.rows == len(selection):
            break
    return files


def places(listing: PoolListing, wanted: pa.Table) -> Iterator[PoolListing]:
    """Where in the pool to look for a few images, for `read_pool(place, only=ids)`.

    First come the files that they were in when they were scored. Then, for who has not found them
    all, the whole pool, as its files may have been renamed or rewritten since.

    Args:
        listing: the pool.
        wanted: their `id` and `source`.
    """
    if not len(wanted):
        return
    narrow = listing.only(set(wanted["source"].to_pylist()))
    yield narrow
    if narrow != listing:
        yield listing


def _write(listing: PoolListing, selection: pa.Table, folder: str, config: RoundConfig) -> Written:
    ranks = selection.drop_columns(["source"])

    def join(rows: pa.Table) -> pa.Table:
        _, faults = images.decode_many(
            rows["image"].to_pylist(),
            *config.model.image_size,
            max_pixels=config.scoring.max_pixels,
        )
        shown = rows.filter(pa.array([fault is None for fault in faults]))
        joined = ranks.join(shown.drop_columns(["error"]), keys="id", join_type="inner")
        return joined.select(BATCH.names).cast(BATCH)

    sink = PublishedParquet(folder, BATCH, bytes_per_file=_BYTES_PER_FILE)
    pool = read_pool(listing, only=IdSet.of(selection["id"]))
    batch = pool.map_batches(join, batch_format="pyarrow")
    batch.write_datasink(sink, ray_remote_args={"num_cpus": 0})
    return sink.written


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
