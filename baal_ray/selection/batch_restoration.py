"""Restoration of acquisition batches: images that were lost are fetched from the pool again."""

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.errors import LostFileError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.pool import PoolListing
from baal_ray.selection.batch_files import write_batch
from baal_ray.workspace import batch_uri
from baal_ray.workspace.batches import batch_files, read_batch
from baal_ray.workspace.table_schemas import ACQUIRED, LABELLED, SELECTION

logger = logging.getLogger(__name__)

_MOST_NAMED = 5


def restore_batches(config: RoundConfig, listing: PoolListing, manifest: Manifest) -> None:
    """Fetch every image that the manifest needs but no intact batch file holds.

    Damaged files are deleted once all their images are there.

    Raises:
        StorageError: If an image is not in the pool any more, or cannot be read.
    """
    rows = manifest.rows()
    needed = rows.filter(pc.is_in(rows["status"], pa.array([ACQUIRED, LABELLED])))
    for round_id in pc.unique(needed["round"]).to_pylist():
        folder = batch_uri(config.workspace, round_id)
        held, damaged = _held(batch_files(folder))
        missing = pc.invert(pc.is_in(needed["id"], held))
        lost = needed.filter(pc.and_(pc.equal(needed["round"], round_id), missing))
        if len(lost):
            write_rows(config, listing, lost, round_id)
            logger.warning("%d lost images of round %s were fetched again", len(lost), round_id)
        for file in damaged:
            storage.delete(file)


def write_rows(
    config: RoundConfig, listing: PoolListing, rows: pa.Table, round_id: str
) -> list[str]:
    """Write rows of the manifest, with their images from the pool, to the batch of their round.

    Returns:
        The files written.

    Raises:
        StorageError: If an image is not in the pool any more, or cannot be read.
    """
    # Images that were imported with their labels have neither a rank nor a rule.
    columns = {name: rows[name] for name in ("id", "source", "score", "model")} | {
        "rank": pc.if_else(rows["rank"].is_null(), pa.array(range(len(rows))), rows["rank"]),
        "rule": pc.fill_null(rows["rule"], "labelled_set"),
        "predicted": pa.nulls(len(rows)),
    }
    selection = pa.table({name: columns[name] for name in SELECTION.names}).cast(SELECTION)
    folder = batch_uri(config.workspace, round_id)
    files = write_batch(listing, selection, folder, config)
    gone = set(selection["id"].to_pylist()) - set(read_batch(files)["id"].to_pylist())
    if gone:
        raise StorageError(
            f"{len(gone)} images of round {round_id}, such as "
            f"{', '.join(map(repr, sorted(gone)[:_MOST_NAMED]))}, are neither in {folder} nor in "
            "the pool. Restore that folder from a backup, or remove the images from the workspace "
            "with `baal-ray forget`"
        )
    return files


def _held(files: Sequence[str]) -> tuple[pa.Array, list[str]]:
    """Return the ids in the intact files, and the damaged files."""
    held: list[str] = []
    damaged = []
    for file in files:
        try:
            held += read_batch([file])["id"].to_pylist()
        except LostFileError:
            damaged.append(file)
    return pa.array(held, pa.string()), damaged
