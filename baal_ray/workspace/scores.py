"""Score files: listing them, and reading as much of each as is needed."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray import storage
from baal_ray.errors import CorruptFileError
from baal_ray.ids import Hashes, IdSet, hash_ids
from baal_ray.storage.parquet import LoadedParquet
from baal_ray.storage.read_ahead import read_ahead
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE, FINGERPRINT, SCORES

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class ScoredImages:
    """Rows of scores, of which some columns are in memory.

    Attributes:
        names: Names of all columns.
        at_hand: The columns that were asked for, for all rows.
        take: Function from a mask of rows to all columns of those rows.
    """

    names: Collection[str]
    at_hand: pa.Table
    take: Callable[[npt.NDArray[np.bool_]], pa.Table]

    @classmethod
    def of(cls, table: pa.Table) -> "ScoredImages":
        """Wrap a table that is in memory."""
        return cls(table.column_names, table, lambda rows_N: table.filter(pa.array(rows_N)))


def score_files(folder: str) -> list[str]:
    """Return the files that baal_ray published in a folder of scores, each named by its sha256."""
    return list(filter(storage.is_named_by_sha256, storage.list_files(folder, ".parquet")))


def files_of(scores_uri: str | Iterable[str]) -> list[str]:
    """Return the score files of a folder. If baal_ray wrote some of them, others do not count."""
    if not isinstance(scores_uri, str):
        return list(scores_uri)
    files = storage.list_files(scores_uri, ".parquet")
    ours = [file for file in files if storage.is_named_by_sha256(file)]
    if ours and len(ours) < len(files):
        strange = min(set(files) - set(ours))
        logger.warning(
            "%s is ignored: its name is not a sha256, so baal_ray did not write it", strange
        )
    return ours or files


def read_scores(
    files: Iterable[str],
    at_hand: Collection[str],
    then: Callable[[ScoredImages], Result],
    columns: Collection[str] | None = None,
) -> Iterator[Result]:
    """Yield a function's result for each file, in order. Files of another fingerprint are skipped.

    Args:
        files: Parquet files of scores.
        at_hand: Columns to parse at once.
        then: Function of a file's rows, called in one of a few threads.
        columns: The only columns that `take` returns; None for all but `log_probs`, which may be
            large.

    Raises:
        LostFileError: If a file is missing, or its bytes do not match its name.
        CorruptFileError: If a file is not Parquet.
    """

    def read(file: str) -> Result | None:
        verified = storage.is_named_by_sha256(file)
        data = storage.read_verified(file) if verified else storage.read(file)
        loaded = LoadedParquet(data, file, verified=verified)
        if is_foreign(file, loaded.schema):
            logger.warning("%s is ignored: its scores belong to a different fingerprint", file)
            return None
        names = loaded.schema.names
        take = partial(loaded.read, columns or [name for name in names if name != "log_probs"])
        return then(ScoredImages(names, loaded.read(at_hand), take))

    return (result for result in read_ahead(read, files) if result is not None)


def most_frequent_error(folder: str) -> str | None:
    """Return the most frequent reason why images in a folder of scores cannot be read or scored.

    Raises:
        CorruptFileError: As for `read_scores`.
    """

    def errors(images: ScoredImages) -> Counter[str]:
        return Counter(images.at_hand["error"].drop_null().to_pylist())

    counts = sum(read_scores(score_files(folder), {"error"}, errors), Counter[str]())
    del counts[EVALUATION_IMAGE]
    return counts.most_common(1)[0][0] if counts else None


@dataclass(frozen=True)
class ScoredAlready:
    """The scores that a folder holds.

    Attributes:
        ids: The images that have scores. Those with an error are to be tried again.
        files: The whole files of scores.
    """

    ids: IdSet
    files: list[str]


def scored_already(folder: str, *, delete_damaged: bool = True) -> ScoredAlready:
    """Return the scores that a folder holds.

    A file that is damaged or holds no scores does not count, nor does a file with scores of
    another fingerprint.

    Args:
        folder: Folder of one fingerprint's scores.
        delete_damaged: Whether damaged files are deleted, so that their images are scored again.
    """
    scored_in = partial(_scored_in, delete_damaged=delete_damaged)
    files = score_files(folder)
    found = dict(zip(files, read_ahead(scored_in, files), strict=True))
    whole = {file: hashes for file, hashes in found.items() if hashes is not None}
    return ScoredAlready(IdSet.of_hashes(whole.values()), list(whole))


def _scored_in(file: str, *, delete_damaged: bool) -> Hashes | None:
    try:
        rows = _ids_and_errors(file)
    except CorruptFileError as error:
        logger.warning("%s. Its images are scored again.", error)
        if delete_damaged:
            storage.delete(file)
    else:
        if not is_foreign(file, rows.schema):
            return hash_ids(rows["id"].filter(rows["error"].is_null()))
        logger.warning(
            "%s has scores for a different fingerprint, so its images count as unscored", file
        )
    return None


def _ids_and_errors(file: str) -> pa.Table:
    wanted = pa.schema([SCORES.field("id"), SCORES.field("error")])
    rows = LoadedParquet(storage.read_verified(file), file, verified=True).read(wanted.names)
    if rows.schema != wanted:
        raise CorruptFileError(f"{file} is not a file of scores")
    return rows


def is_foreign(file: str, schema: pa.Schema) -> bool:
    """Return whether a score file was written for another fingerprint than that of its folder."""
    written_for = (schema.metadata or {}).get(FINGERPRINT)
    folder = file.split("/")[-2] if "/" in file else ""
    is_fingerprint = re.fullmatch("[0-9a-f]{32}", folder) is not None
    return written_for is not None and is_fingerprint and written_for.decode() != folder
