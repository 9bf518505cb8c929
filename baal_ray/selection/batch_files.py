"""The files of an acquisition batch: its images, fetched from the pool again by their ids."""

import pyarrow as pa

from baal_ray import images
from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.image_set import ImageSet
from baal_ray.pool import PoolListing, read_pool
from baal_ray.pool.listing import places
from baal_ray.storage.datasink import PublishedParquet, Written
from baal_ray.workspace.table_schemas import BATCH, EVALUATION_IMAGE

_BYTES_PER_FILE = 128 * 1024 * 1024


def write_batch(
    listing: PoolListing,
    selection: pa.Table,
    folder: str,
    config: RoundConfig,
    evaluation: ImageSet | None = None,
) -> list[str]:
    """Write the selected images to a folder, as encoded in the pool, with their rank and score.

    Args:
        listing: The pool.
        selection: Rows of `table_schemas.SELECTION`.
        folder: Folder of the batch. Other files in it do not matter.
        config: Configuration of the round.
        evaluation: Images that must not be in a batch.

    Returns:
        The files written. Selected images that they lack are no longer in the pool, cannot be
        decoded, or are evaluation images.
    """
    files: list[str] = []
    for place in places(listing, selection):
        written = _write(place, selection, folder, config, evaluation)
        files = written.files
        if written.rows == len(selection):
            break
    return files


def count_evaluation_images(
    listing: PoolListing, images: pa.Table, evaluation: ImageSet | None
) -> int:
    """Return how many images, given by `id` and `source`, are evaluation images by their bytes."""
    if not evaluation:
        return 0
    errors: dict[str, str | None] = {}
    for place in places(listing, images):
        pool = read_pool(place, only=IdSet.of(images["id"]), evaluation=evaluation)
        errors |= {
            row["id"]: row["error"] for row in pool.select_columns(["id", "error"]).take_all()
        }
        if len(errors) == len(images):
            break
    return list(errors.values()).count(EVALUATION_IMAGE)


def _write(
    listing: PoolListing,
    selection: pa.Table,
    folder: str,
    config: RoundConfig,
    evaluation: ImageSet | None,
) -> Written:
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
    pool = read_pool(listing, only=IdSet.of(selection["id"]), evaluation=evaluation)
    batch = pool.map_batches(join, batch_format="pyarrow")
    batch.write_datasink(sink, ray_remote_args={"num_cpus": 0})
    return sink.written
