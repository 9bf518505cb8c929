"""The rows of one Parquet file of a table: those that are not deleted, with plain columns."""

import base64
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from baal_ray.storage.bounded_rows import bounded_rows, without_large_images
from baal_ray.storage.columns import plain
from baal_ray.storage.parquet import open_parquet


def first_rows(count: int, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the first rows of some tables, as many as asked for, and read no further."""
    for rows in tables:
        yield rows.slice(0, count)
        count -= len(rows)
        if count <= 0:
            break


class DeletedRows(BaseModel):
    """The rows of a file that its table has deleted.

    Attributes:
        count: Their number.
        positions: A bit for each row of the file, 1 if it is deleted, compressed by zlib, in
            base64.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    count: int
    positions: str

    @classmethod
    def of(cls, deleted_N: npt.NDArray[np.bool_]) -> "DeletedRows":
        """Return the deleted rows by a mask, after whose end nothing is deleted."""
        bits = zlib.compress(np.packbits(deleted_N).tobytes())
        return cls(count=int(deleted_N.sum()), positions=base64.b64encode(bits).decode())

    def mask(self, rows: int) -> npt.NDArray[np.bool_]:
        """Return which rows are deleted, given the number of rows in the file."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(self.positions)), np.uint8)
        return np.unpackbits(bits, count=rows).astype(bool)


class TableFile(BaseModel):
    """A Parquet file of a table.

    Attributes:
        uri: Its location.
        deleted: The rows that do not count; None if all do.
        values: The values of the columns that are the same in all rows and not in the file.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    uri: str
    deleted: DeletedRows | None = None
    values: dict[str, str | None] = {}

    def kept(self, rows: int) -> npt.NDArray[np.bool_]:
        """Return a mask of the rows that are not deleted, given the number of rows in the file."""
        return np.ones(rows, bool) if self.deleted is None else ~self.deleted.mask(rows)

    def rows(
        self, names: Sequence[str], rows_at_a_time: int, *, verified: bool = False
    ) -> Iterator[pa.Table]:
        """Yield some columns of the rows that are not deleted, as `columns.plain` makes them.

        Args:
            names: Names of the columns.
            rows_at_a_time: Most rows of a table.
            verified: As for `open_parquet`.

        Raises:
            ArrowInvalid: If a string is not UTF-8.
            LostFileError: As for `open_parquet`.
            StorageError: If the file cannot be read.
        """
        return map(plain, self.stored_rows(names, rows_at_a_time, verified=verified))

    def image_rows(self, rows_at_a_time: int, *, verified: bool = False) -> Iterator[pa.Table]:
        """Yield `id`, `image` and `error`; an image that is too large is null and has an error.

        Arguments and errors are those of `rows`.
        """
        rows = self.rows(["id", "image"], rows_at_a_time, verified=verified)
        return map(without_large_images, rows)

    def stored_rows(
        self, names: Sequence[str], rows_at_a_time: int, *, verified: bool = False
    ) -> Iterator[pa.Table]:
        """Yield some columns, if they exist, of the rows that are not deleted, as they are."""
        values = {name: self.values[name] for name in names if name in self.values}
        stored = [name for name in names if name not in values]
        with open_parquet(self.uri, verified=verified) as parquet:
            kept, start = self.kept(parquet.metadata.num_rows), 0
            for batch in bounded_rows(parquet, stored, uri=self.uri):
                rows = pa.Table.from_batches([batch])
                for name, value in values.items():
                    same = pa.repeat(pa.scalar(value, pa.string()), len(batch))
                    rows = rows.append_column(name, same)
                if self.deleted is not None:
                    rows = rows.filter(pa.array(kept[start : start + len(batch)]))
                start += len(batch)
                for first in range(0, len(rows), rows_at_a_time):
                    yield rows.slice(first, rows_at_a_time)
