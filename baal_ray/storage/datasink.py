"""A Ray Data sink that publishes Parquet files whole, each named by the sha256 of its bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data.block import BlockAccessor
from ray.data.datasource import Datasink, WriteResult

from baal_ray.storage.parquet import publish_table

# Rows per row group: few, so that a reader who needs only the best rows of a score file parses
# little more than those.
_ROWS_PER_GROUP = 2048


@dataclass(frozen=True)
class Written:
    """The result of one write, or of all of them together.

    Attributes:
        files: Files written.
        rows: Number of their rows.
        errors: Number of rows with an error, without the next.
        withheld: Number of rows whose error is the one that the sink counts apart.
    """

    files: list[str]
    rows: int
    errors: int
    withheld: int


class PublishedParquet(Datasink[Written]):
    """A sink that writes blocks to `<folder>/<sha256>.parquet`, complete or not at all.

    If Ray repeats a write with the same rows, it writes the same file. With other rows it writes
    another file, so at worst a reader meets an id twice.

    Attributes:
        written: Result of all writes, once the dataset is written.
    """

    def __init__(
        self, folder: str, schema: pa.Schema, bytes_per_file: int, withheld: str = ""
    ) -> None:
        """Name the folder. Nothing is written yet.

        Args:
            folder: Folder of the files.
            schema: Schema of the files.
            bytes_per_file: Size to aim for.
            withheld: Error that is counted apart from all others.
        """
        super().__init__()
        self.written = Written([], 0, 0, 0)
        self._withheld = withheld
        self._folder = folder
        self._schema = schema
        self._bytes_per_file = bytes_per_file

    def write(self, blocks: Iterable[Any], ctx: object) -> Written:
        """Publish all these blocks as one file."""
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [
            table.select(self._schema.names).cast(self._schema) for table in tables if len(table)
        ]
        if not tables:
            return Written([], 0, 0, 0)
        table = pa.concat_tables(tables)
        file = publish_table(self._folder, table, _ROWS_PER_GROUP)
        if "error" not in table.column_names:
            return Written([file], len(table), 0, 0)
        withheld = pc.sum(pc.equal(table["error"], self._withheld)).as_py() or 0
        errors = len(table) - table["error"].null_count - withheld
        return Written([file], len(table), errors, withheld)

    def on_write_complete(self, write_result: WriteResult[Written]) -> None:
        """Add up the results of the writes."""
        parts = write_result.write_returns
        self.written = Written(
            sorted(file for part in parts for file in part.files),
            sum(part.rows for part in parts),
            sum(part.errors for part in parts),
            sum(part.withheld for part in parts),
        )

    @property
    def min_bytes_per_write(self) -> int:
        """Bytes that Ray Data collects in memory for one file. The last file may have fewer."""
        return self._bytes_per_file

    def get_name(self) -> str:
        """Return the stage's name in Ray's progress bars and dashboard."""
        return "PublishParquet"
