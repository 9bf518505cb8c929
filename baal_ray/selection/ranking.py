"""Scores → the acquisition batch: the k most informative images, exactly.

A few files of scores are in memory at a time, however large the pool.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from baal_ray.errors import SelectionError
from baal_ray.ids import Ids, IdSet, hash_ids
from baal_ray.selection.rules import RANKING_RULES, Scores, information, needed_by, scores_of
from baal_ray.workspace.schema import BALD_WITHOUT, column_of
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
    """The k most informative images among scored ones.

    Ties are broken by a hash of (id, seed), so coarse scores favour no folder. Of an id that was
    scored twice the highest score counts. Images with an error or a score that is not finite are
    never picked. At most 2k rows and five files are in memory at a time; for "softrank_bald" all
    scores too, 4 bytes an image.

    Args:
        scores_uri: a folder of score files, or the files themselves. Of a folder that baal_ray
            wrote only its own files count, each named by its sha256.
        k: how many; there may be fewer images than that.
        by: an acquisition rule: the name of a score column, "power_bald", "softmax_bald" or
            "softrank_bald" (`baal_ray.selection.rules`), or "random".
        seed: of the ties, and of the rules that draw at random.
        leave_out: ids to pass over.
        only: ids to keep to.
        coldness: β of the stochastic rules, above 0: the higher, the less random.

    Returns:
        The scores' columns, with `rank` (from 1), `score` (what the rule draws by, without the
        noise) and `rule`, most informative first.

    Raises:
        SelectionError: k is not positive, the rule or its column does not exist, there are no
            scores, or scores of different K are mixed.
        CorruptFileError: a file's bytes are not those that its name promises, or no Parquet.
    """
    ranking = _Ranking(by, k, seed, coldness, leave_out, only)
    return _ranked(_best_of_files(ranking, files_of(scores_uri)), by)


def top_k_of(
    tables: Iterable[pa.Table],
    k: int,
    by: str,
    seed: int,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
    coldness: float = 1.0,
) -> pa.Table:
    """`top_k` over tables, read one at a time; "random" needs no columns but `id` and `source`.

    For "softrank_bald" they must be a sequence, as they are read twice.
    """
    ranking = _Ranking(by, k, seed, coldness, leave_out, only)
    if by == "softrank_bald":
        ranking = ranking.knowing(ranking.eligible_bald(ScoredImages.of(rows)) for rows in tables)
    best = _Best(ranking)
    for table in tables:
        best.add(best.candidates(ScoredImages.of(table)))
    return _ranked(best.rows(), by)


@dataclass(frozen=True)
class _Ranking:
    """What makes an image more informative than another, and which may be picked."""

    by: str
    k: int
    seed: int
    coldness: float
    leave_out: IdSet | None
    only: IdSet | None
    descending_N: npt.NDArray[np.float32] | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SelectionError(f"k is {self.k}; it must be at least 1")
        if self.by not in RANKING_RULES:
            known = ", ".join(RANKING_RULES)
            raise SelectionError(f"by is {self.by!r}; it must be one of {known}")

    @property
    def needed(self) -> set[str]:
        """The columns that `information` looks at, and the one that tells K."""
        return needed_by(self.by) | {"samples"}

    def information(self, images: ScoredImages) -> Scores:
        """How informative each image is; not finite if it has no score."""
        _check_columns(images, needed_by(self.by))
        return information(
            images.at_hand, self.by, self.seed, self.coldness, self.descending_N, self.column
        )

    def allowed(self, rows: pa.Table) -> Mask:
        """Which rows may be picked, whatever their score."""
        return _allowed(rows, self.leave_out, self.only)

    def eligible_bald(self, images: ScoredImages) -> npt.NDArray[np.float32]:
        """BALD of the images that may be picked."""
        _check_columns(images, {"id", "bald"})
        bald_N = scores_of(images.at_hand, "bald")
        eligible = np.isfinite(bald_N) & self.allowed(images.at_hand)
        return bald_N[eligible].astype(np.float32)

    def knowing(self, eligible_bald: Iterable[npt.NDArray[np.float32]]) -> "_Ranking":
        """The same with BALD of all images that may be picked, by which "softrank_bald" ranks."""
        descending_N = -np.concatenate([np.empty(0, np.float32), *eligible_bald])
        descending_N.sort()
        return replace(self, descending_N=descending_N)


def _best_of_files(
    ranking: _Ranking, files: Sequence[str], columns: Collection[str] | None = None
) -> pa.Table:
    """The best rows of all files."""
    if ranking.by == "softrank_bald":
        at_hand = ("id", "bald", "error")
        ranking = ranking.knowing(read_scores(files, at_hand, ranking.eligible_bald))

    best = _Best(ranking)
    for rows in read_scores(files, ranking.needed, best.candidates, columns):
        best.add(rows)
    return best.rows()


def count_eligible(
    scores_uri: str | Iterable[str], by: str, *, leave_out: IdSet | None = None
) -> int:
    """How many images `top_k` may pick from; arguments as there."""

    def count(images: ScoredImages) -> int:
        rows = images.at_hand
        return int((_allowed(rows, leave_out, None) & np.isfinite(scores_of(rows, by))).sum())

    return sum(read_scores(files_of(scores_uri), {"id", "error", column_of(by) or "id"}, count))


def top_ids(
    scores_uri: str | Iterable[str],
    k: int,
    by: str,
    seed: int = 0,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
    coldness: float = 1.0,
) -> pa.Table:
    """The `id` and `source` of what `top_k` would pick, for a k too large for all columns."""
    columns = {"id", "source", "error", column_of(by) or "id"}
    ranking = _Ranking(by, k, seed, coldness, leave_out, only)
    return _best_of_files(ranking, files_of(scores_uri), columns).select(["id", "source"])


def overlaps(
    scores_uri: str | Iterable[str],
    picks: Ids,
    by: str = "bald",
    seed: int = 0,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
    coldness: float = 1.0,
) -> list[float]:
    """How much of a batch stays when a fifth of the posterior samples is left out.

    The other arguments are those that the picks were made with. All fifths are ranked in one pass,
    as `top_k` does.

    Args:
        scores_uri: as for `top_k`.
        picks: the ids picked.
        by: "bald", "power_bald" or "softmax_bald"; the luck of the draw stays the same.
        seed: as for `top_k`.
        leave_out: as for `top_k`.
        only: as for `top_k`.
        coldness: as for `top_k`.

    Returns:
        For each fifth the share of the picks, 0 to 1, that would have been picked without it. A
        fifth that no image has a score without, as K is less than 5, is not among them; for K = 1
        there are none.

    Raises:
        SelectionError: as for `top_k`.
        CorruptFileError: as for `top_k`.
    """
    picked = IdSet.of(picks)
    if not len(picked):
        return []
    ranking = _Ranking(by, len(picked), seed, coldness, leave_out, only)
    bests = [_Best(replace(ranking, column=name)) for name in BALD_WITHOUT]

    def candidates(images: ScoredImages) -> list[pa.Table]:
        _check_columns(images, set(BALD_WITHOUT))
        return [best.candidates(ScoredImages.of(images.at_hand)) for best in bests]

    at_hand = {"id", "error", *ranking.needed, *BALD_WITHOUT}
    for tables in read_scores(files_of(scores_uri), at_hand, candidates):
        for best, rows in zip(bests, tables, strict=True):
            best.add(rows)
    others = [best.rows()["id"] for best in bests]
    return [int(picked.contains(ids).sum()) / len(picked) for ids in others if len(ids)]


class _Best:
    """The k most informative rows of the tables seen so far.

    Rows are sorted out whenever k new ones have come together, so 2k and a table are held.
    """

    def __init__(self, ranking: _Ranking) -> None:
        self._ranking, self._enough = ranking, -np.inf
        self._samples: set[int] = set()
        self._held: list[pa.Table] = []
        self._rows = 0

    def candidates(self, images: ScoredImages) -> pa.Table:
        """Those images that may be among the best; of the others no more is read.

        It may be called in several threads.
        """
        if "samples" in images.names:
            self._samples.update(pc.unique(images.at_hand["samples"].drop_null()).to_pylist())
            _check_one_k(self._samples)
        information = self._ranking.information(images)
        enough = np.isfinite(information) & (information >= self._enough)
        rows = images.take(enough).append_column("_information", pa.array(information[enough]))
        return rows.filter(pa.array(self._ranking.allowed(rows)))

    def add(self, candidates: pa.Table) -> None:
        """Hold candidates until they are sorted out."""
        if self._held:
            candidates = candidates.select(self._held[0].column_names)
        self._held.append(candidates)
        self._rows += len(candidates)
        if self._rows > 2 * self._ranking.k:
            self._sort_out()

    def rows(self) -> pa.Table:
        """Them, most informative first, with how informative each is in `_information`."""
        if not self._held:
            raise SelectionError("there are no scores to select from; score the pool first")
        self._sort_out()
        return self._held[0]

    def _sort_out(self) -> None:
        rows = pa.concat_tables(self._held, promote_options="permissive")
        best = _most_informative(rows, self._ranking.k, self._ranking.seed)
        self._held, self._rows = [best], len(best)
        if len(best) == self._ranking.k:
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
            "BALD from K samples is about (1 - 1/K) of its limit, so they cannot be ranked "
            "together. Select from one fingerprint"
        )


def _allowed(rows: pa.Table, leave_out: IdSet | None, only: IdSet | None) -> Mask:
    """Which rows may be picked, whatever their score."""
    allowed = np.ones(len(rows), dtype=bool)
    if "error" in rows.column_names:
        allowed &= rows["error"].is_null().to_numpy()
    for ids, wanted in ((leave_out, False), (only, True)):
        if ids is not None:
            allowed &= ids.contains(rows["id"].cast(pa.string())) == wanted
    return allowed


def _most_informative(rows: pa.Table, k: int, seed: int) -> pa.Table:
    """At most k rows, one an id, most informative first."""
    ties = hash_ids(rows["id"], seed)
    order = np.lexsort((ties, -rows["_information"].to_numpy()))
    _, first_of_id = np.unique(ties[order], return_index=True)
    return rows.take(order[np.sort(first_of_id)[:k]])


def _ranked(best: pa.Table, by: str) -> pa.Table:
    column = column_of(by)
    score = best[column].cast(pa.float32()) if column else pa.nulls(len(best), pa.float32())
    return (
        best.drop_columns(["_information"])
        .append_column("rank", pa.array(np.arange(1, len(best) + 1), pa.int32()))
        .append_column("score", score)
        .append_column("rule", pa.repeat(pa.scalar(by), len(best)))
    )
