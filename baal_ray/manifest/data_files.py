"""The manifest's data files that should not stay: those with forgotten images, and old ones."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.manifest.versioned_table import Snapshot, VersionedTable, storage_errors
from baal_ray.storage.parquet import open_parquet

#: The columns that tell the rows of an image apart, also if it is forgotten and acquired again.
KEY = ("id", "acquired_at")

# Entries of the log that are read beyond those between two snapshots, because others may commit
# meanwhile.
_MORE_ENTRIES = 16


def delete_forgotten(table: VersionedTable, lost: Snapshot, found: Snapshot) -> None:
    """Delete the data files that hold images which another process has forgotten meanwhile.

    A merge that lost to `forget` leaves a file that no version names. It may have appeared after
    `forget` looked for such files, so the loser looks again. Files are recognised by ids together
    with the times of acquisition: an image that is acquired again has a new one. So no file can
    match that a version since then names, or will name.

    Args:
        table: The manifest's table.
        lost: The version on which the merge was based.
        found: The latest version.
    """
    gone = lost.rows.filter(pc.invert(pc.is_in(lost.rows["id"], found.rows["id"]))).select(KEY)
    if gone.num_rows and _has_forgotten(table, lost, found):
        for file in storage.list_files(table.uri, ".parquet"):
            if _holds(file, gone):
                storage.delete(file)


def _has_forgotten(table: VersionedTable, lost: Snapshot, found: Snapshot) -> bool:
    """Return whether images were forgotten, and are not just missing in a restored version."""
    if lost.opened is None or found.opened is None:
        return False
    between = found.opened.version() - lost.opened.version()
    with storage_errors(table.uri, "read"):
        entries = found.opened.history(between + _MORE_ENTRIES)
    return any(entry.get("change") == "forget" for entry in entries)


def _holds(file: str, gone: pa.Table) -> bool:
    try:
        with open_parquet(file) as parquet:
            rows = parquet.read(list(KEY)).cast(gone.schema)
    except StorageError:
        if storage.exists(file):
            raise
        return False  # another process has just deleted it
    return bool(rows.join(gone, list(KEY), join_type="inner").num_rows)


def unneeded_files(table: VersionedTable, keep: Sequence[int]) -> list[str]:
    """Return the names of unneeded data files; arguments and result as for `Manifest`."""
    opened = table.open()
    if opened is None:
        return []
    # deltalake 1.6 fails unless they are sorted, and if one is no longer in the log.
    kept = sorted(version for version in set(keep) if version >= 0 and _is_there(table, version))
    with storage_errors(table.uri, "read"):
        return opened.vacuum(dry_run=True, full=True, keep_versions=kept or None)


def _is_there(table: VersionedTable, version: int) -> bool:
    try:
        return isinstance(table.open(version), DeltaTable)
    except StorageError:
        return False
