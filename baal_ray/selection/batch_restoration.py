"""Restoration of acquisition batches: images that were lost are fetched from the pool again."""

import logging

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
        files = batch_files(batch_uri(config.workspace, round_id))
        of_round = needed.filter(pc.equal(needed["round"], round_id))
        restore_batch(config, listing, of_round, round_id)
        for file in files:
            if _ids_in(file) is None:
                storage.delete(file)


def restore_batch(
    config: RoundConfig, listing: PoolListing, rows: pa.Table, round_id: str
) -> list[str]:
    """Fetch the images of a batch that no intact file of it holds.

    Args:
        config: Configuration of a round.
        listing: The pool.
        rows: The batch's rows in the manifest.
        round_id: Name of the batch's round.

    Returns:
        The files that hold the rows: intact ones, and a new one for what was lost.

    Raises:
        StorageError: If an image is not in the pool any more, or cannot be read.
    """
    wanted, held, files = set(rows["id"].to_pylist()), set[str](), []
    for file in batch_files(batch_uri(config.workspace, round_id)):
        ids = _ids_in(file)
        if ids and ids & wanted:
            files.append(file)
            held |= ids
    lost = rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(sorted(held), pa.string()))))
    if len(lost):
        files += _write(config, listing, lost, round_id)
        logger.warning("%d lost images of round %s were fetched again", len(lost), round_id)
    return files


def _write(config: RoundConfig, listing: PoolListing, rows: pa.Table, round_id: str) -> list[str]:
    """Write rows of the manifest, with their images from the pool, to the batch of their round."""
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


def _ids_in(file: str) -> set[str] | None:
    """Return the ids in a file of a batch; None if it is damaged."""
    try:
        return set(read_batch([file])["id"].to_pylist())
    except LostFileError:
        return None
