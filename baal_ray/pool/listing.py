"""The contents of the pool: its files with their row groups and columns, and its ids."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import compress, islice
from typing import Literal

import pyarrow as pa

from baal_ray import storage
from baal_ray.config import PoolConfig
from baal_ray.errors import PoolError, StorageError
from baal_ray.ids import IdSet, hash_ids
from baal_ray.image_formats import EXTENSIONS, HEAD_BYTES, NAMES, recognise
from baal_ray.storage.bounded_rows import MOST_TEXT, longest
from baal_ray.storage.columns import column_fault
from baal_ray.storage.files import REQUESTS_AT_A_TIME
from baal_ray.storage.other_files import OtherFiles, extension_of
from baal_ray.storage.parquet import open_with_footer, publish_table
from baal_ray.storage.table_files import TableFile
from baal_ray.storage.tables import PARQUET_EXTENSIONS, Table, find_table
from baal_ray.workspace.stage_files import ListedPool, PoolFile

_ROWS_AT_A_TIME = 100_000
_MOST_ROWS_OF_A_GROUP = 10_000


class PoolListing(ListedPool):
    """The pool as it was listed for a round, and the ways to read it."""

    @classmethod
    def of(cls, listed: ListedPool) -> "PoolListing":
        """Return the listing that a plan holds."""
        return cls(**dict(listed))

    def read_ids(self) -> Iterator[pa.Table]:
        """Yield every image's `id` and `source`, in pieces. No image is read."""
        for file in self.files:
            columns = ["id", "uri"] if self.images_are_files else ["id"]
            for rows in _rows(file, columns, ours=self.images_are_files):
                everywhere = pa.repeat(pa.scalar(file.uri), len(rows))
                source = rows["uri"] if self.images_are_files else everywhere
                yield pa.table({"id": rows["id"], "source": source})

    def ids(self) -> IdSet:
        """Return the ids of all images, at 16 bytes per id."""
        return IdSet.of_hashes(hash_ids(rows["id"]) for rows in self.read_ids())

    def changes(self) -> list[str]:
        """Return what has changed in the files since they were listed. No image is read.

        A listing of image files is ours, and is checked whenever it is read.
        """
        if self.images_are_files:
            return []
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
            return [change for change in threads.map(_change, self.files) if change is not None]

    @property
    def note(self) -> str:
        """The files left out of the listing, with the remedy; "" if there are none."""
        if not self.other_files:
            return ""
        if self.images_are_files:
            return f"{self.other_files}. If they are images, convert them to {NAMES}"
        return f"{self.other_files}. If they are Parquet, name them .parquet"

    @property
    def large_groups(self) -> str:
        """The row groups that keep a single task busy for long, with the remedy; "" for none."""
        if self.column == "uri":
            return ""  # these are read in parts
        large = {file.uri: max(file.row_groups, default=0) for file in self.files}
        large = {uri: rows for uri, rows in large.items() if rows > _MOST_ROWS_OF_A_GROUP}
        if not large:
            return ""
        uri = max(large, key=large.__getitem__)
        return (
            f"{uri} has a row group of {large[uri]:,} images ({len(large):,} of "
            f"{len(self.files):,} files have one of more than {_MOST_ROWS_OF_A_GROUP:,}); one "
            "task reads it, however large the cluster is. Write the file again with "
            "row_group_size=1000"
        )

    def only(self, sources: set[str]) -> "PoolListing":
        """Return the part of the pool that holds images with these sources, unless they moved."""
        if self.images_are_files:
            return self
        return self.model_copy(
            update={"files": [file for file in self.files if file.uri in sources]}
        )


def list_pool(config: PoolConfig, folder: str) -> PoolListing:
    """List the pool's files and check their columns. No image is read.

    For a folder of image files, a listing with `id` and `uri` is first written to `folder` as
    Parquet. From then on the pool is that listing, and images that arrive later belong to the next
    round.

    Raises:
        PoolError: If there are no files, or one does not have the right columns.
        StorageError: If the pool cannot be read.
    """
    images_are_files = config.format == "files"
    table = _write_listing(config.uri, folder) if images_are_files else find_table(config.uri)
    if not table.files:
        wanted = EXTENSIONS if images_are_files else PARQUET_EXTENSIONS
        others = f" ({table.others})" if table.others else ""
        raise PoolError(
            f"pool.uri is {config.uri!r}, where there are no {', '.join(wanted)} files{others}; "
            "correct it or pool.format"
        )
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        inspect = partial(_inspect, integer_ids=config.integer_ids)
        found = list(threads.map(inspect, table.files))
    by_column = {column: file.uri for file, column in found}
    if len(by_column) > 1:
        raise PoolError(
            f"some pool files hold `image` ({by_column['image']}), others `uri` "
            f"({by_column['uri']}); write all of them with the same column"
        )
    (column,) = by_column
    return PoolListing(
        files=[file for file, _ in found],
        column=column,
        root=table.root,
        images_are_files=images_are_files,
        roots=config.roots,
        other_files=table.others,
        table_version=table.version,
    )


def read_ids(file: PoolFile) -> Iterator[pa.ChunkedArray]:
    """Yield the ids in a pool file, as strings, in pieces.

    Raises:
        PoolError: If an id is too long or not UTF-8.
    """
    for rows in _rows(file, ["id"]):
        yield rows["id"]


def _rows(file: PoolFile, columns: list[str], *, ours: bool = False) -> Iterator[pa.Table]:
    with utf8_ids(file.uri):
        for rows in file.rows(columns, _ROWS_AT_A_TIME, verified=ours):
            if longest(rows["id"]) > MOST_TEXT:
                raise PoolError(
                    f"pool file {file.uri} has an id of more than {MOST_TEXT} bytes; write the "
                    "file again with shorter ids"
                )
            yield rows


@contextmanager
def utf8_ids(uri: str) -> Iterator[None]:
    """Turn pyarrow's error about an id that is not UTF-8 into a PoolError that names the file."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise PoolError(
            f"pool file {uri} has an id that is not UTF-8 ({error}); write the file again with "
            "ids in UTF-8"
        ) from error


def _inspect(
    file: TableFile, integer_ids: bool = False
) -> tuple[PoolFile, Literal["image", "uri"]]:
    """Return a pool file with its row groups, and which of the two columns it has."""
    uri = file.uri
    with open_with_footer(uri) as (parquet, footer):
        names = parquet.schema_arrow.names
        column: Literal["image", "uri"] = "image" if "image" in names else "uri"
        if column not in names and "id" in names:
            raise PoolError(
                f"pool file {uri} has no column `image` (encoded bytes) or `uri`; it has "
                f"{', '.join(names)}"
            )
        for name in ("id", column):
            if fault := column_fault(parquet, name, integer_ids=integer_ids):
                raise PoolError(f"pool file {uri} {fault}")
        groups = range(parquet.metadata.num_row_groups)
        row_groups = [parquet.metadata.row_group(i).num_rows for i in groups]
    listed = PoolFile(uri=uri, deleted=file.deleted, row_groups=row_groups, footer=footer)
    return listed, column


def _change(file: PoolFile) -> str | None:
    try:
        now, _ = _inspect(file, integer_ids=True)
    except (PoolError, StorageError) as error:
        return str(error)
    if now == file:
        return None
    if now.row_groups == file.row_groups:
        return f"{file.uri} has changed since the round was planned, according to its footer"
    before, after = (f"row groups of {f.row_groups}" for f in (file, now))
    return f"{file.uri} had {before} when the round was planned; it now has {after}"


def _write_listing(root: str, folder: str) -> Table:
    """Write `id` and `uri` of every image file below a root as Parquet."""
    written, others = [], OtherFiles()
    found = _image_names(root, others)
    while names := list(islice(found, _ROWS_AT_A_TIME)):
        try:
            ids = pa.array(names)
        except UnicodeEncodeError as error:
            raise PoolError(
                f"the name {error.object!r} in {root} is not UTF-8, so it cannot be an id; "
                "rename it"
            ) from error
        uris = [storage.join(root, name) for name in names]
        listing = publish_table(folder, pa.table({"id": ids, "uri": uris}))
        written.append(TableFile(uri=listing))
    return Table(written, root, others)


def _image_names(root: str, others: OtherFiles) -> Iterator[str]:
    """Yield the names of the image files below a root, and note the others.

    A file whose name has no extension is an image if it starts like one. On an object store, that
    takes a request for each such file.
    """

    def is_image(name: str) -> bool:
        return recognise(storage.read_head(storage.join(root, name), HEAD_BYTES)) is not None

    names = storage.walk_files(root)
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        while some := list(islice(names, _ROWS_AT_A_TIME)):
            unnamed = [name for name in some if not extension_of(name)]
            known = set(compress(unnamed, threads.map(is_image, unnamed)))
            for name in some:
                if extension_of(name) in EXTENSIONS or name in known:
                    yield name
                else:
                    others.note(name)


def places(listing: PoolListing, wanted: pa.Table) -> Iterator[PoolListing]:
    """Yield the parts of the pool to search for a few images with `read_pool(place, only=ids)`.

    The first part is the files that held the images when they were scored. For a caller who has
    not found all images there, the second is the whole pool, because its files may have been
    renamed or rewritten since.

    Args:
        listing: Listing of the pool.
        wanted: Table with the `id` and `source` of the images.
    """
    if not len(wanted):
        return
    narrow = listing.only(set(wanted["source"].to_pylist()))
    if narrow.files:
        yield narrow
    if narrow != listing:
        yield listing
