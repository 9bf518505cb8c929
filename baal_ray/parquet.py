"""Parquet files at any URI, opened to be streamed and published whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from baal_ray import storage
from baal_ray.errors import CorruptFileError, StorageError
from baal_ray.remedies import told

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


def parse_parquet(data: bytes, uri: str, wanted: Callable[[str], bool]) -> pa.Table:
    """Those columns of a Parquet file whose names are wanted, its page checksums checked.

    Raises:
        CorruptFileError: the bytes are no Parquet file, or hold pickled Python objects.
    """
    try:
        file = _checked(pa.BufferReader(data), uri, page_checksum_verification=True)
        return file.read([name for name in file.schema_arrow.names if wanted(name)])
    except (ValueError, OSError) as error:
        raise CorruptFileError(f"{uri} is not a whole Parquet file: {error}") from error


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


def publish_table(folder: str, table: pa.Table) -> str:
    """Publish a table as one file, named by its sha256, with page checksums; gives its URI."""
    return storage.publish_by_sha256(folder, parquet_bytes(table), ".parquet")


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file of a table, with page checksums."""
    buffer = pa.BufferOutputStream()
    # A page is closed at 1 MB, which the writer looks for every 1024 rows by default: too late for
    # images, as a reader holds a page whole.
    pq.write_table(table, buffer, write_page_checksum=True, write_batch_size=16)
    data: bytes = buffer.getvalue().to_pybytes()
    return data
