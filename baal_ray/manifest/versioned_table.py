"""A Delta Lake table of manifest rows, opened at a version, read whole and merged into."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from baal_ray import storage
from baal_ray.errors import FormatError, ManifestError, StorageError
from baal_ray.storage.delta_options import delta_options
from baal_ray.storage.race_check import check_conditional_writes
from baal_ray.storage.redaction import redacted
from baal_ray.storage.remedies import explained
from baal_ray.storage.uri_rules import broken_rule
from baal_ray.workspace.table_schemas import MANIFEST

logger = logging.getLogger(__name__)

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

#: Versions between checkpoints of the log, as in Spark. A checkpoint takes a dozen requests to
#: read, and each version after it takes two. By itself, deltalake writes one per 100 versions, and
#: fails a commit that is already made if it cannot.
_VERSIONS_PER_CHECKPOINT = 10
NO_CHECKPOINT = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)

# The most times that a table is opened again because its files went while they were read.
_READS = 5

_EXAMPLES = 5


class Snapshot(NamedTuple):
    """A version of a table, and some or all columns of it. Without a table there is no version."""

    opened: DeltaTable | None
    rows: pa.Table


class VersionedTable:
    """A table at a location.

    All methods raise `StorageError` if the table cannot be read or written, `ManifestError` if it
    is a Delta table of something else, and `FormatError` if another version of baal_ray wrote it.

    Attributes:
        uri: Location of the table.
        options: Options for Delta Lake, including those from the environment.
    """

    def __init__(self, uri: str, storage_options: dict[str, str] | None) -> None:
        """Name the table; arguments and errors as for `Manifest`."""
        if rule := broken_rule(uri):
            raise StorageError(redacted(f"the manifest is at {uri!r}; {rule}. Use another name."))
        self.uri = uri
        self.options = delta_options(os.environ) | (storage_options or {})
        self._reached_by_fsspec = storage_options is None  # which knows only the environment

    def open(self, version: int | None = None) -> DeltaTable | None:
        """Return the table at a version, or at the latest; None if there is no table yet."""
        with storage_errors(self.uri, "read" if version is None else f"read at version {version}"):
            try:
                table = DeltaTable(self.uri, version, self.options)
            except TableNotFoundError as error:
                if version is None and not str(error).startswith("Unknown scheme"):
                    return None
                raise
            found = table.metadata().configuration.get(_FORMAT_PROPERTY, _FORMAT)
        if found != _FORMAT:
            raise FormatError(
                f"the manifest {self.uri} has format {found}, so another version of baal_ray "
                f"wrote it; this one reads format {_FORMAT}. Use that version"
            )
        return table

    def read(self, table: DeltaTable | None, columns: tuple[str, ...] = ()) -> pa.Table:
        """Return some or all columns of an opened table; no rows if there is no table yet."""
        schema = pa.schema([MANIFEST.field(name) for name in columns or MANIFEST.names])
        if table is None:
            return schema.empty_table()
        lacking = ", ".join(sorted(set(MANIFEST.names) - {f.name for f in table.schema().fields}))
        if lacking:
            raise ManifestError(
                f"{self.uri} is a Delta table but not a manifest: it lacks {lacking}. Give the "
                "manifest a folder of its own."
            )
        with storage_errors(self.uri, "read"):
            # Rows are filtered after they are read: deltalake 1.6 gives pyarrow 26 the statistics
            # of longer strings as string_view, and filters on such a column fail because of that.
            dataset = table.to_pyarrow_dataset(filesystem=self._local_files())
            rows = dataset.to_table(columns=schema.names).cast(schema)
        if "id" in schema.names:
            self._refuse_doubled_ids(rows["id"], table.version())
        return rows

    def read_latest(self, columns: tuple[str, ...] = ()) -> Snapshot:
        """Open the latest version and read it.

        `forget` deletes files of the versions before it, also under a reader. A reader that finds
        that there is a new version begins again.
        """
        for _ in range(_READS):
            table = self.open()
            try:
                return Snapshot(table, self.read(table, columns))
            except StorageError:
                if not self.has_moved_on(table):
                    raise
        table = self.open()
        return Snapshot(table, self.read(table, columns))

    def has_moved_on(self, table: DeltaTable | None) -> bool:
        """Return whether there is a version after the one that is open."""
        latest = self.open()
        return latest is not None and table is not None and latest.version() > table.version()

    def create(self) -> None:
        """Create the empty table. If another process creates it first, that table is used."""
        if self._reached_by_fsspec and not storage.is_local(self.uri):
            check_conditional_writes(self.uri)
        with storage_errors(self.uri, "created"):
            try:
                DeltaTable.create(
                    self.uri,
                    MANIFEST,
                    configuration=_CONFIGURATION,
                    raise_if_key_not_exists=False,  # Delta does not know our own keys
                    storage_options=self.options,
                )
            except (DeltaError, OSError):
                if self.open() is None:
                    raise

    def merge(self, table: DeltaTable, rows: pa.Table, change: str, delete: bool) -> bool:
        """Merge rows by id into a version, or delete the rows with their ids.

        Returns:
            Whether they became the next version after the opened one. If not, another process
            committed first, and nothing was written.
        """
        rounds = pc.unique(rows["round"]).to_pylist()
        round_id = rounds[0] if len(rounds) == 1 else None
        about = {"change": change, "round": round_id, "rows": rows.num_rows}
        merge = table.merge(
            rows,
            "new.id = old.id",
            "new",
            "old",
            # A retry inside Delta would commit to a version that the change was not checked
            # against.
            commit_properties=CommitProperties(custom_metadata=about, max_commit_retries=0),
            post_commithook_properties=NO_CHECKPOINT,
        )
        with storage_errors(self.uri, "written"):
            try:
                if delete:
                    merge.when_matched_delete().execute()
                else:
                    merge.when_matched_update_all().when_not_matched_insert_all().execute()
            except CommitFailedError:
                return False
            except (DeltaError, OSError):
                if self.has_moved_on(table):  # `forget` deleted the files of this version
                    return False
                raise
        self.checkpoint_if_due(table)
        return True

    def checkpoint_if_due(self, table: DeltaTable) -> None:
        """Write a checkpoint of the log at every tenth version, after a commit.

        It saves readers the entries before it. Nothing needs it, so a failure is only logged.
        """
        if table.version() % _VERSIONS_PER_CHECKPOINT:
            return
        try:
            table.create_checkpoint()
        except (DeltaError, OSError) as error:
            logger.info(explained(f"the log of {self.uri} has no new checkpoint", error))

    def _refuse_doubled_ids(self, ids: pa.ChunkedArray, version: int) -> None:
        if pc.count_distinct(ids).as_py() == len(ids):
            return
        counts = pc.value_counts(ids)
        doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        examples = ", ".join(map(repr, doubled.slice(0, _EXAMPLES).to_pylist()))
        raise ManifestError(
            f"{len(doubled)} ids have several rows in version {version} of the manifest "
            f"{self.uri} ({examples}); each image must have one row, so a program other than "
            f"baal_ray has written to the table. Find its version with Manifest({self.uri!r})"
            f".history(), and return to the one before with DeltaTable({self.uri!r})"
            ".restore(version)."
        )

    def _local_files(self) -> pyarrow.fs.FileSystem | None:
        """Return Arrow's own file system of a local table, or None for others.

        Delta's file system calls Python from threads as the process ends.
        """
        fs, path = storage.arrow_filesystem(self.uri)
        local = isinstance(fs, pyarrow.fs.LocalFileSystem)
        return pyarrow.fs.SubTreeFileSystem(path, fs) if local else None


@contextmanager
def storage_errors(uri: str, done: str) -> Iterator[None]:
    """Turn an error of Delta Lake in the block into a StorageError."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowInvalid) as error:
        raise StorageError(explained(f"the manifest {uri} cannot be {done}", error)) from error
