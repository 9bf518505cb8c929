"""Columns of images and their ids in others' Parquet files: the types that will do, made plain."""

from collections.abc import Iterator
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_BYTES = ("binary", "large_binary", "binary_view")
_TEXT = ("string", "large_string", "string_view")
_WANTED = {"image": "binary: encoded bytes", "id": "string", "uri": "string"}

Column: TypeAlias = pa.Array | pa.ChunkedArray


def column_fault(parquet: pq.ParquetFile, name: str, *, integer_ids: bool = False) -> str | None:
    """Return why a column cannot be used and what to do about it; None if it can.

    Args:
        parquet: The file.
        name: "id", "image" or "uri".
        integer_ids: Whether ids may be integers.
    """
    schema = parquet.schema_arrow
    count = schema.names.count(name)
    if not count:
        there = ", ".join(schema.names)
        return f"has no column `{name}`; it has {there}{_NO_ID * (name == 'id')}"
    if count > 1:
        return (
            f"has {count} columns `{name}`; there must be one. Write the file again with only one"
        )
    kind = _values(schema.field(name).type)
    of_type = f"has a column `{name}` of type {kind}; it must be {_WANTED[name]}"
    if name == "id" and pa.types.is_integer(kind):
        return None if integer_ids else f"{of_type}. {_CAST}"
    if name == "image" and _is_struct_of_bytes(kind):
        return _without_bytes(parquet)
    if str(kind) in (_BYTES if name == "image" else _TEXT):
        return None
    return f"{of_type}. Write the file again with that type"


_NO_ID = (
    ". Add one with a name of its own for each image; in a Hugging Face dataset, with "
    "map(lambda row, i: {'id': f'train-{i}'}, with_indices=True)"
)
_CAST = (
    "Set pool.integer_ids to true if the ids of all files are integers without leading zeros; "
    "they are then written in decimal. Otherwise write the file again with ids cast to strings"
)


def plain(rows: pa.RecordBatch | pa.Table) -> pa.Table:
    """Return rows with `id`, `uri`, and `image` as plain strings and bytes, whatever they were.

    Raises:
        ArrowInvalid: If a string is not UTF-8.
    """
    return pa.table(dict(_plain_columns(rows)))


def plain_ids(ids: Column) -> Column:
    """Return ids as strings, integers in decimal.

    Raises:
        ArrowInvalid: If an id is not UTF-8.
    """
    if pa.types.is_dictionary(ids.type) and pa.types.is_integer(ids.type.value_type):
        ids = ids.cast(ids.type.value_type)
    ids = ids.cast(pa.string())
    ids.validate(full=True)
    return ids


def _plain_columns(rows: pa.RecordBatch | pa.Table) -> Iterator[tuple[str, Column]]:
    for name in rows.schema.names:
        column = rows[name]
        if name == "id":
            column = plain_ids(column)
        elif name == "uri":
            column = column.cast(pa.string())
        elif name == "image":
            if pa.types.is_struct(column.type):
                column = pc.struct_field(column, "bytes")
            column = column.cast(pa.binary())
        yield name, column


def _values(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values; those of pandas' categories are in a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is that of images in Hugging Face's datasets."""
    return pa.types.is_struct(kind) and "bytes" in [
        field.name for field in kind if str(field.type) in _BYTES
    ]


def _without_bytes(parquet: pq.ParquetFile) -> str | None:
    """Return the fault of a file in which images have a path but no bytes, by its statistics."""
    bytes_, paths = _nulls(parquet, "image.bytes"), _nulls(parquet, "image.path")
    if bytes_ is None or paths is None or bytes_ <= paths:
        return None
    return (
        f"has {bytes_} images without bytes, {bytes_ - paths} or more of which have only a path; "
        "paths of another machine are not followed. Write the dataset again with "
        "`map(datasets.table.embed_table_storage, batched=True)` in its Arrow format, or with a "
        "column `uri` instead of `image`"
    )


def _nulls(parquet: pq.ParquetFile, leaf: str) -> int | None:
    """Return the number of nulls in a column; None if the statistics do not have it."""
    nulls = 0
    for group in map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        found = next((column for column in columns if column.path_in_schema == leaf), None)
        if found is None or found.statistics is None or not found.statistics.has_null_count:
            return None
        nulls += found.statistics.null_count
    return nulls
