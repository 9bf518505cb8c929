"""A summary of a whole folder of scores: their distribution, classes, failures and picks."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray import storage
from baal_ray.errors import CorruptFileError
from baal_ray.ids import IdSet
from baal_ray.storage.parquet import LoadedParquet
from baal_ray.workspace.scores import is_foreign, score_files

logger = logging.getLogger(__name__)

_FINE_BINS, _SHOWN_BINS = 4_096, 40

# Numbers, such as sizes, in the reasons why images are unreadable.
_NUMBER = re.compile(r"\d+")


@dataclass
class Failure:
    """Images that are unreadable for one reason.

    Attributes:
        example: Id of one of them.
        images: Number of images.
    """

    example: str
    images: int = 0


@dataclass
class ScoreSummary:
    """A summary of one folder of scores, gathered from one file after another.

    Attributes:
        column: Name of the score that is counted.
        classes: Number of classes, C.
        scored: Number of images with a score.
        picks: Rows of the acquisition batch, by id.
        predicted_C: Number of images predicted to be of each class.
        failures: Unreadable images, by reason.
    """

    column: str
    classes: int
    scored: int = 0
    picks: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.predicted_C = np.zeros(self.classes, np.int64)
        self._counts = np.zeros(_FINE_BINS, np.int64)
        # No score is below 0. Entropies reach ln C, and the others 1.
        self._most = max(1.0, math.log(self.classes))
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, table: pa.Table, batch: IdSet) -> None:
        """Count one file's rows."""
        rows = table.filter(table["error"].is_null())
        score_N = rows[self.column].cast(pa.float64()).fill_null(np.nan).to_numpy()
        score_N = score_N[np.isfinite(score_N)]
        self.scored += len(rows)
        if len(score_N):
            self._counts += np.bincount(self._bin(score_N), minlength=_FINE_BINS)
            self.lowest = min(self.lowest, float(score_N.min()))
            self.highest = max(self.highest, float(score_N.max()))
        predicted = rows["predicted"].drop_null().to_numpy()
        self.predicted_C += np.bincount(
            predicted[predicted < self.classes], minlength=self.classes
        )
        for row in rows.filter(pa.array(batch.contains(rows["id"]))).to_pylist():
            self.picks[row["id"]] = row

    def add_failures(self, table: pa.Table, readable: IdSet) -> None:
        """Count one file's unreadable images, except those that could be read another time."""
        rows = table.filter(table["error"].is_valid()).select(["id", "error"])
        rows = rows.filter(pa.array(~readable.contains(rows["id"])))
        for row in rows.to_pylist():
            reason = _NUMBER.sub("…", row["error"])
            self.failures.setdefault(reason, Failure(row["id"])).images += 1

    def histogram(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return edges of bins that span the scores, and the images and the picks in each."""
        filled = np.flatnonzero(self._counts)
        first, last = (filled[0], filled[-1]) if len(filled) else (0, 0)
        width = math.ceil((last - first + 1) / _SHOWN_BINS)
        bins = math.ceil((last - first + 1) / width)
        edges = (first + width * np.arange(bins + 1)) * self._most / _FINE_BINS
        mine = np.array([row[self.column] for row in self.picks.values()], np.float64)
        picked = np.bincount(self._bin(mine[np.isfinite(mine)]), minlength=_FINE_BINS)

        def coarse(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            padded = np.zeros(bins * width, np.int64)
            part = counts[first : first + bins * width]
            padded[: len(part)] = part
            summed: npt.NDArray[np.int64] = padded.reshape(bins, width).sum(axis=1)
            return summed

        return edges, coarse(self._counts), coarse(picked)

    def _bin(self, score_N: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        bins = (score_N / self._most * _FINE_BINS).astype(np.int64)
        return np.clip(bins, 0, _FINE_BINS - 1)


def summarize_scores(folder: str, column: str, classes: int, batch: IdSet) -> ScoreSummary:
    """Read a folder of scores, one file at a time.

    Args:
        folder: Folder of one fingerprint.
        column: Name of the score to count.
        classes: Number of classes, C.
        batch: Ids of the acquisition batch.
    """
    summary = ScoreSummary(column, classes)
    columns = {"id", "error", "predicted", "confidence", column}
    failed: list[str] = []
    for table in _tables(folder, columns):
        summary.add(table, batch)
        failed += table["id"].filter(table["error"].is_valid()).to_pylist()
    if failed:
        _add_failures(summary, folder, IdSet.of(failed))
    return summary


def _add_failures(summary: ScoreSummary, folder: str, failed: IdSet) -> None:
    """Count each unreadable image once, though each round tries it again and adds a row."""
    readable = failed_before = IdSet.of([])
    for table in _tables(folder, {"id", "error"}):
        rows = table.filter(pa.array(failed.contains(table["id"])))
        readable = readable | IdSet.of(rows["id"].filter(rows["error"].is_null()))
    for table in _tables(folder, {"id", "error"}):
        summary.add_failures(table, readable | failed_before)
        failed_before = failed_before | IdSet.of(table["id"].filter(table["error"].is_valid()))


def _tables(folder: str, columns: set[str]) -> Iterator[pa.Table]:
    for file in score_files(folder):
        try:
            data = storage.read_verified(file)
            table = LoadedParquet(data, file, verified=True).read(columns)
        except CorruptFileError as error:
            logger.warning("%s The report leaves it out.", error)
            continue
        if not is_foreign(file, table.schema):
            yield table


def predicted_counts(summary: ScoreSummary) -> npt.NDArray[np.int64]:
    """Return the number of picks predicted to be of each class."""
    predicted = Counter(row["predicted"] for row in summary.picks.values())
    return np.array([predicted[number] for number in range(summary.classes)], np.int64)
