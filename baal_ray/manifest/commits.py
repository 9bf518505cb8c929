"""Changes to the manifest as compare-and-swap.

Each change is checked against the table at some version, and merged at that very version. If
another process committed in between, Delta refuses the merge, and the change is checked and merged
again at the new version. So no change is lost, none is made twice, and a reader sees all of a
change or nothing.
"""

import secrets
import time
from collections.abc import Callable

import pyarrow as pa

from baal_ray.errors import ManifestError
from baal_ray.manifest.data_files import delete_forgotten
from baal_ray.manifest.versioned_table import Snapshot, VersionedTable

#: The most tries of one change, and the bounds of the waits between them: on average half a minute
#: in all.
_TRIES = 16
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 8.0


def commit(
    table: VersionedTable,
    change: str,
    plan: Callable[[pa.Table], pa.Table],
    *,
    delete: bool = False,
) -> int:
    """Plan and merge a change on the latest version, until no other process commits first.

    Args:
        table: The manifest's table. It is created if there is none yet.
        change: Name of the change for the history.
        plan: Function from all rows to the rows to merge. It raises an error if the change is not
            allowed.
        delete: Whether the planned rows are deleted.

    Returns:
        The number of planned rows.

    Raises:
        ManifestError: If other processes committed first each time. Nothing was written.
        StorageError: If the table cannot be read or written.
    """
    lost: Snapshot | None = None
    for attempt in range(_TRIES):
        found = table.read_latest()
        if lost is not None:
            delete_forgotten(table, lost, found)
        rows = plan(found.rows)
        if rows.num_rows == 0:
            return 0
        if found.opened is None:
            table.create()  # another process may have created and filled it by now: look again
            continue
        if table.merge(found.opened, rows, change, delete):
            return int(rows.num_rows)
        lost = found
        ceiling = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt)
        time.sleep(secrets.SystemRandom().uniform(0, ceiling))
    if lost is not None:
        delete_forgotten(table, lost, table.read_latest())
    raise ManifestError(
        f"{table.uri}: other processes committed first {_TRIES} times in a row; nothing was "
        "written. Run this again when fewer processes are writing."
    )
