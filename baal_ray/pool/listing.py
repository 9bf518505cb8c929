"""The contents of the pool: its files with their row groups and columns, and its ids."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal

import pyarrow as pa

from baal_ray import storage
from baal_ray.config import PoolConfig
from baal_ray.errors import PoolError, StorageError
from baal_ray.ids import IdSet, hash_ids
from baal_ray.storage.bounded_rows import MOST_TEXT, bounded_rows, longest
from baal_ray.storage.files import REQUESTS_AT_A_TIME
from baal_ray.storage.parquet import open_parquet, open_with_footer, publish_table
from baal_ray.workspace.stage_files import ListedPool, PoolFile

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")

_ROWS_AT_A_TIME = 100_000

_STRING = ("string", (pa.string(), pa.large_string(), pa.string_view()))
_BINARY = ("binary: encoded bytes", (pa.binary(), pa.large_binary(), pa.binary_view()))
_TYPES = {"id": _STRING, "uri": _STRING, "image": _BINARY}


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
            with open_parquet(file.uri) as parquet:
                for batch in bounded_rows(parquet, columns):
                    everywhere = pa.repeat(pa.scalar(file.uri), len(batch))
                    source = batch["uri"] if self.images_are_files else everywhere
                    yield pa.table({"id": id_column(batch, file.uri), "source": source})

    def ids(self) -> IdSet:
        """Return the ids of all images, at 16 bytes per id."""
        return IdSet.of_hashes(hash_ids(rows["id"]) for rows in self.read_ids())

    def changes(self) -> list[str]:
        """Return what has changed in the files since they were listed. No image is read."""
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
            return [change for change in threads.map(_change, self.files) if change is not None]

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
    if images_are_files:
        uris = _write_listing(config.uri, folder)
    else:
        # Spark and Ray write folders whose names end like a file's.
        uris = storage.list_files(config.uri, ".parquet")
        if not uris and config.uri.endswith(".parquet") and storage.exists(config.uri):
            uris = [config.uri]
    if not uris:
        wanted = ", ".join(IMAGE_EXTENSIONS) if images_are_files else ".parquet"
        raise PoolError(
            f"pool.uri is {config.uri!r}, where there are no {wanted} files; correct it or "
            "pool.format"
        )
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        found = list(threads.map(_inspect, uris))
    by_column = {column: file.uri for file, column in found}
    if len(by_column) > 1:
        raise PoolError(
            f"some pool files hold `image` ({by_column['image']}), others `uri` "
            f"({by_column['uri']}); write all of them with the same column"
        )
    (column,) = by_column
    root = config.uri.rsplit("/", 1)[0] if uris == [config.uri] else config.uri
    return PoolListing(
        files=[file for file, _ in found],
        column=column,
        root=root,
        images_are_files=images_are_files,
        roots=config.roots,
    )


def id_column(rows: pa.RecordBatch | pa.Table, uri: str) -> pa.Array | pa.ChunkedArray:
    """Return the ids of some rows of a pool file, as strings.

    Raises:
        PoolError: If an id is too long or not UTF-8.
    """
    if longest(rows["id"]) > MOST_TEXT:
        raise PoolError(
            f"pool file {uri} has an id of more than {MOST_TEXT} bytes; write the file again with "
            "shorter ids"
        )
    try:
        ids = rows["id"].cast(pa.string())
        ids.validate(full=True)
    except pa.ArrowInvalid as error:
        raise PoolError(
            f"pool file {uri} has an id that is not UTF-8 ({error}); write the file again with "
            "ids in UTF-8"
        ) from error
    return ids


def _inspect(uri: str) -> tuple[PoolFile, Literal["image", "uri"]]:
    """Return a pool file with its row groups, and which of the two columns it has.

    The type of a dictionary-encoded column, such as pandas' categories, is that of its values.
    """
    with open_with_footer(uri) as (parquet, footer):
        names = parquet.schema_arrow.names
        columns = {
            field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            for field in parquet.schema_arrow
        }
        groups = range(parquet.metadata.num_row_groups)
        row_groups = [parquet.metadata.row_group(i).num_rows for i in groups]
        file = PoolFile(uri=uri, row_groups=row_groups, footer=footer)
    column: Literal["image", "uri"] = "image" if "image" in columns else "uri"
    for name in ("id", column):
        if name not in columns:
            wanted = "id" if name == "id" else "image` (encoded bytes) or `uri"
            raise PoolError(
                f"pool file {uri} has no column `{wanted}`; it has {', '.join(columns)}"
            )
        if names.count(name) > 1:
            raise PoolError(
                f"pool file {uri} has {names.count(name)} columns `{name}`; there must be one. "
                "Write the file again with only one"
            )
        wanted, allowed = _TYPES[name]
        if columns[name] not in allowed:
            raise PoolError(
                f"pool file {uri} has a column `{name}` of type {columns[name]}; it must be "
                f"{wanted}. Write the file again with that type"
            )
    return file, column


def _change(file: PoolFile) -> str | None:
    try:
        now, _ = _inspect(file.uri)
    except (PoolError, StorageError) as error:
        return str(error)
    if now == file:
        return None
    if now.row_groups == file.row_groups:
        return f"{file.uri} has changed since the round was planned, according to its footer"
    before, after = (f"row groups of {f.row_groups}" for f in (file, now))
    return f"{file.uri} had {before} when the round was planned; it now has {after}"


def _write_listing(root: str, folder: str) -> list[str]:
    """Write `id` and `uri` of every image file below a root as Parquet, and return the files."""
    written = []
    found = (n for n in storage.walk_files(root) if n.lower().endswith(IMAGE_EXTENSIONS))
    while names := list(islice(found, _ROWS_AT_A_TIME)):
        try:
            ids = pa.array(names)
        except UnicodeEncodeError as error:
            raise PoolError(
                f"the name {error.object!r} in {root} is not UTF-8, so it cannot be an id; "
                "rename it"
            ) from error
        uris = [storage.join(root, name) for name in names]
        written.append(publish_table(folder, pa.table({"id": ids, "uri": uris})))
    return written


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
    yield narrow
    if narrow != listing:
        yield listing
