"""The labelled manifest: a Delta Lake table of every image ever acquired or labelled.

Every change is a compare-and-swap: it is checked against the table at some version, and merged at
that very version. If another process committed in between, Delta refuses the merge, and the change
is checked and merged again at the new version. So no change is lost, none is made twice, and a
reader sees all of a change or nothing.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from baal_ray import storage
from baal_ray.errors import FormatError, ManifestError, StorageError
from baal_ray.manifest.changes import (
    addition,
    column,
    ids_of,
    kept_ids,
    new_rows,
    relabelling,
    settling,
)
from baal_ray.storage.conditional_writes import check_conditional_writes
from baal_ray.storage.delta_options import delta_options
from baal_ray.storage.redaction import redacted
from baal_ray.storage.remedies import explained
from baal_ray.storage.uri_rules import broken_rule
from baal_ray.workspace.table_schemas import (
    ACQUIRED,
    LABELLED,
    MANIFEST,
    REJECTED,
    RELEASED,
    STATUSES,
)

#: The most tries of one change, and the bounds of the waits between them: on average half a minute
#: in all.
_TRIES = 16
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 8.0

#: The format of the table, a property that a table of format 1 may lack.
_FORMAT = "1"
_FORMAT_PROPERTY = "baal_ray.format"

#: Table settings. Time travel needs the whole log, but by default Delta deletes entries older than
#: 30 days. Delta would also write the first and last value of each column to the log, from which
#: no image could be forgotten.
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.dataSkippingNumIndexedCols": "0",
    _FORMAT_PROPERTY: _FORMAT,
    "baal_ray.task": "classification",
}


class Manifest:
    """The labelled manifest at a local path or a URI that Delta Lake opens (`s3://`, `gs://`).

    Every read sees the latest version, unless `at` pins the manifest to another. The store must
    have conditional writes, as local disks, S3, GCS and Azure do. Without them, two processes that
    commit at once could both believe that they won.

    Besides the errors they document, all methods raise `StorageError` if the table cannot be read
    or written, and `ManifestError` if it is a Delta table of something else. A change also raises
    `ManifestError` if other processes kept committing first. Nothing is written then.
    """

    def __init__(self, uri: str, *, storage_options: dict[str, str] | None = None) -> None:
        """Name the table. Nothing is opened yet, and the table is created at the first write.

        Args:
            uri: Location of the table.
            storage_options: Options for Delta Lake beyond those in the environment.

        Raises:
            StorageError: If Delta Lake would take the URI for another place than fsspec does.
        """
        if rule := broken_rule(uri):
            raise StorageError(redacted(f"the manifest is at {uri!r}; {rule}. Use another name."))
        self.uri = uri
        self._storage_options = delta_options(os.environ) | (storage_options or {})
        self._reached_by_fsspec = storage_options is None  # which knows only the environment
        self._pinned: int | None = None

    @property
    def version(self) -> int:
        """The version of the table, or -1 while it does not exist."""
        if self._pinned is not None:
            return self._pinned
        table = self._open()
        return -1 if table is None else int(table.version())

    def at(self, version: int) -> "Manifest":
        """Return the manifest as it was at a version, read-only. Version -1 is empty.

        Raises:
            ManifestError: If the table has no such version.
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
            batch: Table with column `id` and, if known, `source`, `rank`, `score`, `rule` and
                `model`. Other columns are ignored. Without `rank`, rows are ranked in their order,
                from 1.
            round_id: Id of the acquisition round. Committing it again with the same ids does
                nothing.

        Returns:
            The number of rows added, or acquired again after a release. It is 0 if all were there.

        Raises:
            AlreadyAcquiredError: If some ids are in the manifest already and not released.
            ManifestError: If an id is null or duplicated, or the round is there with other ids.
        """
        names = ("source", "rank", "score", "rule", "model")
        columns = {"id": ids_of(batch)} | {name: column(batch, name) for name in names}
        if "rank" not in batch.column_names:
            columns["rank"] = pa.array(range(1, batch.num_rows + 1), pa.int32())
        rows = new_rows(columns, round=round_id, status=ACQUIRED, acquired_at=datetime.now(UTC))
        return self._commit("acquire", lambda current: addition(current, rows))

    def add_labelled(self, table: pa.Table, round_id: str, *, labelled_by: str | None) -> int:
        """Add images that come with their labels, all of them or nothing, once.

        Args:
            table: Table with columns `id` and `label` and, if known, `source`. Other columns are
                ignored.
            round_id: Name of this labelled set. Adding it again unchanged does nothing.
            labelled_by: Name of whoever labelled the images.

        Returns:
            The number of rows added, or 0 if all were there.

        Raises:
            AlreadyAcquiredError: If some ids are in the manifest already and not released.
            ManifestError: If an id or label is null, an id is duplicated, or the round is there
                with other ids or labels.
        """
        now = datetime.now(UTC)
        same = {"status": LABELLED, "labelled_by": labelled_by, "labelled_at": now}
        columns = {
            "id": ids_of(table),
            "label": column(table, "label", needed=True),
            "source": column(table, "source"),
        }
        rows = new_rows(columns, round=round_id, acquired_at=now, **same)
        return self._commit("add_labelled", lambda current: addition(current, rows))

    def label(self, labels: pa.Table, *, overwrite: bool = False) -> int:
        """Label images that are in the manifest, all of them or none.

        Args:
            labels: Table with columns `id` and `label` and, if known, `labelled_by`. Other columns
                are ignored.
            overwrite: Whether to replace labels that differ. Rows that already have the label are
                left alone in any case.

        Returns:
            The number of rows changed.

        Raises:
            ManifestError: If an id is null, duplicated or not in the manifest, a label is null, or
                an image has a different label and `overwrite` is false.
        """
        columns = {"id": ids_of(labels), "label": column(labels, "label", needed=True)}
        answers = pa.table(columns | {"labelled_by": column(labels, "labelled_by")})
        return self._commit("label", lambda current: relabelling(current, answers, overwrite))

    def release(self, images: pa.Table) -> int:
        """Give images that wait for a label back to the pool, all of them or none.

        Args:
            images: Table with column `id`. Other columns are ignored.

        Returns:
            The number of rows changed. Rows that are released already are left alone.

        Raises:
            ManifestError: If an id is null, duplicated or not in the manifest, or an image is not
                waiting for a label.
        """
        ids = pa.table({"id": ids_of(images)})
        return self._commit("release", lambda current: settling(current, ids, RELEASED))

    def reject(self, images: pa.Table) -> int:
        """Mark images that wait for a label as unusable, so that they are not picked again.

        The arguments, result and errors are those of `release`.
        """
        ids = pa.table({"id": ids_of(images)})
        return self._commit("reject", lambda current: settling(current, ids, REJECTED))

    def forget(self, images: pa.Table) -> int:
        """Delete the rows of images. It is not an error if some are not there.

        The data files of earlier versions still have them.

        Args:
            images: Table with column `id`. Other columns are ignored.

        Returns:
            The number of rows deleted.
        """
        ids = ids_of(images)
        return self._commit(
            "forget", lambda current: current.filter(pc.is_in(current["id"], ids)), delete=True
        )

    def labelled(self) -> pa.Table:
        """Return the labelled images, sorted by id."""
        return self.rows(status=LABELLED)

    def rows(self, *, round_id: str | None = None, status: str | None = None) -> pa.Table:
        """Return the images of a round, with a status, or all images, sorted by id.

        Raises:
            ManifestError: If there is no such status.
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
        """Return the ids that the pool must leave out: all but the released ones."""
        return kept_ids(self._read(self._open(), ("id", "status")))

    def rounds(self) -> list[str]:
        """Return the rounds in the order in which they were committed, whatever clocks said."""
        events = reversed(self.history())
        came = (
            event["round"] for event in events if event["change"] in ("acquire", "add_labelled")
        )
        return list(dict.fromkeys(came))

    def history(self) -> list[dict[str, Any]]:
        """Return what happened to the table, newest first.

        Returns:
            For each version `version`, `timestamp` (UTC), `operation` (Delta's name), `change`
            (the name of the method), `round` (None if rows of several rounds changed) and `rows`
            (their number). The last three are None for changes made in other ways.
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

    def unneeded_files(self, *, keep: Sequence[int] = ()) -> list[str]:
        """Return the names of data files that no version needs, or only old ones.

        The names are relative to the table's folder. A version is old if it was replaced more than
        a week ago. Without these files, time travel to it is no longer possible.

        Args:
            keep: Versions that must stay readable, however old they are.
        """
        table = self._latest()._open()
        if table is None:
            return []
        # deltalake 1.6 fails unless they are sorted.
        kept = sorted({version for version in keep if version >= 0})
        with _storage_errors(self.uri, "read"):
            return table.vacuum(dry_run=True, full=True, keep_versions=kept or None)

    def _latest(self) -> "Manifest":
        return Manifest(self.uri, storage_options=self._storage_options)

    def _open(self) -> DeltaTable | None:
        """Return the table at the version to read, or None if there is none yet."""
        if self._pinned == -1:
            return None
        with _storage_errors(self.uri, "read"):
            try:
                table = DeltaTable(self.uri, self._pinned, self._storage_options)
            except TableNotFoundError as error:
                if self._pinned is None and not str(error).startswith("Unknown scheme"):
                    return None
                raise
            found = table.metadata().configuration.get(_FORMAT_PROPERTY, _FORMAT)
        if found != _FORMAT:
            raise FormatError(
                f"the manifest {self.uri} has format {found}, so another version of baal_ray "
                f"wrote it; this one reads format {_FORMAT}. Use that version"
            )
        return table

    def _read(self, table: DeltaTable | None, columns: tuple[str, ...] = ()) -> pa.Table:
        schema = pa.schema([MANIFEST.field(name) for name in columns or MANIFEST.names])
        if table is None:
            return schema.empty_table()
        lacking = ", ".join(sorted(set(MANIFEST.names) - {f.name for f in table.schema().fields}))
        if lacking:
            raise ManifestError(
                f"{self.uri} is a Delta table but not a manifest: it lacks {lacking}. Give the "
                "manifest a folder of its own."
            )
        with _storage_errors(self.uri, "read"):
            # Rows are filtered after they are read: deltalake 1.6 gives pyarrow 26 the statistics
            # of longer strings as string_view, and filters on such a column fail because of that.
            dataset = table.to_pyarrow_dataset(filesystem=self._local_files())
            return dataset.to_table(columns=schema.names).cast(schema)

    def _local_files(self) -> pyarrow.fs.FileSystem | None:
        """Return Arrow's own file system of a local table, or None for others.

        Delta's file system calls Python from threads as the process ends.
        """
        fs, path = storage.arrow_filesystem(self.uri)
        local = isinstance(fs, pyarrow.fs.LocalFileSystem)
        return pyarrow.fs.SubTreeFileSystem(path, fs) if local else None

    def _commit(
        self, change: str, plan: Callable[[pa.Table], pa.Table], *, delete: bool = False
    ) -> int:
        """Plan and merge a change on the latest version, until no other process commits first."""
        if self._pinned is not None:
            where = f"{self.uri} at version {self._pinned}"
            raise ManifestError(f"{where} is read-only. Write to Manifest(uri).")
        for attempt in range(_TRIES):
            table = self._open()
            rows = plan(self._read(table))
            if rows.num_rows == 0:
                return 0
            if table is None:
                self._create()  # another process may have created and filled it by now: look again
                continue
            if self._merge(table, rows, change, delete):
                return int(rows.num_rows)
            ceiling = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt)
            time.sleep(secrets.SystemRandom().uniform(0, ceiling))
        raise ManifestError(
            f"{self.uri}: other processes committed first {_TRIES} times in a row; nothing was "
            "written. Run this again when fewer processes are writing."
        )

    def _merge(self, table: DeltaTable, rows: pa.Table, change: str, delete: bool) -> bool:
        """Return whether the rows became the next version after the table's.

        If not, nothing was written.
        """
        rounds = pc.unique(rows["round"]).to_pylist()
        round_id = rounds[0] if len(rounds) == 1 else None
        about = {"change": change, "round": round_id, "rows": rows.num_rows}
        # A retry inside Delta would commit to a version that the change was not checked against.
        properties = CommitProperties(custom_metadata=about, max_commit_retries=0)
        with _storage_errors(self.uri, "written"):
            try:
                merge = table.merge(
                    rows, "new.id = old.id", "new", "old", commit_properties=properties
                )
                if delete:
                    merge.when_matched_delete().execute()
                else:
                    merge.when_matched_update_all().when_not_matched_insert_all().execute()
            except CommitFailedError:
                return False
        return True

    def _create(self) -> None:
        """Create the empty table. If another process creates it first, that table is used."""
        if self._reached_by_fsspec and not storage.is_local(self.uri):
            check_conditional_writes(self.uri)
        with _storage_errors(self.uri, "created"):
            try:
                DeltaTable.create(
                    self.uri,
                    MANIFEST,
                    configuration=_CONFIGURATION,
                    raise_if_key_not_exists=False,  # Delta does not know our own keys
                    storage_options=self._storage_options,
                )
            except (DeltaError, OSError):
                if self._open() is None:
                    raise


@contextmanager
def _storage_errors(uri: str, done: str) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError) as error:
        raise StorageError(explained(f"the manifest {uri} cannot be {done}", error)) from error
