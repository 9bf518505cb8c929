"""Parquet files at any URI, opened to be streamed and published whole."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from baal_ray import storage
from baal_ray.errors import StorageError

_BUFFER_BYTES = 8 * 1024**2


@contextmanager
def open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; a row group is streamed page by page, not held.

    Raises:
        StorageError: it cannot be read, or is no Parquet, as found on opening or while it is open.
    """
    fs, path = storage.arrow_filesystem(uri)
    try:
        with fs.open_input_file(path) as source:
            yield pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except pa.ArrowInvalid as error:
        raise StorageError(f"{uri} is not a whole Parquet file: {error}") from error
    except OSError as error:
        raise StorageError(f"{uri} cannot be read: {error}") from error


def publish_table(folder: str, table: pa.Table) -> str:
    """Publish a table as one file, named by its sha256, with page checksums; gives its URI."""
    buffer = pa.BufferOutputStream()
    # A page is closed at 1 MB, which the writer looks for every 1024 rows by default: too late for
    # images, as a reader holds a page whole.
    pq.write_table(table, buffer, write_page_checksum=True, write_batch_size=16)
    return storage.publish_by_sha256(folder, buffer.getvalue().to_pybytes(), ".parquet")
