"""Rankings of scored images: the k most informative ones, exactly.

A few files of scores are in memory at a time, however large the pool.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from baal_ray.errors import SelectionError
from baal_ray.ids import Ids, IdSet, hash_ids
from baal_ray.score_names import BALD_WITHOUT, RANKING_RULES, column_of
from baal_ray.selection.other_samples import of_other_samples
from baal_ray.selection.ranking_rules import Scores, information, needed_by
from baal_ray.workspace.scores import ScoredImages, files_of, read_scores

Mask: TypeAlias = npt.NDArray[np.bool_]


def top_k(
    scores_uri: str | Iterable[str],
    k: int,
    by: str = "bald",
    seed: int = 0,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
    coldness: float = 1.0,
) -> pa.Table:
    """Return the k most informative scored images.

    Ties are broken by a hash of (id, seed), so coarse scores favour no folder. If an id was scored
    twice, its highest score counts. Images with an error or a score that is not finite are never
    picked. At most 2k rows and five files are in memory at a time.

    Args:
        scores_uri: Folder of score files, or the files themselves. In a folder that baal_ray
            wrote, only its own files count, each named by its sha256.
        k: Number of images. If there are fewer, all are returned.
        by: Acquisition rule: the name of a score column, "power_bald" or "softmax_bald"
            (`baal_ray.selection.ranking_rules`), or "random".
        seed: Seed for breaking ties, and for the rules that draw at random.
        leave_out: Ids to exclude.
        only: Ids to choose among; all if None.
        coldness: β of the stochastic rules, above 0. The higher, the less random.

    Returns:
        The scores' columns, with `rank` (from 1), `score` (the rule's score, without the noise)
        and `rule`, most informative first.

    Raises:
        SelectionError: If k is not positive, if the rule or its column does not exist, if there
            are no scores, or if scores of different K are mixed.
        CorruptFileError: If a file's bytes do not match its name, or are not Parquet.
    """
    return Ranking(by, seed, leave_out, only, coldness).best(files_of(scores_uri), k)


@dataclass(frozen=True)
class Ranking:
    """An order of scored images, most informative first.

    Attributes:
        by: Acquisition rule, as for `top_k`.
        seed: Seed for breaking ties, and for the rules that draw at random.
        leave_out: Ids that are not ranked.
        only: Ids that are ranked; all if None.
        coldness: β of the stochastic rules.
        column: Column to rank by in place of the rule's own.
    """

    by: str
    seed: int = 0
    leave_out: IdSet | None = None
    only: IdSet | None = None
    coldness: float = 1.0
    column: str | None = None

    def __post_init__(self) -> None:
        """Refuse a rule that does not exist."""
        if self.by not in RANKING_RULES:
            known = ", ".join(RANKING_RULES)
            raise SelectionError(f"by is {self.by!r}; it must be one of {known}")

    def best(self, files: Iterable[str], k: int) -> pa.Table:
        """Return the first k images in files of scores; result and errors as for `top_k`."""
        return self._ranked(self._best(files, k))

    def best_of(self, tables: Iterable[pa.Table], k: int) -> pa.Table:
        """Return the first k images in tables, read one at a time; otherwise as `best`.

        The rule "random" needs no columns but `id` and `source`.
        """
        best = _Best(self, k)
        for table in tables:
            best.add(best.candidates(ScoredImages.of(table)))
        return self._ranked(best.rows())

    def ids(self, files: Iterable[str], k: int) -> pa.Table:
        """Return `id` and `source` of what `best` returns.

        This works even for a k whose full rows would not fit in memory.
        """
        columns = {"id", "source", "error", column_of(self.by) or "id"}
        return self._best(files, k, columns).select(["id", "source"])

    def count(self, files: Iterable[str]) -> int:
        """Return the number of images that are ranked."""

        def count(images: ScoredImages) -> int:
            finite = np.isfinite(self.information(images))
            return int((self.ranks(images.at_hand) & finite).sum())

        return sum(read_scores(files, {"id", "error", *self.needed}, count))

    def overlaps(self, files: Iterable[str], picks: Ids) -> list[float]:
        """Estimate how much of a batch K other posterior samples would pick as well.

        There is an estimate for each fifth of the samples, from how BALD changes without it
        (`baal_ray.selection.other_samples`). One pass ranks by all, with the same random draw.

        Args:
            files: Files of scores.
            picks: The first ids of this ranking, by "bald", "power_bald" or "softmax_bald".

        Returns:
            Shares of the picks, 0 to 1. If K is less than 5, some fifths have no scores and are
            left out. For K < 3 there are none.

        Raises:
            SelectionError: As for `top_k`.
            CorruptFileError: As for `top_k`.
        """
        picked = IdSet.of(picks)
        if not len(picked):
            return []
        bests = [_Best(replace(self, column=name), len(picked)) for name in BALD_WITHOUT]

        def candidates(images: ScoredImages) -> list[pa.Table]:
            _check_columns(images, {"bald", *BALD_WITHOUT})
            others = ScoredImages.of(of_other_samples(images.at_hand))
            return [best.candidates(others) for best in bests]

        at_hand = {"id", "error", *self.needed, *BALD_WITHOUT}
        for tables in read_scores(files, at_hand, candidates):
            for best, rows in zip(bests, tables, strict=True):
                best.add(rows)
        others = [best.rows()["id"] for best in bests]
        return [int(picked.contains(ids).sum()) / len(picked) for ids in others if len(ids)]

    @property
    def needed(self) -> set[str]:
        """The columns that `information` reads, and the one that holds K."""
        return needed_by(self.by) | {"samples"}

    def information(self, images: ScoredImages) -> Scores:
        """Return how informative each image is; not finite if it has no score."""
        _check_columns(images, needed_by(self.by))
        return information(images.at_hand, self.by, self.seed, self.coldness, self.column)

    def ranks(self, rows: pa.Table) -> Mask:
        """Return which rows may be ranked, whatever their score."""
        ranks = np.ones(len(rows), dtype=bool)
        if "error" in rows.column_names:
            ranks &= rows["error"].is_null().to_numpy()
        for ids, wanted in ((self.leave_out, False), (self.only, True)):
            if ids is not None:
                ranks &= ids.contains(rows["id"].cast(pa.string())) == wanted
        return ranks

    def _best(
        self, files: Iterable[str], k: int, columns: Collection[str] | None = None
    ) -> pa.Table:
        best = _Best(self, k)
        for rows in read_scores(files, self.needed, best.candidates, columns):
            best.add(rows)
        return best.rows()

    def _ranked(self, best: pa.Table) -> pa.Table:
        column = column_of(self.by)
        score = best[column].cast(pa.float32()) if column else pa.nulls(len(best), pa.float32())
        return (
            best.drop_columns(["_information"])
            .append_column("rank", pa.array(np.arange(1, len(best) + 1), pa.int32()))
            .append_column("score", score)
            .append_column("rule", pa.repeat(pa.scalar(self.by), len(best)))
        )


class _Best:
    """The k most informative rows of the tables seen so far.

    Rows are sorted whenever more than 2k are held, so at most 2k and a table are in memory.
    """

    def __init__(self, ranking: Ranking, k: int) -> None:
        if k < 1:
            raise SelectionError(f"k is {k}; it must be at least 1")
        self._ranking, self._k, self._enough = ranking, k, -np.inf
        self._samples: set[int] = set()
        self._held: list[pa.Table] = []
        self._rows = 0

    def candidates(self, images: ScoredImages) -> pa.Table:
        """Return the images that may be among the best. The rest of the other rows is not read.

        Several threads may call it.
        """
        if "samples" in images.names:
            self._samples.update(pc.unique(images.at_hand["samples"].drop_null()).to_pylist())
            _check_one_k(self._samples)
        information = self._ranking.information(images)
        enough = np.isfinite(information) & (information >= self._enough)
        rows = images.take(enough).append_column("_information", pa.array(information[enough]))
        return rows.filter(pa.array(self._ranking.ranks(rows)))

    def add(self, candidates: pa.Table) -> None:
        """Hold candidates until they are sorted."""
        if self._held:
            candidates = candidates.select(self._held[0].column_names)
        self._held.append(candidates)
        self._rows += len(candidates)
        if self._rows > 2 * self._k:
            self._sort_out()

    def rows(self) -> pa.Table:
        """Return the rows, most informative first, with `_information`."""
        if not self._held:
            raise SelectionError("there are no scores to select from; score the pool first")
        self._sort_out()
        return self._held[0]

    def _sort_out(self) -> None:
        rows = pa.concat_tables(self._held, promote_options="permissive")
        best = _most_informative(rows, self._k, self._ranking.seed)
        self._held, self._rows = [best], len(best)
        if len(best) == self._k:
            self._enough = best["_information"][-1].as_py()


def _check_columns(images: ScoredImages, needed: set[str]) -> None:
    missing = sorted({"id", *needed} - set(images.names))
    if missing:
        raise SelectionError(
            f"the scores have no column {', '.join(missing)}; they have "
            f"{', '.join(images.names)}. Select from a folder that baal_ray wrote"
        )


def _check_one_k(samples: set[int]) -> None:
    if len(samples) > 1:
        raise SelectionError(
            f"scores of {' and '.join(map(str, sorted(samples)))} posterior samples are mixed; "
            "they cannot be ranked together, because BALD from K samples is about (1 - 1/K) of "
            "its limit. Select from one fingerprint"
        )


def _most_informative(rows: pa.Table, k: int, seed: int) -> pa.Table:
    """Return at most k rows, one per id, most informative first."""
    ties = hash_ids(rows["id"], seed)
    order = np.lexsort((ties, -rows["_information"].to_numpy()))
    _, first_of_id = np.unique(ties[order], return_index=True)
    return rows.take(order[np.sort(first_of_id)[:k]])
