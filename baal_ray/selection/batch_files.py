"""The files of an acquisition batch: its images, fetched from the pool again by their ids."""

import pyarrow as pa

from baal_ray import images
from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.pool import PoolListing, read_pool
from baal_ray.pool.listing import places
from baal_ray.storage.datasink import PublishedParquet, Written
from baal_ray.workspace.table_schemas import BATCH

_BYTES_PER_FILE = 128 * 1024 * 1024


def write_batch(
    listing: PoolListing, selection: pa.Table, folder: str, config: RoundConfig
) -> list[str]:
    """Write the selected images to a folder, as encoded in the pool, with their rank and score.

    Args:
        listing: The pool.
        selection: Rows of `table_schemas.SELECTION`.
        folder: Folder of the batch. Other files in it do not matter.
        config: Configuration of the round.

    Returns:
        The files written. Selected images that they lack are no longer in the pool, or cannot be
        decoded.
    """
    files: list[str] = []
    for place in places(listing, selection):
        written = _write(place, selection, folder, config)
        files = written.files
        if written.rows == len(selection):
            break
    return files


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
