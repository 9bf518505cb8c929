"""Delta tables as other engines write them: with deletion vectors and with column mapping.

deltalake writes neither, so the log is written here, by Delta Lake's protocol.
"""

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

_RFC_1924 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def write_delta(folder: Path | str, *parts: pa.Table, **options: Any) -> str:
    """Write a table with one version for each part, and return its path."""
    for part in parts:
        write_deltalake(str(folder), part, mode="append", **options)
    return str(folder)


def delete_rows(table: str, rows: Sequence[int], *, inline: bool) -> str:
    """Commit a version in which rows of the oldest file are deleted by a deletion vector.

    Args:
        table: Path of the table.
        rows: Positions in the file, counted from 0.
        inline: Whether the vector is in the log, not in a file of its own.

    Returns:
        The path of the file in the log.
    """
    actions = list(_actions(table))
    add = next(action["add"] for action in actions if "add" in action)
    metadata = next(action["metaData"] for action in actions if "metaData" in action)
    metadata["configuration"]["delta.enableDeletionVectors"] = "true"
    vector = _roaring(rows)
    described: dict[str, Any] = {"sizeInBytes": len(vector), "cardinality": len(rows)}
    if inline:
        described |= {"storageType": "i", "pathOrInlineDv": _z85(vector)}
    else:
        name = uuid.uuid4()
        framed = struct.pack(">i", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector))
        Path(table, f"deletion_vector_{name}.bin").write_bytes(b"\x01" + framed)
        described |= {"storageType": "u", "pathOrInlineDv": _z85(name.bytes), "offset": 1}
    removed = {"path": add["path"], "deletionTimestamp": 0, "dataChange": True}
    _commit(
        table,
        _protocol("deletionVectors"),
        {"metaData": metadata},
        {"remove": removed},
        {"add": add | {"deletionVector": described}},
    )
    return str(add["path"])


def write_mapped(folder: Path, rows: pa.Table, physical: dict[str, str]) -> str:
    """Write a table whose files call their columns by other names, as after a rename."""
    folder.mkdir()
    renamed = rows.rename_columns([physical[name] for name in rows.column_names])
    pq.write_table(renamed, folder / "part-0.parquet")
    types = {"string": "string", "binary": "binary"}
    fields = [
        {
            "name": field.name,
            "type": types[str(field.type)],
            "nullable": True,
            "metadata": {
                "delta.columnMapping.id": number,
                "delta.columnMapping.physicalName": physical[field.name],
            },
        }
        for number, field in enumerate(rows.schema, start=1)
    ]
    metadata = {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": [],
        "configuration": {
            "delta.columnMapping.mode": "name",
            "delta.columnMapping.maxColumnId": str(len(fields)),
        },
    }
    add = {
        "path": "part-0.parquet",
        "partitionValues": {},
        "size": (folder / "part-0.parquet").stat().st_size,
        "modificationTime": 0,
        "dataChange": True,
    }
    _commit(str(folder), _protocol("columnMapping"), {"metaData": metadata}, {"add": add})
    return str(folder)


def _protocol(feature: str) -> dict[str, Any]:
    versions = {"minReaderVersion": 3, "minWriterVersion": 7}
    return {"protocol": versions | {"readerFeatures": [feature], "writerFeatures": [feature]}}


def _log(table: str) -> list[Path]:
    return sorted(Path(table, "_delta_log").glob("*.json"))


def _actions(table: str) -> Iterator[dict[str, Any]]:
    for version in _log(table):
        yield from map(json.loads, version.read_text().splitlines())


def _commit(table: str, *actions: dict[str, Any]) -> None:
    version = Path(table, "_delta_log", f"{len(_log(table)):020}.json")
    version.parent.mkdir(exist_ok=True)
    version.write_text("".join(json.dumps(action) + "\n" for action in actions))


def _roaring(rows: Sequence[int]) -> bytes:
    """Return rows below 65,536 as a RoaringBitmapArray in its portable format."""
    bitmaps, key, containers = 1, 0, 1
    magic = struct.pack("<iqi", 1681511377, bitmaps, key)
    header = struct.pack("<iiHHI", 12346, containers, 0, len(rows) - 1, 16)
    return magic + header + struct.pack(f"<{len(rows)}H", *sorted(rows))


def _z85(data: bytes) -> str:
    padded = data + b"\0" * (-len(data) % 4)
    return base64.b85encode(padded).decode().translate(str.maketrans(_RFC_1924, _Z85))
