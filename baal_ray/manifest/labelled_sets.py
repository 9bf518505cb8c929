"""Import of an existing labelled set with its own images."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from baal_ray import images, storage
from baal_ray.config import ScoringConfig
from baal_ray.errors import ImageError, LabelError
from baal_ray.manifest.label_files import (
    Answer,
    Row,
    answers,
    check_class,
    refuse,
    table_rows,
)
from baal_ray.manifest.labels import answer_table, check_same, in_manifest
from baal_ray.manifest.table import Manifest
from baal_ray.storage.columns import column_fault
from baal_ray.storage.parquet import open_parquet, publish_table
from baal_ray.storage.redaction import redacted
from baal_ray.storage.table_files import TableFile
from baal_ray.storage.tables import find_table
from baal_ray.workspace import batch_uri
from baal_ray.workspace.table_schemas import BATCH, RELEASED

#: The most rows and bytes of one file of images, and the rows read at a time.
_FILE_ROWS = 10_000
_FILE_BYTES = 128 * 1024**2
_READ_ROWS = 16

# Side of the images decoded as a check. Whether decoding works does not depend on the size.
_SIDE = 32


def import_labelled_set(
    manifest: Manifest,
    path: str,
    *,
    workspace: str,
    classes: Sequence[str],
    round_id: str | None = None,
    labelled_by: str | None = None,
    max_pixels: int = ScoringConfig().max_pixels,
    integer_ids: bool = False,
) -> int:
    """Import images that are labelled already and not in the pool, all of them or none.

    The images are copied below `rounds/` in the workspace, like those of an acquisition round, a
    few at a time. They are added to the manifest once all of them are copied.

    Args:
        manifest: Manifest to add the images to.
        path: Parquet file, folder of Parquet files or Delta table, local or at a URI, with columns
            `id`, `image` (encoded bytes) and `label`. Other columns are ignored.
        workspace: Workspace of the manifest.
        classes: Labels that are allowed.
        round_id: Name of this labelled set, by default derived from its ids and labels. The same
            set is imported only once.
        labelled_by: Name of whoever labelled the images.
        max_pixels: Largest number of pixels of an image, as `scoring.max_pixels` for the pool.
        integer_ids: Whether ids may be integers, as `pool.integer_ids` says.

    Returns:
        The number of images imported, or 0 if all of them were there before.

    Raises:
        LabelError: If anything is wrong with the set, such as an image that cannot be decoded. The
            error lists every fault, and nothing was written.
        ManifestError: If another process imported some of the images in between.
        StorageError: If a file cannot be read or written.
    """
    faults: list[str] = []
    files = find_table(path).files or [TableFile(uri=path)]
    rows = list(answers(_set_rows(files, integer_ids, faults), faults))
    for row in rows:
        check_class(row, classes, faults)
    refuse(path, faults)
    own_id = "labelled-" + _sha256(rows)[:12]
    round_id = round_id or own_id
    if _is_there(manifest, rows, round_id, faults):
        if round_id != own_id:  # otherwise labels that differ were corrected after this import
            refuse(path, faults)
        return 0
    refuse(path, faults)
    refuse(path, list(_image_faults(files, rows, max_pixels)))
    folder = batch_uri(workspace, round_id)
    sources = pa.array(_copy_images(files, rows, folder), pa.string())
    table = answer_table(rows).append_column("source", sources)
    return manifest.add_labelled(table, round_id, labelled_by=labelled_by)


def _check_new(row: Answer, there: dict[str, dict[str, Any]], faults: list[str]) -> None:
    if row.id in there and there[row.id]["status"] != RELEASED:
        before = there[row.id]["round"]
        faults.append(f"{row.where}: {row.id!r} is already in the manifest, in round {before!r}")


def _set_rows(files: Sequence[TableFile], integer_ids: bool, faults: list[str]) -> Iterator[Row]:
    for file in files:
        of = f"{redacted(storage.name(file.uri))} "
        with open_parquet(file.uri) as parquet:
            found = [column_fault(parquet, "image")]
            if parquet.schema_arrow.names.count("id") == 1:  # otherwise `table_rows` says so
                found.append(column_fault(parquet, "id", integer_ids=integer_ids))
        faults += [f"{of}schema: it {fault}" for fault in found if fault]
        yield from table_rows(file, faults, of=of)


def _sha256(rows: Sequence[Answer]) -> str:
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: row.id):
        digest.update(json.dumps([row.id, row.label]).encode())
    return digest.hexdigest()


def _is_there(
    manifest: Manifest, rows: Sequence[Answer], round_id: str, faults: list[str]
) -> bool:
    """Return whether the manifest has the round with these rows. Contradictions are noted."""
    there = in_manifest(manifest, rows)
    count = int(manifest.rows(round_id=round_id).num_rows)
    in_round = [row for row in rows if there.get(row.id, {}).get("round") == round_id]
    if not count:
        for row in rows:
            _check_new(row, there, faults)
    elif count == len(in_round) == len(rows):
        for row in rows:
            check_same(row, there[row.id], faults)
    else:
        told = f"{count} ids, including {len(in_round)} of these {len(rows)}"
        faults.append(
            f"round {round_id!r} is already in the manifest with {told}; choose another round id"
        )
    return count > 0


def _image_faults(
    files: Sequence[TableFile], rows: Sequence[Answer], max_pixels: int
) -> Iterator[str]:
    """Yield the faults of the images, in the order of rows."""
    fault_of = partial(_image_fault, max_pixels=max_pixels)
    with ThreadPoolExecutor() as threads:  # decoders release the interpreter lock
        for _, these, found in _image_batches(files, rows):
            pairs = zip(found["image"].to_pylist(), found["error"].to_pylist(), strict=True)
            for row, fault in zip(these, threads.map(fault_of, pairs), strict=True):
                if fault is not None:
                    yield f"{row.where}: {row.id!r} {fault}"


def _image_fault(found: tuple[bytes | None, str | None], max_pixels: int) -> str | None:
    image, error = found
    if image is None:
        return f"cannot be read: {error}" if error else "has no image"
    try:
        images.decode(image, _SIDE, _SIDE, max_pixels=max_pixels)
    except ImageError as error:
        return f"cannot be decoded: {error}"
    return None


def _copy_images(files: Sequence[TableFile], rows: Sequence[Answer], folder: str) -> list[str]:
    """Copy the images to the folder, thousands per file, and return each image's source file."""
    sources: list[str] = []
    pending: list[pa.RecordBatch] = []
    size = 0
    for uri, these, found in _image_batches(files, rows):
        pictures = found["image"].combine_chunks()
        batch = _batch_rows(these, pictures, redacted(uri), len(sources) + 1)
        count = len(pending) * _READ_ROWS
        if pending and (size + batch.nbytes > _FILE_BYTES or count + _READ_ROWS > _FILE_ROWS):
            publish_table(folder, pa.Table.from_batches(pending, BATCH))
            pending, size = [], 0
        pending.append(batch)
        size += batch.nbytes
        sources += batch.column("source").to_pylist()
    publish_table(folder, pa.Table.from_batches(pending, BATCH))
    return sources


def _image_batches(
    files: Sequence[TableFile], rows: Sequence[Answer]
) -> Iterator[tuple[str, Sequence[Answer], pa.Table]]:
    """Yield `id`, `image` and `error`, a few at a time, with their file and their rows."""
    first = 0
    for file in files:
        for found in file.image_rows(_READ_ROWS):
            these = rows[first : first + len(found)]
            if found["id"].to_pylist() != [row.id for row in these]:
                raise LabelError(
                    redacted(file.uri), ["the file changed while it was read; import it again"]
                )
            yield file.uri, these, found
            first += len(found)
    if first < len(rows):
        raise LabelError(
            redacted(files[-1].uri), ["the file changed while it was read; import it again"]
        )


def _batch_rows(
    rows: Sequence[Answer], pictures: pa.Array, uri: str, first_rank: int
) -> pa.RecordBatch:
    columns = {
        "id": [row.id for row in rows],
        "source": [uri] * len(rows),
        "rank": range(first_rank, first_rank + len(rows)),
        "rule": ["labelled_set"] * len(rows),
    }
    nulls = [None] * len(rows)
    arrays = [pa.array(columns.get(f.name, nulls), f.type) for f in BATCH if f.name != "image"]
    return pa.RecordBatch.from_arrays([*arrays, pictures], schema=BATCH)
