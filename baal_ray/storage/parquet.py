"""Parquet files at any URI, opened to be streamed and published whole."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from baal_ray import storage
from baal_ray.errors import CorruptFileError, StorageError
from baal_ray.storage.remedies import told

_BUFFER_BYTES = 8 * 1024**2

# Ray registers this type, and whoever looks at a value of it then runs what is pickled there.
_PICKLED = "ray.data.arrow_pickled_object"


@contextmanager
def open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; a row group is streamed page by page, not held.

    Raises:
        CorruptFileError: it has pickled Python objects in it.
        StorageError: it cannot be read, or is no Parquet, as found on opening or while it is open.
    """
    with _opened(uri) as (parquet, _):
        yield parquet


@contextmanager
def _opened(uri: str) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    try:
        with storage.open_arrow(uri) as source:
            yield _checked(source, uri, pre_buffer=False, buffer_size=_BUFFER_BYTES), source
    except pa.ArrowInvalid as error:
        raise StorageError(f"{uri} is not a whole Parquet file: {error}") from error
    except OSError as error:
        raise StorageError(told(f"{uri} cannot be read", error)) from error


@contextmanager
def open_with_footer(uri: str) -> Iterator[tuple[pq.ParquetFile, str]]:
    """The same, with the sha256 of the footer: sizes, places and statistics of all that is in it.

    Raises:
        CorruptFileError: it has pickled Python objects in it.
        StorageError: it cannot be read, or is no Parquet, as found on opening or while it is open.
    """
    with _opened(uri) as (parquet, source):
        source.seek(source.size() - parquet.metadata.serialized_size - 8)
        yield parquet, storage.sha256(source.read())


class LoadedParquet:
    """A Parquet file in memory, of which columns and rows are parsed when they are asked for."""

    def __init__(self, data: bytes, uri: str, *, verified: bool = False) -> None:
        """Parse the footer.

        Args:
            data: the whole file.
            uri: where it came from, for messages.
            verified: the bytes are known to be right, so page checksums are not looked at.

        Raises:
            CorruptFileError: the bytes are no Parquet file, or hold pickled Python objects.
        """
        self._uri = uri
        with self._telling():
            source = pa.BufferReader(data)
            self._file = _checked(source, uri, page_checksum_verification=not verified)
            self.schema = self._file.schema_arrow

    def read(
        self, names: Collection[str] | None = None, rows_N: npt.NDArray[np.bool_] | None = None
    ) -> pa.Table:
        """Some columns of some rows.

        Args:
            names: the columns, of which there may be fewer; all if None.
            rows_N: which rows, all if None; a row group with none of them is not parsed.

        Raises:
            CorruptFileError: a page cannot be decoded, or is not what its checksum says.
        """
        columns = [name for name in self.schema.names if names is None or name in names]
        with self._telling():
            if rows_N is None:
                return self._file.read(columns, use_threads=False)
            groups = range(self._file.num_row_groups)
            sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
            rows_of = np.split(rows_N, np.cumsum(sizes[:-1], dtype=int))
            wanted = [group for group in groups if rows_of[group].any()]
            kept = np.concatenate([np.empty(0, bool), *(rows_of[group] for group in wanted)])
            table = self._file.read_row_groups(wanted, columns, use_threads=False)
            return table.filter(pa.array(kept))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            raise CorruptFileError(f"{self._uri} is not a whole Parquet file: {error}") from error


def _checked(source: pa.NativeFile, uri: str, **options: Any) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source, **options)
    except pa.ArrowInvalid:
        raise
    except (TypeError, ValueError) as error:  # from an extension type, of its own metadata
        raise pa.ArrowInvalid(str(error)) from error
    if _PICKLED in str(file.schema_arrow):
        raise CorruptFileError(
            f"{uri} has a column of pickled Python objects, which could run code when they are "
            "read. Write it again without that column"
        )
    return file


def publish_table(folder: str, table: pa.Table, rows_per_group: int = 2**20) -> str:
    """Publish a table as one file, named by its sha256, with page checksums; gives its URI."""
    return storage.publish_by_sha256(folder, parquet_bytes(table, rows_per_group), ".parquet")


def parquet_bytes(table: pa.Table, rows_per_group: int = 2**20) -> bytes:
    """A Parquet file of a table, with page checksums."""
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table,
        buffer,
        row_group_size=rows_per_group,
        write_page_checksum=True,
        # A page is closed at 1 MB, which the writer looks for every 1024 rows by default: too late
        # for images, as a reader holds a page whole.
        write_batch_size=16,
        use_dictionary=[field.name for field in table.schema if _repeats(field)],
    )
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def _repeats(field: pa.Field) -> bool:
    """Whether a column's values are worth a dictionary: else it takes time and adds a third."""
    once = field.name == "id" or pa.types.is_binary(field.type) or pa.types.is_floating(field.type)
    return not once
