"""Delta tables that others wrote, read by their log: the files that count, and their rows."""

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from baal_ray.errors import StorageError
from baal_ray.storage.delta_options import delta_options
from baal_ray.storage.files import join
from baal_ray.storage.remedies import explained
from baal_ray.storage.table_files import DeletedRows, TableFile

if TYPE_CHECKING:
    from deltalake import DeltaTable

#: The folder of a Delta table's log.
LOG = "_delta_log"

_READ = ("id", "image", "uri", "label", "labelled_by")
_IN_FILES = ("id", "image", "uri")


def delta_files(uri: str) -> tuple[list[TableFile], int]:
    """Return the data files of a Delta table's latest version, and the number of that version.

    Raises:
        StorageError: If the log cannot be read, or if the table has what is not read: files
            elsewhere, columns under other names, or a partition for each id or image.
    """
    from deltalake import DeltaTable  # late: most pools are no Delta tables

    try:
        table = DeltaTable(uri, storage_options=delta_options(os.environ))
        partitions = table.metadata().partition_columns
        actions = pa.table(table.get_add_actions()).sort_by("path").to_pylist()
        deleted = _deleted_rows(table)
        schema = json.loads(table.schema().to_json())
    except Exception as error:  # deltalake raises all kinds
        raise StorageError(explained(f"the Delta table {uri} cannot be read", error)) from error
    _check_columns(uri, schema, partitions)
    return [_file(uri, action, deleted) for action in actions], table.version()


def _file(uri: str, action: dict[str, Any], deleted: dict[str, DeletedRows]) -> TableFile:
    path, values = action["path"], action.get("partition") or {}
    if "://" in path or path.startswith("/"):
        raise StorageError(
            f"the Delta table {uri} refers to {path}, a file of another table, which is not read. "
            "Make a deep clone of it instead of a shallow one"
        )
    return TableFile(
        uri=join(uri, unquote(path)),
        deleted=deleted.get(path),
        values={
            name: None if value is None else str(value)
            for name, value in values.items()
            if name in _READ
        },
    )


def _deleted_rows(table: "DeltaTable") -> dict[str, DeletedRows]:
    """Return the deleted rows of each file that has some, by its path in the log."""
    vectors = pa.RecordBatchReader.from_stream(table.deletion_vectors()).read_all()
    paths, masks = vectors["filepath"].to_pylist(), vectors["selection_vector"]
    return {
        path.removeprefix(table.table_uri): DeletedRows.of(~np.array(kept.values, dtype=bool))
        for path, kept in zip(paths, masks, strict=True)
    }


def _check_columns(uri: str, schema: dict[str, Any], partitions: list[str]) -> None:
    for name in set(partitions) & set(_IN_FILES):
        raise StorageError(
            f"the Delta table {uri} is partitioned by `{name}`, which must be in its files. Write "
            "it again with other partitions"
        )
    for name, stored in _renamed(schema):
        raise StorageError(
            f"the Delta table {uri} stores its column `{name}` as `{stored}` (column mapping), "
            "which is not read. Copy it to a table without column mapping"
        )


def _renamed(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the columns that have another name in the files, of those that are read."""
    for field in schema["fields"]:
        kind = field["type"]
        inner = kind.get("fields", []) if isinstance(kind, dict) else []
        for column in [field, *inner] if field["name"] in _READ else []:
            stored = column["metadata"].get("delta.columnMapping.physicalName", column["name"])
            if stored != column["name"]:
                yield column["name"], stored
