"""Rows of a Parquet file from a stranger, read a bounded number of bytes at a time.

A few kilobytes of Parquet can stand for gigabytes: a dictionary holds a value once for any number
of rows, deltas repeat the value before, and zeros compress a thousandfold. JPEGs and PNGs do none
of this, and bitmaps only the last.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from baal_ray.errors import StorageError

#: The most encoded bytes of one image. The largest photographs have a fifth of that.
MOST_IMAGE_BYTES = 256 * 1024**2
#: The most bytes of an id or a label.
MOST_TEXT = 4096

# Bytes of the rows that are read at once, if each value is stored in full.
_BYTES_AT_A_TIME = 8 * 1024**2
_FEWEST_AT_A_TIME, _MOST_AT_A_TIME = 16, 10_000
# Bytes of the rows that are read at once if values may share what is stored: each can be as large
# as the whole column. Short texts are read in larger batches, because single rows take long.
_MOST_BYTES = 128 * 1024**2
_FEWEST_TEXTS = 16
# Encodings that store each value in full. RLE and BIT_PACKED encode levels then, not values.
_IN_FULL = {"PLAIN", "RLE", "BIT_PACKED", "DELTA_LENGTH_BYTE_ARRAY"}
# The bytes of a row group from which it must not be compressed more than a factor: with images,
# which are compressed already or stored in full, and with texts alone.
_SUSPICIOUS_IMAGES, _SUSPICIOUS_BITMAPS = (_MOST_BYTES, 4), (_MOST_BYTES, 100)
_SUSPICIOUS_TEXTS = _MOST_BYTES // 8, 100


def bounded_rows(
    parquet: pq.ParquetFile,
    columns: Sequence[str],
    group: int | None = None,
    *,
    uri: str,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group, or of all of them, about 128 MiB or one row at a time.

    The sizes are taken from the footer of the file, so they are averages over a row group.

    Args:
        parquet: The file.
        columns: Names of the columns to read.
        group: Number of the row group.
        uri: Location of the file, for messages.

    Raises:
        StorageError: If a row group is larger than that and compressed as no images are.
    """
    groups = range(parquet.metadata.num_row_groups) if group is None else [group]
    for number in groups:
        if fault := inflation(parquet, columns, number):
            raise StorageError(f"{uri}: {fault}")
        at_a_time = _rows_at_a_time(parquet.metadata.row_group(number), set(columns))
        yield from parquet.iter_batches(at_a_time, row_groups=[number], columns=list(columns))


def longest(texts: pa.Array | pa.ChunkedArray) -> int:
    """Return the bytes of the longest text, those in a dictionary included; 0 without a text."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    values = [it.dictionary if pa.types.is_dictionary(it.type) else it for it in chunks]
    lengths = [
        pc.max(pc.binary_length(some.cast(pa.large_string(), safe=False))).as_py() or 0
        for some in values
        if str(some.type) in ("string", "large_string", "string_view")
    ]
    return max(lengths, default=0)


def inflation(parquet: pq.ParquetFile, columns: Sequence[str], group: int) -> str | None:
    """Return what is wrong with a row group that takes far more memory than its file."""
    chunks = _chunks(parquet.metadata.row_group(group), set(columns))
    size, stored = _sizes(chunks)
    in_full = _SUSPICIOUS_BITMAPS if _are_in_full(chunks) else _SUSPICIOUS_IMAGES
    most, factor = in_full if "image" in columns else _SUSPICIOUS_TEXTS
    if size <= most or size <= factor * stored:
        return None
    return (
        f"its row group takes {size} bytes in memory and {stored} in the file; more than {most} "
        f"bytes must not be compressed more than {factor} times. Write the file again with "
        "smaller row groups"
    )


def without_large_images(rows: pa.Table) -> pa.Table:
    """Return `id` and `image` with a column `error`.

    An image of more than `MOST_IMAGE_BYTES` is null and has an error, like that of a URI.
    """
    too_large = pc.fill_null(pc.greater(pc.binary_length(rows["image"]), MOST_IMAGE_BYTES), False)
    image, error = rows["image"], pa.nulls(len(rows), pa.string())
    if pc.any(too_large).as_py():
        image = pc.if_else(too_large, pa.scalar(None, pa.binary()), image)
        error = pc.if_else(too_large, pa.scalar(_TOO_LARGE), error)
    return pa.table({"id": rows["id"], "image": image, "error": error})


_TOO_LARGE = (
    f"the image has more than {MOST_IMAGE_BYTES} bytes, the most that an image may have; make it "
    "smaller"
)


def _rows_at_a_time(group: pq.RowGroupMetaData, names: set[str]) -> int:
    chunks = _chunks(group, names)
    size, _ = _sizes(chunks)
    if _are_in_full(chunks):
        rows = int(group.num_rows * _BYTES_AT_A_TIME / size)
        fewest = max(1, min(_FEWEST_AT_A_TIME, int(group.num_rows * _MOST_BYTES / size)))
    else:
        fewest, rows = 1 if "image" in names else _FEWEST_TEXTS, _MOST_BYTES // size
    return min(max(rows, fewest), _MOST_AT_A_TIME)


def _are_in_full(chunks: Sequence[pq.ColumnChunkMetaData]) -> bool:
    """Return whether each value of some column chunks is stored in full."""
    return all(set(chunk.encodings) <= _IN_FULL for chunk in chunks)


def _chunks(group: pq.RowGroupMetaData, names: set[str]) -> list[pq.ColumnChunkMetaData]:
    chunks = [group.column(number) for number in range(group.num_columns)]
    return [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in names]


def _sizes(chunks: Sequence[pq.ColumnChunkMetaData]) -> tuple[int, int]:
    """Return the bytes of column chunks as they are decompressed, at least 1, and as stored."""
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    return max(1, size), sum(chunk.total_compressed_size for chunk in chunks)
