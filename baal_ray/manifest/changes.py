"""Changes to the manifest: each is checked against its rows and returned as rows to write."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from baal_ray.errors import AlreadyAcquiredError, ManifestError
from baal_ray.workspace.table_schemas import ACQUIRED, LABELLED, MANIFEST, RELEASED, TIMESTAMP

_EXAMPLES = 5
_TEXT = (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def addition(current: pa.Table, rows: pa.Table) -> pa.Table:
    """Return the rows to add for a round, or no rows if the manifest already has the round."""
    if rows.num_rows == 0:
        return rows
    there = current.filter(pc.equal(current["round"], rows["round"][0]))
    if there.num_rows:
        _refuse_other_ids(there, rows)
        _refuse_other_labels(_matching(there, rows), rows, "Change them with Manifest.label.")
        return rows.slice(0, 0)
    taken = rows["id"].filter(pc.is_in(rows["id"], kept_ids(current)))
    if len(taken):
        raise AlreadyAcquiredError(taken.to_pylist())
    return _after(current, rows)


def _after(current: pa.Table, rows: pa.Table) -> pa.Table:
    """Return rows that are acquired after all others, even if this machine's clock is behind."""
    latest = pc.max(current["acquired_at"])
    if not latest.is_valid or latest.as_py() < rows["acquired_at"][0].as_py():
        return rows
    at = pa.repeat(pa.scalar(latest.as_py() + timedelta(microseconds=1), TIMESTAMP), rows.num_rows)
    return rows.set_column(rows.schema.get_field_index("acquired_at"), "acquired_at", at)


def relabelling(current: pa.Table, answers: pa.Table, overwrite: bool) -> pa.Table:
    """Return the rows of answered images with their labels, less those that have them already."""
    before = _matching(current, answers)
    if not overwrite:
        _refuse_other_labels(before, answers, "Pass overwrite=True to change them.")
    labelled = pc.equal(before["status"], LABELLED)
    same = pc.and_(labelled, pc.equal(before["label"], answers["label"]))
    changes = pc.invert(pc.fill_null(same, False))
    before, answers = before.filter(changes), answers.filter(changes)
    columns = {name: before[name] for name in MANIFEST.names}
    columns |= {name: answers[name] for name in ("label", "labelled_by")}
    del columns["status"], columns["labelled_at"]
    return new_rows(columns, status=LABELLED, labelled_at=datetime.now(UTC))


def settling(current: pa.Table, asked: pa.Table, status: str) -> pa.Table:
    """Return rows that wait for a label with a new status, less those that have it already."""
    before = _matching(current, asked)
    before = before.filter(pc.not_equal(before["status"], status))
    other = before.filter(pc.not_equal(before["status"], ACQUIRED))
    if len(other):
        pairs = other.slice(0, _EXAMPLES).select(["id", "status"]).to_pylist()
        examples = ", ".join(f"{row['id']!r} is {row['status']}" for row in pairs)
        raise ManifestError(
            f"{len(other)} images are not waiting for a label ({examples}); only waiting images "
            f"can be {status}. Leave the others out."
        )
    columns = {name: before[name] for name in MANIFEST.names if name != "status"}
    return new_rows(columns, status=status)


def new_rows(columns: dict[str, Any], **same: Any) -> pa.Table:
    """Return manifest rows from columns and from values that all rows share. The rest is null."""
    if "round" in same and not same["round"]:
        raise ManifestError("round_id is empty; it must be a name, such as '2026-11-22'")
    count = len(columns["id"])
    filled = {f.name: pa.repeat(pa.scalar(same.get(f.name), f.type), count) for f in MANIFEST}
    filled |= columns
    return pa.table([filled[name] for name in MANIFEST.names], schema=MANIFEST)


def _matching(current: pa.Table, asked: pa.Table) -> pa.Table:
    """Return the manifest's rows for these ids, in the order of the ids."""
    found = pc.index_in(asked["id"], current["id"])
    if found.null_count:
        unknown = asked["id"].filter(pc.is_null(found))
        raise ManifestError(
            f"{len(unknown)} ids are not in the manifest ({_examples(unknown)}); only images that "
            "it holds can be labelled, released or rejected. Leave them out."
        )
    return current.take(found)


def _refuse_other_ids(there: pa.Table, rows: pa.Table) -> None:
    new = rows["id"].filter(pc.invert(pc.is_in(rows["id"], there["id"])))
    if len(new) or rows.num_rows != there.num_rows:
        raise ManifestError(
            f"round {there['round'][0].as_py()!r} is in the manifest with {there.num_rows} ids, "
            f"but now it has {rows.num_rows} ids, {len(new)} of them new "
            f"({_examples(new)}); a round is committed only once. Choose another round id."
        )


def _refuse_other_labels(before: pa.Table, answers: pa.Table, remedy: str) -> None:
    other = pc.and_(
        pc.equal(before["status"], LABELLED), pc.not_equal(before["label"], answers["label"])
    )
    ids, old, new = (c.filter(other) for c in (before["id"], before["label"], answers["label"]))
    if len(ids):
        triples = zip(*(c.slice(0, _EXAMPLES).to_pylist() for c in (ids, old, new)), strict=True)
        examples = ", ".join(f"{id!r} is {was!r}, not {now!r}" for id, was, now in triples)
        raise ManifestError(
            f"{len(ids)} images already have a different label ({examples}). {remedy}"
        )


def rounds_of(rows: pa.Table) -> list[str]:
    """Return the rounds of some rows, in the order in which they were committed."""
    first = rows.group_by("round").aggregate([("acquired_at", "min")])
    ordered: list[str] = first.sort_by([("acquired_at_min", "ascending"), ("round", "ascending")])[
        "round"
    ].to_pylist()
    return ordered


def kept_ids(rows: pa.Table) -> pa.ChunkedArray:
    """Return the ids of all rows that were not released back to the pool."""
    return rows.filter(pc.not_equal(rows["status"], RELEASED))["id"]


def ids_of(table: pa.Table) -> pa.Array:
    """Return the column of ids, of which none may be null or duplicated."""
    ids = column(table, "id", needed=True)
    counts = ids.value_counts()
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        examples = _examples(doubled)
        raise ManifestError(f"{len(doubled)} ids are duplicated ({examples}); each must be unique")
    return ids


def column(table: pa.Table, name: str, *, needed: bool = False) -> pa.Array:
    """Return a column with the manifest's type, or nulls if the table does not have it."""
    kind = MANIFEST.field(name).type
    if name not in table.column_names:
        if needed:
            raise ManifestError(f"column {name!r} is missing; the table has {table.column_names}")
        return pa.nulls(table.num_rows, kind)
    values = table[name].combine_chunks()
    if needed and values.null_count:
        count = f"{values.null_count} of {len(values)} rows"
        raise ManifestError(f"column {name!r} is null in {count}. Leave these rows out.")
    given = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_string(kind) and given not in _TEXT:
        raise ManifestError(f"column {name!r} is {given}; it must be string. Cast it first.")
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"column {name!r} is {given}; it must fit {kind}: {error}") from error


def _examples(ids: Any) -> str:
    return ", ".join(map(repr, ids.slice(0, _EXAMPLES).to_pylist()))
