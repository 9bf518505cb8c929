"""Compaction of the manifest: few files instead of many, because each costs requests to read."""

import logging

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError

from baal_ray.errors import BaalRayError
from baal_ray.manifest.data_files import KEY, delete_forgotten
from baal_ray.manifest.versioned_table import NO_CHECKPOINT, Snapshot, VersionedTable
from baal_ray.storage.remedies import explained

logger = logging.getLogger(__name__)

#: The most small files that are left alone. Each acquisition batch adds one.
_MOST_SMALL_FILES = 8

#: The size up to which a file is small. A label rewrites the files that hold its images, so files
#: should not be as large as Delta Lake's default of 100 MB.
_SMALL_BYTES = 16 * 2**20


def compact(table: VersionedTable) -> bool:
    """Rewrite small data files as one, if there are many.

    No row changes. Files of earlier versions stay until `prune` or `forget` removes them. If
    another process commits first, or the store fails, everything stays as it was.

    Returns:
        Whether the files were rewritten.
    """
    try:
        opened = table.open()
        if opened is None or _small_files(opened) <= _MOST_SMALL_FILES:
            return False
        before = Snapshot(opened, table.read(opened, KEY))
    except BaalRayError as error:
        logger.info("the manifest was not compacted: %s", error)
        return False
    try:
        opened.optimize.compact(
            target_size=_SMALL_BYTES,
            commit_properties=CommitProperties(
                custom_metadata={"change": "compact"}, max_commit_retries=0
            ),
            post_commithook_properties=NO_CHECKPOINT,
        )
    except (DeltaError, OSError) as error:
        logger.info(explained(f"the manifest {table.uri} was not compacted", error))
        _clean_up(table, before)
        return False
    table.checkpoint_if_due(opened)
    return True


def _small_files(opened: DeltaTable) -> int:
    sizes: list[int] = pa.table(opened.get_add_actions())["size_bytes"].to_pylist()
    return sum(size < _SMALL_BYTES for size in sizes)


def _clean_up(table: VersionedTable, before: Snapshot) -> None:
    """Delete the file written in vain if it holds images that were forgotten meanwhile."""
    try:
        delete_forgotten(table, before, table.read_latest(KEY))
    except BaalRayError as error:
        logger.warning("run `baal-ray forget` again: %s", error)
