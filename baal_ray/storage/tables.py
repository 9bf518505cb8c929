"""Tables of Parquet files that others wrote, found by extension or by content."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from baal_ray.storage.files import REQUESTS_AT_A_TIME, is_file, read_head
from baal_ray.storage.listing import list_files
from baal_ray.storage.other_files import OtherFiles, extension_of

#: The endings of the names of Parquet files, in lower case.
PARQUET_EXTENSIONS = (".parquet", ".parq", ".pq")

_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Table:
    """The files of a table.

    Attributes:
        files: URIs of its Parquet files, sorted.
        root: Folder that relative URIs in the table begin at.
        others: Files below the folder that are not Parquet.
    """

    files: list[str]
    root: str
    others: OtherFiles


def find_table(uri: str) -> Table:
    """Return the files of a table: one Parquet file, or all below a folder or prefix.

    A file in a folder is Parquet by its extension. If its name has none, as Spark's `part-0000`,
    its first bytes decide. A file that is named itself may have any name.

    Raises:
        StorageError: If the folder cannot be listed.
    """
    found, others = list_files(uri), OtherFiles()
    if not found and is_file(uri):
        return Table([uri], uri.rsplit("/", 1)[0], others)
    unnamed = [file for file in found if not extension_of(file)]
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        starts = threads.map(lambda file: read_head(file, len(_PARQUET)), unnamed)
        known = {file for file, start in zip(unnamed, starts, strict=True) if start == _PARQUET}
    files = [file for file in found if extension_of(file) in PARQUET_EXTENSIONS or file in known]
    for other in sorted(set(found) - set(files)):
        others.note(other)
    return Table(files, uri, others)
