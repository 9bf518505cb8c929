"""Labels in from annotators' files and out to them."""

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
from baal_ray.errors import UnfinishedRoundError
from baal_ray.manifest.label_files import (
    COLUMNS,
    Answer,
    check_class,
    extension_of,
    read_answers,
    read_ids,
    refuse,
)
from baal_ray.manifest.table import Manifest
from baal_ray.workspace.rounds import unfinished_rounds
from baal_ray.workspace.schema import ACQUIRED, LABELLED

# What does not tell how an image was picked, nor for what: a label should not depend on that.
_EXPORTED = ("id", "source", "round", "rank", "status", "label", "labelled_by")


@dataclass(frozen=True)
class LabelImport:
    """How many rows of a file of labels were new or changed, and what became of the others."""

    imported: int
    unchanged: int  #: the manifest had this label already
    skipped: int  #: the manifest does not have this image
    unanswered: int  #: there is no label yet


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
        manifest: where the images are.
        path: a `.csv`, `.parquet`, `.jsonl` or `.ndjson` file, local or at a URI, with columns
            `id`, `label` and perhaps `labelled_by`; others are ignored, and so are rows without
            a label.
        classes: the labels that may be.
        labelled_by: who labelled the images; without it, the file's own column says so.
        overwrite: replace labels that say otherwise.
        skip_unknown: leave out ids that the manifest does not have, where they are faults else.

    Raises:
        LabelError: everything that is wrong with the file; nothing was written.
        ManifestError: another process labelled some of the images in between; nothing was written.
        StorageError: the file cannot be read, or the manifest cannot be read or written.
    """
    faults: list[str] = []
    rows = list(read_answers(path, faults))
    there = in_manifest(manifest, rows)
    answered = [row for row in rows if row.label is not None]
    known = [row for row in answered if row.id in there or not skip_unknown]
    for row in known:
        check_class(row, classes, faults)
        if row.id not in there:
            faults.append(f"{row.where}: id {row.id!r} is not in the manifest")
        elif not overwrite:
            check_same(row, there[row.id], faults)
    refuse(path, faults)
    imported = manifest.label(answer_table(known, labelled_by), overwrite=overwrite)
    return LabelImport(
        imported=imported,
        unchanged=len(known) - imported,
        skipped=len(answered) - len(known),
        unanswered=len(rows) - len(answered),
    )


def release_images(
    manifest: Manifest, workspace: str, *, path: str | None = None, round_id: str | None = None
) -> int:
    """Give images that nobody labelled back to the pool, all of them or none.

    Args:
        manifest: where the images are.
        workspace: the workspace of the manifest.
        path: a file with a column `id`, as `import_labels` reads them, that says which.
        round_id: without a file, all of this round that wait for a label.

    Returns:
        The number of images released; those that were before are left alone.

    Raises:
        LabelError: everything that is wrong with the file.
        ManifestError: an image does not wait for a label, or is not in the manifest.
        UnfinishedRoundError: the round that acquired them could not finish without them.
        StorageError: the file cannot be read, or the manifest cannot be read or written.
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
        manifest: where the images are.
        path: a file with a column `id`, as `import_labels` reads them, that says which.

    Returns:
        The number of images rejected; those that were before are left alone.

    Raises:
        LabelError: everything that is wrong with the file.
        ManifestError: an image does not wait for a label, or is not in the manifest.
        StorageError: the file cannot be read, or the manifest cannot be read or written.
    """
    return manifest.reject(pa.table({"id": pa.array(read_ids(path), pa.string())}))


def export_labels(
    manifest: Manifest, path: str, *, status: str | None = ACQUIRED, round_id: str | None = None
) -> int:
    """Write a file of images for annotators, oldest round first, each in order of rank.

    With its label column filled in, the file is ready for `import_labels`.

    Args:
        manifest: where the images are.
        path: a `.csv`, `.parquet`, `.jsonl` or `.ndjson` file, local or at a URI.
        status: only images with this status; all of them with None.
        round_id: only images of this round.

    Returns:
        The number of images written.

    Raises:
        LabelError: the file's extension is not one of these.
        ManifestError: there is no such status.
        StorageError: the manifest cannot be read or the file cannot be written.
    """
    extension = extension_of(path)
    rows = manifest.rows(round_id=round_id, status=status)
    age = pc.index_in(rows["round"], pa.array(manifest.rounds(), pa.string()))
    order = rows.append_column("age", age)
    order = pc.sort_indices(
        order, [(name, "ascending") for name in ("age", "round", "rank", "id")]
    )
    storage.publish(path, _serialised(rows.select(_EXPORTED).take(order), extension))
    return int(rows.num_rows)


def check_same(row: Answer, there: dict[str, Any], faults: list[str]) -> None:
    """Note a label that differs from the one which the manifest has."""
    if there["status"] == LABELLED and there["label"] != row.label:
        before = f"{row.id!r} is labelled {there['label']!r} already, not {row.label!r}"
        faults.append(f"{row.where}: {before}; overwrite changes it")


def in_manifest(manifest: Manifest, rows: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Round, status and label of those of the rows that the manifest has, by id."""
    table = manifest.rows().select(["id", "round", "status", "label"])
    found = table.filter(pc.is_in(table["id"], pa.array([row.id for row in rows], pa.string())))
    return {entry.pop("id"): entry for entry in found.to_pylist()}


def answer_table(rows: Sequence[Answer], labelled_by: str | None = None) -> pa.Table:
    """The rows as a table of `COLUMNS`, for the manifest."""
    who = [labelled_by or row.labelled_by for row in rows]
    columns = ([row.id for row in rows], [row.label for row in rows], who)
    return pa.table([pa.array(c, pa.string()) for c in columns], names=list(COLUMNS))


def _serialised(rows: pa.Table, extension: str) -> bytes:
    file = io.BytesIO()
    if extension == ".csv":
        pyarrow.csv.write_csv(rows, file)
    elif extension == ".parquet":
        pq.write_table(rows, file)
    else:
        for row in rows.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return file.getvalue()
