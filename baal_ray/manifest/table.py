"""The labelled manifest: a Delta Lake table of every image ever acquired or labelled."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from baal_ray.errors import ManifestError
from baal_ray.manifest import commits, compaction, data_files, history
from baal_ray.manifest.changes import (
    addition,
    column,
    ids_of,
    kept_ids,
    new_rows,
    relabelling,
    rounds_of,
    settling,
)
from baal_ray.manifest.versioned_table import VersionedTable
from baal_ray.workspace.table_schemas import ACQUIRED, LABELLED, REJECTED, RELEASED, STATUSES


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
        self.uri = uri
        self._storage_options = storage_options
        self._table = VersionedTable(uri, storage_options)
        self._pinned: int | None = None

    @property
    def version(self) -> int:
        """The version of the table, or -1 while it does not exist."""
        if self._pinned is not None:
            return self._pinned
        opened = self._table.open()
        return -1 if opened is None else int(opened.version())

    def at(self, version: int) -> "Manifest":
        """Return the manifest as it was at a version, read-only. Version -1 is empty.

        Raises:
            ManifestError: If the table has no such version.
        """
        pinned = Manifest(self.uri, storage_options=self._storage_options)
        latest = pinned.version
        if not -1 <= version <= latest:
            raise ManifestError(
                f"{self.uri} has no version {version}; it has versions -1 to {latest}"
            )
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
        table = self._read()
        if round_id is not None:
            table = table.filter(pc.equal(table["round"], round_id))
        if status is not None:
            table = table.filter(pc.equal(table["status"], status))
        return table.sort_by("id")

    def ids(self) -> pa.ChunkedArray:
        """Return the ids that the pool must leave out: all but the released ones."""
        return kept_ids(self._read(("id", "status")))

    def rounds(self) -> list[str]:
        """Return the rounds that have images, in the order in which they were committed."""
        return rounds_of(self._read(("round", "acquired_at")))

    def history(self) -> list[dict[str, Any]]:
        """Return what happened to the table, newest first.

        Returns:
            For each version `version`, `timestamp` (UTC), `operation` (Delta's name), `change`
            (the name of the method), `round` (None if rows of several rounds changed) and `rows`
            (their number). The last three are None for changes made in other ways. If another
            program deleted the oldest entries of the table's log, they are missing, and a warning
            says so.
        """
        return history.history(self._table, self._pinned)

    def unneeded_files(self, *, keep: Sequence[int] = ()) -> list[str]:
        """Return the names of data files that no version needs, or only old ones.

        The names are relative to the table's folder. A version is old if it was replaced more than
        a week ago. Without these files, time travel to it is no longer possible.

        Args:
            keep: Versions that must stay readable, however old they are.
        """
        return data_files.unneeded_files(self._table, keep)

    def compact(self) -> bool:
        """Rewrite small data files as one, if there are many, so that reading takes few requests.

        No row changes. If another process commits first, or the store fails, everything stays as
        it was. A round does this at its end.

        Returns:
            Whether the files were rewritten.
        """
        return compaction.compact(self._table)

    def _read(self, columns: tuple[str, ...] = ()) -> pa.Table:
        if self._pinned is None:
            return self._table.read_latest(columns).rows
        opened = None if self._pinned == -1 else self._table.open(self._pinned)
        return self._table.read(opened, columns)

    def _commit(
        self, change: str, plan: Callable[[pa.Table], pa.Table], *, delete: bool = False
    ) -> int:
        if self._pinned is not None:
            where = f"{self.uri} at version {self._pinned}"
            raise ManifestError(f"{where} is read-only. Write to Manifest(uri).")
        return commits.commit(self._table, change, plan, delete=delete)
