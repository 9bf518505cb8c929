"""The labelled manifest: a Delta Lake table of every image ever acquired or labelled.

Every change is a compare-and-swap: read the table at some version, check the change against it,
merge at that very version. If another process committed in between, Delta refuses the merge, and
the change is checked and merged again on what is there now. So no change is lost, none is made
twice, and a reader sees all of one or nothing.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from baal_ray.errors import AlreadyAcquiredError, ManifestError, StorageError
from baal_ray.remedies import told
from baal_ray.schema import ACQUIRED, LABELLED, MANIFEST, RELEASED, STATUSES

#: Tries of one change and the bounds of the waits between them: on average half a minute in all.
_TRIES = 16
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 8.0

#: Time travel needs the whole log; Delta deletes entries older than 30 days by default.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false"}

_EXAMPLES = 5
_TEXT = (pa.string(), pa.large_string(), pa.string_view(), pa.null())


class Manifest:
    """The labelled manifest at a local path or a URI that Delta Lake opens (`s3://`, `gs://`).

    Every read sees the latest version, unless the manifest is kept `at` one. The store must have
    conditional writes, as local disks, S3, GCS and Azure do: without them two processes that
    commit at once could both believe that they won.

    Besides what they say themselves, all methods raise `StorageError` when the table cannot be
    read or written, and `ManifestError` when it is a Delta table of something else; a change
    raises `ManifestError` also when others kept committing first. Then nothing was written.
    """

    def __init__(self, uri: str, *, storage_options: dict[str, str] | None = None) -> None:
        """Name the table; nothing is opened yet, and it is created at the first write.

        Args:
            uri: where the table is.
            storage_options: passed to Delta Lake, which reads the environment as well.

        Raises:
            StorageError: the path is one that Delta Lake misreads.
        """
        if "://" not in uri and "%" in uri:  # Delta Lake decodes %20 where it reads, not writes
            raise StorageError(f"{uri!r} has a % in it; Delta Lake misreads it. Use another path.")
        self.uri = uri
        self._storage_options = storage_options
        self._pinned: int | None = None

    @property
    def version(self) -> int:
        """The version of the table, or -1 while it does not exist."""
        if self._pinned is not None:
            return self._pinned
        table = self._open()
        return -1 if table is None else int(table.version())

    def at(self, version: int) -> "Manifest":
        """The manifest as it was at a version, read-only; version -1 is empty.

        Raises:
            ManifestError: the table has no such version.
        """
        latest = self._latest().version
        if not -1 <= version <= latest:
            raise ManifestError(f"{self.uri} has no version {version}; it has -1 to {latest}")
        pinned = self._latest()
        pinned._pinned = version
        return pinned

    def acquire(self, batch: pa.Table, round_id: str) -> int:
        """Add an acquisition batch, all of it or nothing, once.

        Args:
            batch: column `id`, and where known `source`, `rank`, `score`, `rule` and `model`;
                others are ignored. Without `rank`, rows are ranked as they come, from 1.
            round_id: the acquisition round; committing it again with the same ids does nothing.

        Returns:
            The number of rows added, or acquired again after a release; 0 if all were there.

        Raises:
            AlreadyAcquiredError: some ids are in the manifest already and not released.
            ManifestError: an id is null or doubled, or the round is there with other ids.
        """
        names = ("source", "rank", "score", "rule", "model")
        columns = {"id": _ids(batch)} | {name: _column(batch, name) for name in names}
        if "rank" not in batch.column_names:
            columns["rank"] = pa.array(range(1, batch.num_rows + 1), pa.int32())
        rows = _new_rows(columns, round=round_id, status=ACQUIRED, acquired_at=datetime.now(UTC))
        return self._commit("acquire", lambda current: _addition(current, rows))

    def add_labelled(self, table: pa.Table, round_id: str, *, labelled_by: str | None) -> int:
        """Add images that come with their labels, all of them or nothing, once.

        Args:
            table: columns `id` and `label`, and where known `source`; others are ignored.
            round_id: names this labelled set; adding it again unchanged does nothing.
            labelled_by: who labelled them.

        Returns:
            The number of rows added; 0 if all were there.

        Raises:
            AlreadyAcquiredError: some ids are in the manifest already and not released.
            ManifestError: an id or label is null, an id is doubled, or the round is there with
                other ids or labels.
        """
        now = datetime.now(UTC)
        same = {"status": LABELLED, "labelled_by": labelled_by, "labelled_at": now}
        columns = {
            "id": _ids(table),
            "label": _column(table, "label", needed=True),
            "source": _column(table, "source"),
        }
        rows = _new_rows(columns, round=round_id, acquired_at=now, **same)
        return self._commit("add_labelled", lambda current: _addition(current, rows))

    def label(self, labels: pa.Table, *, overwrite: bool = False) -> int:
        """Label images that are in the manifest, all of them or none.

        Args:
            labels: columns `id` and `label`, and where known `labelled_by`; others are ignored.
            overwrite: replace labels that say otherwise. Rows that say the same are left alone.

        Returns:
            The number of rows changed.

        Raises:
            ManifestError: an id is null, doubled or not in the manifest, a label is null, or an
                image is labelled otherwise and `overwrite` is false.
        """
        columns = {"id": _ids(labels), "label": _column(labels, "label", needed=True)}
        answers = pa.table(columns | {"labelled_by": _column(labels, "labelled_by")})
        return self._commit("label", lambda current: _relabelling(current, answers, overwrite))

    def labelled(self) -> pa.Table:
        """The labelled images, sorted by id."""
        return self.rows(status=LABELLED)

    def rows(self, *, round_id: str | None = None, status: str | None = None) -> pa.Table:
        """The images of a round, with a status, or all of them, sorted by id.

        Raises:
            ManifestError: there is no such status.
        """
        if status is not None and status not in STATUSES:
            raise ManifestError(f"status is {status!r}; it must be one of {', '.join(STATUSES)}")
        table = self._read(self._open())
        if round_id is not None:
            table = table.filter(pc.equal(table["round"], round_id))
        if status is not None:
            table = table.filter(pc.equal(table["status"], status))
        return table.sort_by("id")

    def ids(self) -> pa.ChunkedArray:
        """The ids that the pool must leave out: all but the released ones."""
        return _kept_ids(self._read(self._open(), ("id", "status")))

    def history(self) -> list[dict[str, Any]]:
        """What happened to the table, newest first.

        Returns:
            For each version `version`, `timestamp` (UTC), `operation` (Delta's name), `change`
            (`acquire`, `add_labelled` or `label`), `round` (None for labels of several rounds)
            and `rows` (how many changed); the last three are None for what others did to it.
        """
        table = self._latest()._open()
        with _storage_errors(self.uri, "read"):
            entries = [] if table is None else table.history()
        # Counted from the oldest: Delta's own numbers are wrong when a commit comes in between.
        numbered = [(len(entries) - 1 - i, entry) for i, entry in enumerate(entries)]
        return [
            {
                "version": version,
                "timestamp": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
            }
            | {name: entry.get(name) for name in ("operation", "change", "round", "rows")}
            for version, entry in numbered
            if self._pinned is None or version <= self._pinned
        ]

    def _latest(self) -> "Manifest":
        return Manifest(self.uri, storage_options=self._storage_options)

    def _open(self) -> DeltaTable | None:
        """The table at the version to read, or None where there is none yet."""
        if self._pinned == -1:
            return None
        with _storage_errors(self.uri, "read"):
            try:
                return DeltaTable(self.uri, self._pinned, self._storage_options)
            except TableNotFoundError as error:
                if self._pinned is None and not str(error).startswith("Unknown scheme"):
                    return None
                raise

    def _read(self, table: DeltaTable | None, columns: tuple[str, ...] = ()) -> pa.Table:
        schema = pa.schema([MANIFEST.field(name) for name in columns or MANIFEST.names])
        if table is None:
            return schema.empty_table()
        lacking = ", ".join(sorted(set(MANIFEST.names) - {f.name for f in table.schema().fields}))
        if lacking:
            raise ManifestError(
                f"{self.uri} is a Delta table but no manifest: it lacks {lacking}. Give the "
                "manifest a folder of its own."
            )
        with _storage_errors(self.uri, "read"):
            # Rows are filtered after they are read: deltalake 1.6 gives pyarrow 26 the statistics
            # of longer strings as string_view, and a filter on such a column fails for that.
            return table.to_pyarrow_dataset().to_table(columns=schema.names).cast(schema)

    def _commit(self, change: str, plan: Callable[[pa.Table], pa.Table]) -> int:
        """Plan a change on the latest version and merge it there, until no one else came first."""
        if self._pinned is not None:
            where = f"{self.uri} at version {self._pinned}"
            raise ManifestError(f"{where} is read-only. Write to Manifest(uri).")
        for attempt in range(_TRIES):
            table = self._open()
            rows = plan(self._read(table))
            if rows.num_rows == 0:
                return 0
            if table is None:
                self._create()  # whoever else creates it may have filled it by now: look again
                continue
            if self._merge(table, rows, change):
                return int(rows.num_rows)
            ceiling = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt)
            time.sleep(secrets.SystemRandom().uniform(0, ceiling))
        raise ManifestError(
            f"{self.uri}: other processes committed first {_TRIES} times running; nothing was "
            "written. Run this again when fewer of them write."
        )

    def _merge(self, table: DeltaTable, rows: pa.Table, change: str) -> bool:
        """Whether the rows became the version right after the table's; if not, nothing did."""
        rounds = pc.unique(rows["round"]).to_pylist()
        round_id = rounds[0] if len(rounds) == 1 else None
        about = {"change": change, "round": round_id, "rows": rows.num_rows}
        # A retry inside Delta would commit to a version that the change was not checked against.
        properties = CommitProperties(custom_metadata=about, max_commit_retries=0)
        with _storage_errors(self.uri, "written"):
            try:
                table.merge(
                    rows, "new.id = old.id", "new", "old", commit_properties=properties
                ).when_matched_update_all().when_not_matched_insert_all().execute()
            except CommitFailedError:
                return False
        return True

    def _create(self) -> None:
        """Create the empty table; if another process does so first, its table is as good."""
        with _storage_errors(self.uri, "created"):
            try:
                DeltaTable.create(
                    self.uri,
                    MANIFEST,
                    configuration=_CONFIGURATION,
                    storage_options=self._storage_options,
                )
            except (DeltaError, OSError):
                if self._open() is None:
                    raise


def _addition(current: pa.Table, rows: pa.Table) -> pa.Table:
    """The rows of a round to add: none where the round is there already."""
    if rows.num_rows == 0:
        return rows
    there = current.filter(pc.equal(current["round"], rows["round"][0]))
    if there.num_rows:
        _refuse_other_ids(there, rows)
        _refuse_other_labels(_matching(there, rows), rows, "Change them with Manifest.label.")
        return rows.slice(0, 0)
    taken = rows["id"].filter(pc.is_in(rows["id"], _kept_ids(current)))
    if len(taken):
        raise AlreadyAcquiredError(taken.to_pylist())
    return rows


def _relabelling(current: pa.Table, answers: pa.Table, overwrite: bool) -> pa.Table:
    """The rows of answered images as they shall be, less those that are so now."""
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
    return _new_rows(columns, status=LABELLED, labelled_at=datetime.now(UTC))


def _new_rows(columns: dict[str, Any], **same: Any) -> pa.Table:
    """Manifest rows from columns and from values that all rows share; the rest is null."""
    if "round" in same and not same["round"]:
        raise ManifestError("round_id is empty; it must be a name, such as '2026-11-22'")
    count = len(columns["id"])
    filled = {f.name: pa.repeat(pa.scalar(same.get(f.name), f.type), count) for f in MANIFEST}
    filled |= columns
    return pa.table([filled[name] for name in MANIFEST.names], schema=MANIFEST)


def _matching(current: pa.Table, asked: pa.Table) -> pa.Table:
    """The manifest's rows for these ids, in their order."""
    found = pc.index_in(asked["id"], current["id"])
    if found.null_count:
        unknown = asked["id"].filter(pc.is_null(found))
        raise ManifestError(
            f"{len(unknown)} ids are not in the manifest ({_examples(unknown)}); only images that "
            "it holds can be labelled. Acquire them first, or leave them out."
        )
    return current.take(found)


def _refuse_other_ids(there: pa.Table, rows: pa.Table) -> None:
    new = rows["id"].filter(pc.invert(pc.is_in(rows["id"], there["id"])))
    if len(new) or rows.num_rows != there.num_rows:
        raise ManifestError(
            f"round {there['round'][0].as_py()!r} is in the manifest with {there.num_rows} ids, "
            f"but these are {rows.num_rows}, of which {len(new)} are not among them "
            f"({_examples(new)}); a round is committed once. Choose another round id."
        )


def _refuse_other_labels(before: pa.Table, answers: pa.Table, remedy: str) -> None:
    other = pc.and_(
        pc.equal(before["status"], LABELLED), pc.not_equal(before["label"], answers["label"])
    )
    ids, old, new = (c.filter(other) for c in (before["id"], before["label"], answers["label"]))
    if len(ids):
        triples = zip(*(c.slice(0, _EXAMPLES).to_pylist() for c in (ids, old, new)), strict=True)
        examples = ", ".join(f"{id!r} is {was!r}, not {now!r}" for id, was, now in triples)
        raise ManifestError(f"{len(ids)} images are labelled otherwise ({examples}). {remedy}")


def _kept_ids(rows: pa.Table) -> pa.ChunkedArray:
    return rows.filter(pc.not_equal(rows["status"], RELEASED))["id"]


def _ids(table: pa.Table) -> pa.Array:
    ids = _column(table, "id", needed=True)
    counts = ids.value_counts()
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        examples = _examples(doubled)
        raise ManifestError(f"{len(doubled)} ids are doubled ({examples}); each may be there once")
    return ids


def _column(table: pa.Table, name: str, *, needed: bool = False) -> pa.Array:
    """A column as the manifest has it; nulls where the table does not."""
    kind = MANIFEST.field(name).type
    if name not in table.column_names:
        if needed:
            raise ManifestError(f"column {name!r} is missing; there are {table.column_names}")
        return pa.nulls(table.num_rows, kind)
    column = table[name].combine_chunks()
    if needed and column.null_count:
        count = f"{column.null_count} of {len(column)} rows"
        raise ManifestError(f"column {name!r} is null in {count}. Leave these rows out.")
    given = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) and given not in _TEXT:
        raise ManifestError(f"column {name!r} is {given}; it must be string. Cast it first.")
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"column {name!r} is {given}; it must fit {kind}: {error}") from error


def _examples(ids: Any) -> str:
    return ", ".join(map(repr, ids.slice(0, _EXAMPLES).to_pylist()))


@contextmanager
def _storage_errors(uri: str, done: str) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError) as error:
        raise StorageError(told(f"the manifest {uri} cannot be {done}", error)) from error
