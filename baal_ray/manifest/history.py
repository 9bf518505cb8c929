"""The history of the manifest, as far as the table's log still has it."""

import logging
from datetime import UTC, datetime
from typing import Any

from baal_ray.manifest.versioned_table import VersionedTable, storage_errors

logger = logging.getLogger(__name__)


def history(table: VersionedTable, until: int | None) -> list[dict[str, Any]]:
    """Return what happened to a table up to a version, newest first; result as for `Manifest`."""
    opened = table.open()
    if opened is None:
        return []
    with storage_errors(table.uri, "read"):
        entries = opened.history()
    # Counted from the oldest: Delta's own numbers are wrong when a commit comes in between. Only
    # if the oldest are missing, the number of the opened version has to do.
    oldest = max(0, opened.version() + 1 - len(entries))
    if oldest:
        logger.warning(
            "the history of %s begins at version %d: another program has deleted the older "
            "entries of the table's log, which baal_ray never does",
            table.uri,
            oldest,
        )
    versions = range(oldest + len(entries) - 1, oldest - 1, -1)
    return [
        {
            "version": version,
            "timestamp": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
        }
        | {name: entry.get(name) for name in ("operation", "change", "round", "rows")}
        for version, entry in zip(versions, entries, strict=True)
        if until is None or version <= until
    ]
