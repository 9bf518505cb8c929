"""Parquet files at any URI, opened for streaming and published whole."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from baal_ray import storage
from baal_ray.errors import CorruptFileError, StorageError
from baal_ray.storage.remedies import explained

_BUFFER_BYTES = 8 * 1024**2

# Ray registers this type. Reading one of its values then runs the code pickled in it.
_PICKLED = "ray.data.arrow_pickled_object"


@contextmanager
def open_parquet(uri: str, *, verified: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. Row groups are streamed page by page, not held in memory.

    Args:
        uri: Location of the file.
        verified: Whether to read the whole file first, and to check it against the sha256 that is
            its name. It is then held in memory.

    Raises:
        LostFileError: If a file to verify is missing, or its sha256 is not the one in its name.
        CorruptFileError: If the file contains pickled Python objects.
        StorageError: If the file cannot be read or is not Parquet. This may show on opening or
            while it is open.
    """
    if verified:
        yield _checked(pa.BufferReader(storage.read_verified(uri)), uri)
        return
    with _opened(uri) as (parquet, _):
        yield parquet


@contextmanager
def _opened(uri: str) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    try:
        with storage.open_arrow(uri) as source:
            yield _checked(source, uri, pre_buffer=False, buffer_size=_BUFFER_BYTES), source
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StorageError(f"{uri} is not a complete Parquet file: {error}") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(uri, error) from error
    except OSError as error:
        raise StorageError(explained(f"{uri} cannot be read", error)) from error


@contextmanager
def utf8_texts(uri: str) -> Iterator[None]:
    """Turn the errors of Python and pyarrow about text that is not UTF-8 into a StorageError."""
    try:
        yield
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise _not_utf8(uri, error) from error


def _not_utf8(uri: str, error: Exception) -> StorageError:
    return StorageError(
        f"{uri} has text or a column name that is not UTF-8 ({error}); write the file again in "
        "UTF-8"
    )


@contextmanager
def open_with_footer(uri: str) -> Iterator[tuple[pq.ParquetFile, str]]:
    """Open a Parquet file as `open_parquet` does, and return the sha256 of its footer with it.

    The footer holds the sizes, positions and statistics of everything in the file.

    Raises:
        CorruptFileError: If the file contains pickled Python objects.
        StorageError: If the file cannot be read or is not Parquet. This may show on opening or
            while it is open.
    """
    with _opened(uri) as (parquet, source):
        source.seek(source.size() - parquet.metadata.serialized_size - 8)
        yield parquet, storage.sha256(source.read())


class LoadedParquet:
    """A Parquet file in memory, whose columns and rows are parsed only when they are read."""

    def __init__(self, data: bytes, uri: str, *, verified: bool = False) -> None:
        """Parse the footer.

        Args:
            data: The whole file.
            uri: URI that the file was read from, for messages.
            verified: Whether the bytes are known to be right, so that page checksums are ignored.

        Raises:
            CorruptFileError: If the bytes are not a Parquet file, or contain pickled Python
                objects.
        """
        self._uri = uri
        with self._telling():
            source = pa.BufferReader(data)
            self._file = _checked(source, uri, page_checksum_verification=not verified)
            self.schema = self._file.schema_arrow

    def read(
        self, names: Collection[str] | None = None, rows_N: npt.NDArray[np.bool_] | None = None
    ) -> pa.Table:
        """Return some columns of some rows.

        Args:
            names: Names of the columns, or None for all. Names that the file lacks are ignored.
            rows_N: Mask of the rows, or None for all. Row groups without any of them are not
                parsed.

        Raises:
            CorruptFileError: If a page cannot be decoded or does not match its checksum.
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
            raise CorruptFileError(
                f"{self._uri} is not a complete Parquet file: {error}"
            ) from error


def _checked(source: pa.NativeFile, uri: str, **options: Any) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source, **options)
    except pa.ArrowInvalid:
        raise
    except (TypeError, ValueError) as error:  # an extension type rejects its own metadata
        raise pa.ArrowInvalid(str(error)) from error
    if _PICKLED in str(file.schema_arrow):
        raise CorruptFileError(
            f"{uri} has a column of pickled Python objects, which could run code when they are "
            "read. Write it again without that column"
        )
    return file


def publish_table(folder: str, table: pa.Table, rows_per_group: int = 2**20) -> str:
    """Publish a table as a file named by its sha256, with page checksums, and return its URI."""
    return storage.publish_by_sha256(folder, parquet_bytes(table, rows_per_group), ".parquet")


def parquet_bytes(table: pa.Table, rows_per_group: int = 2**20) -> bytes:
    """Return the bytes of a Parquet file of a table, with page checksums."""
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table,
        buffer,
        row_group_size=rows_per_group,
        write_page_checksum=True,
        # The writer closes a page at 1 MB, but by default it checks the size only every 1024 rows.
        # That is too late for images, because a reader holds a whole page in memory.
        write_batch_size=16,
        use_dictionary=[field.name for field in table.schema if _repeats(field)],
    )
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def _repeats(field: pa.Field) -> bool:
    """Return whether a column's values are likely to repeat.

    If they do not, a dictionary takes time and makes the column a third larger.
    """
    once = (
        field.name in ("id", "uri")
        or pa.types.is_binary(field.type)
        or pa.types.is_floating(field.type)
    )
    return not once
