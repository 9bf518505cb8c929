"""The unlabelled pool as a Ray Dataset of encoded images, without the ids to leave out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from baal_ray import storage
from baal_ray.deaths import refuse_more_deaths
from baal_ray.errors import StorageError
from baal_ray.ids import Hashes, IdSet
from baal_ray.image_set import ImageSet
from baal_ray.pool.listing import PoolListing, utf8_ids
from baal_ray.pool.roots import Roots
from baal_ray.storage.bounded_rows import (
    MOST_IMAGE_BYTES,
    bounded_rows,
    inflation,
    without_large_images,
)
from baal_ray.storage.columns import plain, plain_ids
from baal_ray.storage.files import REQUESTS_AT_A_TIME
from baal_ray.storage.parquet import open_parquet
from baal_ray.storage.table_files import first_rows
from baal_ray.workspace.stage_files import PoolFile
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE

# Images held at a time while reading, from which Ray Data makes its blocks: about this many bytes,
# and at most this many rows.
_BYTES_AT_A_TIME = 8 * 1024**2
_MOST_AT_A_TIME = 10_000
_URIS_AT_A_TIME = 64
# Threads fetch images that are waited for this many seconds each. Files that are in memory would
# be read four times slower by threads, which compete for Python's lock. The first few of a task
# decide.
_WAIT_WORTH_THREADS, _FIRST_FEW = 0.0005, 8
# The most read tasks, each with some of the pool's parts. A lost node costs the parts that it was
# reading.
_READ_TASKS = 1_000
# A row group of images is one part, because it can only be read from its start. A row group of
# URIs has at most this many parts, each with a multiple of this many rows: usually whole
# mini-batches.
_MOST_PARTS, _ROWS_OF_A_PART = 100, 512

_ROWS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("error", pa.string()),
    ]
)


def read_pool(
    listing: PoolListing,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
    evaluation: ImageSet | None = None,
) -> ray.data.Dataset:
    """Return the pool's images without those to leave out, or only those asked for.

    An image that is not wanted is never read. Its row is dropped by the id column alone, and so is
    a whole row group with nothing wanted in it. The set of ids costs 16 bytes per id in each
    node's object store.

    Args:
        listing: Listing of the pool.
        leave_out: Ids to leave out.
        only: Ids to keep, instead of `leave_out`.
        evaluation: Images to withhold under whatever id they are read: their rows have the error
            `table_schemas.EVALUATION_IMAGE` instead of an image.

    Returns:
        A dataset of `id`, `source` (the file that the row is in, or the image file itself),
        `image` (encoded bytes, null if they cannot be read) and `error` (the reason for a null).
    """
    ids = only if only is not None else leave_out or IdSet.of([])
    withheld = ray.put(evaluation) if evaluation else None
    wanted = _Wanted(ray.put(ids.hashes), listed=only is not None, withheld=withheld)
    dataset: ray.data.Dataset = ray.data.read_datasource(
        _PoolDatasource(listing, wanted),
        override_num_blocks=max(1, min(len(_parts(listing)), _READ_TASKS)),
    )
    return dataset


def is_exhausted(listing: PoolListing, leave_out: IdSet) -> bool:
    """Return whether every image of the pool is to be left out.

    The ids of a pool are unique, so the ids are read only if there are as many to leave out as the
    pool has images.

    Args:
        listing: Listing of the pool.
        leave_out: Ids to leave out.
    """
    return listing.rows <= len(leave_out) and not read_pool(listing, leave_out=leave_out).take(1)


def sample_pool(listing: PoolListing, places: int, images: int) -> pa.Table:
    """Read a few images from each of several places in the pool, immediately and without Ray.

    Args:
        listing: Listing of the pool.
        places: Largest number of parts of the pool's files to read from.
        images: Largest number of images per part.

    Returns:
        A table with the columns of `read_pool`.
    """
    parts = _parts(listing)
    picked = np.linspace(0, len(parts) - 1, min(places, len(parts))).astype(int)
    everything = _Wanted(None, listed=False)
    reads = [_reader(listing, [parts[i]], everything)() for i in picked]
    firsts = [rows for read in reads for rows in first_rows(images, read)]
    return pa.concat_tables([_ROWS.empty_table(), *firsts])


@dataclass(frozen=True)
class _Wanted:
    """The images to read: those in a set of ids, or all but those."""

    hashes: "ray.ObjectRef[Hashes] | None"  # None for an empty set
    listed: bool
    withheld: "ray.ObjectRef[ImageSet] | None" = None  # None for an empty set

    def mask(self, ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        if self.hashes is None:
            return np.full(len(ids), not self.listed)
        found = IdSet(ray.get(self.hashes)).contains(ids)
        return found if self.listed else ~found

    def withhold(self, rows: pa.Table) -> pa.Table:
        """Return rows of `_ROWS` without the images to withhold."""
        if self.withheld is None:
            return rows
        withheld = ray.get(self.withheld).contains(rows["image"])
        if not withheld.any():
            return rows
        nothing, reason = pa.scalar(None, pa.binary()), pa.scalar(EVALUATION_IMAGE)
        images = pc.if_else(pa.array(withheld), nothing, rows["image"])
        errors = pc.if_else(pa.array(withheld), reason, rows["error"])
        return pa.table([rows["id"], rows["source"], images, errors], schema=_ROWS)


@dataclass(frozen=True)
class _Part:
    """Rows of a row group of a file."""

    file: PoolFile
    group: int
    rows: range

    def kept(self) -> npt.NDArray[np.bool_]:
        """Return a mask of the row group's rows that the table has not deleted."""
        groups = self.file.row_groups
        start = sum(groups[: self.group])
        return self.file.kept(sum(groups))[start : start + groups[self.group]]


def _parts(listing: PoolListing) -> list[_Part]:
    parts = []
    for file in listing.files:
        for group, rows in enumerate(file.row_groups):
            step = rows
            if listing.column == "uri":
                step = _ROWS_OF_A_PART * math.ceil(rows / _MOST_PARTS / _ROWS_OF_A_PART)
            parts += [
                _Part(file, group, range(start, min(start + step, rows)))
                for start in range(0, rows, step or 1)
            ]
    return parts


class _PoolDatasource(Datasource):
    """The parts of the pool's files, divided among read tasks."""

    def __init__(self, listing: PoolListing, wanted: _Wanted) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listing = listing
        self._wanted = wanted

    def get_name(self) -> str:
        return "Pool"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        parts = _parts(self._listing)
        shares = np.array_split(np.arange(len(parts)), max(1, min(parallelism, len(parts))))
        return [
            ReadTask(
                _reader(self._listing, [parts[i] for i in share], self._wanted),
                BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None),
                schema=_ROWS,
                per_task_row_limit=per_task_row_limit,
            )
            for share in shares
        ]


def _reader(
    listing: PoolListing, parts: list[_Part], wanted: _Wanted
) -> Callable[[], Iterator[pa.Table]]:
    # The listing itself does not have to travel with each task.
    column, images_are_files = listing.column, listing.images_are_files
    own, further = listing.root, listing.roots

    def read() -> Iterator[pa.Table]:
        if not parts:
            return
        # Here, because links may differ on each node.
        fetch = _Fetcher(Roots(own, further))
        refuse_more_deaths(f"{len(parts)} parts of the pool, the first of {parts[0].file.uri}")
        for part in parts:
            for rows in _read_part(part, column, wanted, ours=images_are_files):
                if column == "image":
                    yield wanted.withhold(_with_image(rows, part.file.uri))
                    continue
                source = None if images_are_files else part.file.uri
                for start in range(0, len(rows), _URIS_AT_A_TIME):
                    some = rows.slice(start, _URIS_AT_A_TIME)
                    yield from map(wanted.withhold, _fetched(some, source, fetch))

    return read


def _read_part(part: _Part, column: str, wanted: _Wanted, *, ours: bool) -> Iterator[pa.Table]:
    """Yield `id`, `error` and the other column of the wanted rows, a few at a time."""
    with open_parquet(part.file.uri, verified=ours) as parquet:
        with utf8_ids(part.file.uri):
            batches = bounded_rows(parquet, ["id"], part.group, uri=part.file.uri)
            ids = pa.chunked_array([plain_ids(some["id"]) for some in batches], pa.string())
        keep = np.zeros(len(ids), dtype=bool)
        these = slice(part.rows.start, part.rows.stop)
        keep[these] = part.kept()[these]
        if keep.any():
            keep[these] &= wanted.mask(ids[these])
        if not keep.any():
            return
        fault = inflation(parquet, ["id", column], part.group)
        if fault and column == "image":
            lost = ids.filter(pa.array(keep))
            nothing = pa.nulls(len(lost), pa.binary())
            reasons = pa.repeat(pa.scalar(fault), len(lost))
            yield pa.table({"id": lost, "image": nothing, "error": reasons})
            return
        yield from _joined(_rows_of(parquet, part, column, keep))


def _rows_of(
    parquet: pq.ParquetFile, part: _Part, column: str, keep: npt.NDArray[np.bool_]
) -> Iterator[pa.Table]:
    """Yield `id`, `error` and the other column of those rows of a row group that are kept."""
    start = 0
    columns = ["id", column]
    for batch in bounded_rows(parquet, columns, part.group, uri=part.file.uri):
        kept = keep[start : start + len(batch)]
        start += len(batch)
        if kept.any():
            # Made plain first: views and dictionaries cannot all be filtered.
            rows = plain(batch).select(columns)
            if column == "image":
                rows = without_large_images(rows)
            else:
                rows = rows.append_column("error", pa.nulls(len(rows), pa.string()))
            yield rows if kept.all() else rows.filter(pa.array(kept))
        if start >= part.rows.stop:
            return


def _joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables to some of a few megabytes each."""
    held: list[pa.Table] = []
    size = count = 0
    for rows in tables:
        held.append(rows)
        size, count = size + rows.nbytes, count + len(rows)
        if size >= _BYTES_AT_A_TIME or count >= _MOST_AT_A_TIME:
            yield pa.concat_tables(held)
            held, size, count = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def _with_image(rows: pa.Table, source: str) -> pa.Table:
    null = pc.if_else(pc.is_null(rows["image"]), "its image is null", pa.scalar(None, pa.string()))
    errors = pc.coalesce(rows["error"], null)
    columns = [rows["id"], pa.repeat(pa.scalar(source), len(rows)), rows["image"], errors]
    return pa.table(columns, schema=_ROWS)


_Fetched = tuple[bytes | None, str | None]


class _Fetcher:
    """Fetches the images of one read task, in threads if each has to be waited for."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._by_threads: bool | None = None  # not known yet

    def __call__(self, uris: Iterable[bytes | None]) -> Iterator[_Fetched]:
        """Yield an image or an error for each URI."""
        uris = iter(uris)
        first = self._try(uris) if self._by_threads is None else []
        yield from first
        if not self._by_threads:
            yield from map(self._fetch, uris)
            return
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
            yield from threads.map(self._fetch, uris)

    def _try(self, uris: Iterator[bytes | None]) -> list[_Fetched]:
        """Fetch the first few, and decide how to fetch all others."""
        fetched, waits = [], []
        for uri in islice(uris, _FIRST_FEW):
            begun, used = time.perf_counter(), time.thread_time()
            fetched.append(self._fetch(uri))
            waits.append(time.perf_counter() - begun - (time.thread_time() - used))
        self._by_threads = median(waits) > _WAIT_WORTH_THREADS
        return fetched

    def _fetch(self, uri: bytes | None) -> _Fetched:
        if uri is None:
            return None, "its uri is null"
        try:
            return self._read(uri.decode()), None
        except UnicodeDecodeError:
            unfit = f"its uri {uri!r} is not UTF-8; write the pool file again with URIs in UTF-8"
            return None, unfit
        except StorageError as error:
            return None, str(error)

    def _read(self, uri: str) -> bytes:
        """Return an image, which Spark may have written with %20 for a space."""
        try:
            return storage.read_at_most(self._roots.resolve(uri), MOST_IMAGE_BYTES)
        except StorageError as error:
            decoded = unquote(uri)
            missing = isinstance(error.__cause__, FileNotFoundError)
            if not missing or decoded == uri or uri.startswith("http"):
                raise
            with suppress(StorageError):
                return storage.read_at_most(self._roots.resolve(decoded), MOST_IMAGE_BYTES)
            raise


def _fetched(rows: pa.Table, source: str | None, fetch: _Fetcher) -> Iterator[pa.Table]:
    """Yield the images of some rows in tables of a few megabytes.

    Larger tables would need freshly allocated memory.
    """
    images: list[bytes | None] = []
    errors: list[str | None] = []
    start = size = 0
    # As bytes, because as text, one invalid URI would fail all.
    for image, error in fetch(rows["uri"].cast(pa.binary()).to_pylist()):
        images.append(image)
        errors.append(error)
        size += len(image or b"")
        if size >= _BYTES_AT_A_TIME or start + len(images) == len(rows):
            these = rows.slice(start, len(images))
            sources = these["uri"] if source is None else [source] * len(images)
            columns = {"id": these["id"], "source": sources, "image": images, "error": errors}
            yield pa.table(columns, schema=_ROWS)
            start, images, errors, size = start + len(images), [], [], 0
