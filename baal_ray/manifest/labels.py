"""Import of labels from annotators' files, and export of files for annotators."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from baal_ray import storage
from baal_ray.errors import ManifestError, UnfinishedRoundError
from baal_ray.manifest.changes import rounds_of
from baal_ray.manifest.label_files import (
    COLUMNS,
    Answer,
    check_class,
    extension_of,
    neutralised,
    read_answers,
    read_ids,
    refuse,
)
from baal_ray.manifest.table import Manifest
from baal_ray.workspace.rounds import unfinished_rounds
from baal_ray.workspace.table_schemas import ACQUIRED, LABELLED

# The exported columns. Score, rule and model are not among them, because a label should not depend
# on how an image was picked, or why.
_EXPORTED = ("id", "source", "round", "rank", "status", "label", "labelled_by")


@dataclass(frozen=True)
class LabelImport:
    """The number of rows of a label file that were imported, and of those that were not."""

    imported: int
    unchanged: int  #: the manifest already had this label
    skipped: int  #: the manifest does not have this image
    unanswered: int  #: the row has no label yet

    def summary(self) -> str:
        """Return the counts in one line."""
        return (
            f"{self.imported} labels imported, {self.unchanged} unchanged, "
            f"{self.skipped} unknown ids skipped, {self.unanswered} rows without a label"
        )


def import_labels(
    manifest: Manifest,
    path: str,
    *,
    classes: Sequence[str],
    labelled_by: str | None = None,
    overwrite: bool = False,
    skip_unknown: bool = False,
) -> LabelImport:
    """Put the labels of a file into the manifest, all of them or none.

    Args:
        manifest: Manifest that has the images.
        path: `.csv`, `.parquet`, `.jsonl` or `.ndjson` file, local or at a URI, with columns `id`,
            `label` and optionally `labelled_by`. Other columns are ignored, and so are rows
            without a label.
        classes: Labels that are allowed.
        labelled_by: Name of whoever labelled the images, instead of the file's own column.
        overwrite: Whether to replace labels that differ.
        skip_unknown: Whether to skip ids that the manifest does not have. Otherwise they are
            faults.

    Raises:
        LabelError: If anything is wrong with the file. The error lists every fault, and nothing
            was written.
        ManifestError: If another process labelled some of the images in between. Nothing was
            written.
        StorageError: If the file cannot be read, or the manifest cannot be read or written.
    """
    faults: list[str] = []
    rows = list(read_answers(path, faults))
    answered = [row for row in rows if row.label is not None]
    there = in_manifest(manifest, rows)
    while True:
        padded = _zero_padded(manifest, [row for row in answered if row.id not in there])
        known = [row for row in answered if row.id in there or not skip_unknown]
        lost_zeros = [
            f"{row.where}: id {row.id!r} is not in the manifest, but {padded[row.id]!r} is: its "
            "zeros were lost. Read and write ids as text, in pandas with dtype={'id': str}"
            for row in answered
            if row.id in padded
        ]
        others = [row for row in known if row.id not in padded]
        refuse(path, [*faults, *lost_zeros, *_faults(others, there, classes, overwrite)])
        try:
            imported = manifest.label(answer_table(known, labelled_by), overwrite=overwrite)
            break
        except ManifestError:
            before, there = there, in_manifest(manifest, rows)
            if there.keys() == before.keys():
                raise  # otherwise some images were forgotten meanwhile
    return LabelImport(
        imported=imported,
        unchanged=len(known) - imported,
        skipped=len(answered) - len(known),
        unanswered=len(rows) - len(answered),
    )


def _faults(
    rows: Sequence[Answer],
    there: dict[str, dict[str, Any]],
    classes: Sequence[str],
    overwrite: bool,
) -> list[str]:
    """Return the faults of answered rows, compared with those that are in the manifest."""
    faults: list[str] = []
    for row in rows:
        check_class(row, classes, faults)
        if row.id not in there:
            faults.append(f"{row.where}: id {row.id!r} is not in the manifest")
        elif not overwrite:
            check_same(row, there[row.id], faults)
    return faults


def release_images(
    manifest: Manifest, workspace: str, *, path: str | None = None, round_id: str | None = None
) -> int:
    """Give images that nobody labelled back to the pool, all of them or none.

    Args:
        manifest: Manifest that has the images.
        workspace: Workspace of the manifest.
        path: File with a column `id`, of a kind that `import_labels` reads, that names the images.
        round_id: Id of the round whose waiting images are released if no file is given.

    Returns:
        The number of images released. Images released before are left alone.

    Raises:
        LabelError: If anything is wrong with the file. The error lists every fault.
        ManifestError: If an image is not waiting for a label, or is not in the manifest.
        UnfinishedRoundError: If the round that acquired the images could not finish without them.
        StorageError: If the file cannot be read, or the manifest cannot be read or written.
    """
    waiting = manifest.rows(round_id=round_id, status=ACQUIRED)
    ids = waiting["id"] if path is None else pa.array(read_ids(path), pa.string())
    rounds = waiting.filter(pc.is_in(waiting["id"], ids))["round"].to_pylist()
    needed_by = sorted(set(rounds) & set(unfinished_rounds(workspace)))
    if needed_by:
        raise UnfinishedRoundError(needed_by)
    return manifest.release(pa.table({"id": ids}))


def reject_images(manifest: Manifest, path: str) -> int:
    """Mark images that cannot be labelled, so that they are not picked again, all or none.

    Args:
        manifest: Manifest that has the images.
        path: File with a column `id`, of a kind that `import_labels` reads, that names the images.

    Returns:
        The number of images rejected. Images rejected before are left alone.

    Raises:
        LabelError: If anything is wrong with the file. The error lists every fault.
        ManifestError: If an image is not waiting for a label, or is not in the manifest.
        StorageError: If the file cannot be read, or the manifest cannot be read or written.
    """
    return manifest.reject(pa.table({"id": pa.array(read_ids(path), pa.string())}))


def export_labels(
    manifest: Manifest, path: str, *, status: str | None = ACQUIRED, round_id: str | None = None
) -> int:
    """Write a file of images for annotators, oldest round first and each round in order of rank.

    With its label column filled in, the file is ready for `import_labels`.

    Args:
        manifest: Manifest that has the images.
        path: `.csv`, `.parquet`, `.jsonl` or `.ndjson` file to write, local or at a URI.
        status: Status of the images to write, or None for all.
        round_id: Id of the round whose images to write, or None for all rounds.

    Returns:
        The number of images written.

    Raises:
        LabelError: If the file's extension is not one of these.
        ManifestError: If there is no such status.
        StorageError: If the manifest cannot be read or the file cannot be written.
    """
    extension = extension_of(path)
    rows = manifest.rows(round_id=round_id, status=status)
    age = pc.index_in(rows["round"], pa.array(rounds_of(rows), pa.string()))
    order = rows.append_column("age", age)
    order = pc.sort_indices(
        order, [(name, "ascending") for name in ("age", "round", "rank", "id")]
    )
    storage.publish(path, _serialised(rows.select(_EXPORTED).take(order), extension))
    return int(rows.num_rows)


def _zero_padded(manifest: Manifest, unknown: Sequence[Answer]) -> dict[str, str]:
    """Return the manifest's ids that are unknown ids with zeros in front, by unknown id."""
    lost = {row.id for row in unknown if row.id.isdecimal()}
    ids = manifest.rows()["id"].to_pylist() if lost else []
    stripped = {id.lstrip("0"): id for id in ids if id.isdecimal()}
    return {id: stripped[id] for id in lost & stripped.keys()}


def check_same(row: Answer, there: dict[str, Any], faults: list[str]) -> None:
    """Note a label that differs from the one in the manifest."""
    if there["status"] == LABELLED and there["label"] != row.label:
        before = f"{row.id!r} is already labelled {there['label']!r}, not {row.label!r}"
        faults.append(f"{row.where}: {before}; use overwrite to change it")


def in_manifest(manifest: Manifest, rows: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Return the round, status and label of those rows that are in the manifest, by id."""
    table = manifest.rows().select(["id", "round", "status", "label"])
    found = table.filter(pc.is_in(table["id"], pa.array([row.id for row in rows], pa.string())))
    return {entry.pop("id"): entry for entry in found.to_pylist()}


def answer_table(rows: Sequence[Answer], labelled_by: str | None = None) -> pa.Table:
    """Return the rows as a table of `COLUMNS`, for the manifest."""
    who = [labelled_by or row.labelled_by for row in rows]
    columns = ([row.id for row in rows], [row.label for row in rows], who)
    return pa.table([pa.array(c, pa.string()) for c in columns], names=list(COLUMNS))


def _neutralised(rows: pa.Table) -> pa.Table:
    """Return rows whose texts no spreadsheet takes for formulas."""
    columns = [
        pa.array(map(neutralised, column.to_pylist()), column.type)
        if pa.types.is_string(column.type)
        else column
        for column in rows.columns
    ]
    return pa.table(columns, rows.column_names)


def _serialised(rows: pa.Table, extension: str) -> bytes:
    file = io.BytesIO()
    if extension == ".csv":
        pyarrow.csv.write_csv(_neutralised(rows), file)
    elif extension == ".parquet":
        pq.write_table(rows, file)
    else:
        for row in rows.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return file.getvalue()
