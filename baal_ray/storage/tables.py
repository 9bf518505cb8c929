"""Tables of Parquet files that others wrote: one file, a folder of files, or a Delta table."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from baal_ray.errors import StorageError
from baal_ray.storage.delta_tables import LOG, delta_files
from baal_ray.storage.files import REQUESTS_AT_A_TIME, exists, is_file, join, name, read_head
from baal_ray.storage.listing import is_hidden_below, list_files
from baal_ray.storage.other_files import OtherFiles, extension_of
from baal_ray.storage.table_files import TableFile
from baal_ray.storage.uri_rules import as_here

#: The endings of the names of Parquet files, in lower case.
PARQUET_EXTENSIONS = (".parquet", ".parq", ".pq")

_PARQUET = b"PAR1"

# Files by which other kinds of table are known, by a path below the table.
_OTHER_TABLES = {
    "Iceberg": re.compile(r"(.*/)?metadata/[^/]+\.metadata\.json"),
    "Hudi": re.compile(r"(.*/)?\.hoodie/.*"),
}
_IN_DELTA = re.compile(rf"(.+)/{LOG}/.*")


@dataclass(frozen=True)
class Table:
    """The files of a table.

    Attributes:
        files: Its Parquet files, in the order of their names.
        root: Folder that relative URIs in the table begin at.
        others: Files below the folder that are not Parquet.
        version: Version of a Delta table; None for plain files.
    """

    files: list[TableFile]
    root: str
    others: OtherFiles = field(default_factory=OtherFiles)
    version: int | None = None


def find_table(uri: str) -> Table:
    """Return the files of a table: one file, all below a folder, or those of a Delta table.

    A file in a folder is Parquet by its extension. If its name has none, as Spark's `part-0000`,
    its first bytes decide. A file that is named itself may have any name.

    Raises:
        StorageError: If the folder cannot be listed, or is a table whose log is not read, because
            some of its files or rows may have been deleted.
    """
    uri = as_here(uri).rstrip("/")
    uri = uri if "://" in uri else os.path.abspath(uri)
    if exists(join(uri, LOG)):
        files, version = delta_files(uri)
        return Table(files, uri, version=version)
    _refuse_part_of_delta(uri)
    everything = list_files(uri, hidden=True)
    if not everything and is_file(uri):
        return Table([TableFile(uri=uri)], uri.rsplit("/", 1)[0])
    below = {file: file[len(uri) + 1 :] for file in everything}
    _refuse_other_tables(uri, list(below.values()))
    found = [file for file in everything if not is_hidden_below(below[file])]
    unnamed = [file for file in found if not extension_of(file)]
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        starts = threads.map(lambda file: read_head(file, len(_PARQUET)), unnamed)
        known = {file for file, start in zip(unnamed, starts, strict=True) if start == _PARQUET}
    table = Table([], uri)
    for file in found:
        if extension_of(file) in PARQUET_EXTENSIONS or file in known:
            table.files.append(TableFile(uri=file))
        else:
            table.others.note(below[file])
    return table


def _refuse_part_of_delta(uri: str) -> None:
    """Refuse a file or a partition of a Delta table, whose log would have to be read."""
    folder = uri
    while folder == uri or "=" in name(folder):
        folder = folder.rsplit("/", 1)[0]
        if folder.endswith(":/") or not folder:
            return
        if exists(join(folder, LOG)):
            raise StorageError(
                f"{uri} is a part of the Delta table {folder}, whose log says which files and "
                f"rows were deleted. Use {folder}"
            )


def _refuse_other_tables(uri: str, names: list[str]) -> None:
    for path in names:
        if inside := _IN_DELTA.fullmatch(path):
            raise StorageError(
                f"{uri} is not a table but holds the Delta table {inside[1]}. Use "
                f"{join(uri, inside[1])}"
            )
        for kind, known_by in _OTHER_TABLES.items():
            if known_by.fullmatch(path):
                raise StorageError(
                    f"{uri} is or holds an {kind} table, as {path} shows. {kind} tables are not "
                    "read, because deleted rows would be taken for the pool's. Export its rows to "
                    "Parquet or to a Delta table"
                )
