"""Scores → the acquisition batch: the k most informative images, exactly.

A few files of scores are in memory at a time, however large the pool.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Set
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from baal_ray import storage
from baal_ray.errors import SelectionError
from baal_ray.ids import Ids, IdSet, hash_ids
from baal_ray.parquet import parse_parquet
from baal_ray.read_ahead import read_ahead
from baal_ray.rules import RANKING_RULES, Scores, column_of, information, scores_of
from baal_ray.schema import BALD_WITHOUT
from baal_ray.workspace import is_foreign

logger = logging.getLogger(__name__)


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
            "softrank_bald" (`baal_ray.rules`), or "random".
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
    return _top_k(None, scores_uri, k, by, seed, leave_out, only, coldness)


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
    _check(k, by)
    ranks = _descending(tables, leave_out, only) if by == "softrank_bald" else None
    rule = partial(information, rule=by, seed=seed, coldness=coldness, descending_N=ranks)
    return _ranked(_chosen(_Best(rule, k, seed), tables, by, leave_out, only), by)


def _top_k(
    columns: Set[str] | None,
    scores_uri: str | Iterable[str],
    k: int,
    by: str,
    seed: int,
    leave_out: IdSet | None,
    only: IdSet | None,
    coldness: float,
) -> pa.Table:
    """`top_k` with some columns only, or with all."""
    _check(k, by)
    files = list(_files(scores_uri))
    scores = _tables(files, {"id", "error", "bald"})
    ranks = _descending(scores, leave_out, only) if by == "softrank_bald" else None
    rule = partial(information, rule=by, seed=seed, coldness=coldness, descending_N=ranks)
    tables = _tables(files, columns)
    return _ranked(_chosen(_Best(rule, k, seed), tables, by, leave_out, only), by)


def _check(k: int, by: str) -> None:
    if k < 1:
        raise SelectionError(f"k is {k}; it must be at least 1")
    if by not in RANKING_RULES:
        raise SelectionError(f"by is {by!r}; it must be one of {', '.join(RANKING_RULES)}")


def _descending(
    tables: Iterable[pa.Table], leave_out: IdSet | None, only: IdSet | None
) -> npt.NDArray[np.float32]:
    """BALD of all rows that may be picked, negated and sorted."""
    found = [np.empty(0, np.float32)]
    for table in _checked(tables, {"bald"}):
        score_N = scores_of(table, "bald")
        allowed = _allowed(table, leave_out, only) & np.isfinite(score_N)
        found.append(-score_N[allowed].astype(np.float32))
    descending_N = np.concatenate(found)
    descending_N.sort()
    return descending_N


def count_eligible(
    scores_uri: str | Iterable[str], by: str, *, leave_out: IdSet | None = None
) -> int:
    """How many images `top_k` may pick from; arguments as there."""
    tables = _tables(_files(scores_uri), {"id", "error", column_of(by) or "id"})
    return sum(
        int((_allowed(table, leave_out, None) & np.isfinite(scores_of(table, by))).sum())
        for table in tables
    )


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
    columns = {"id", "source", "samples", "error", column_of(by) or "id"}
    best = _top_k(columns, scores_uri, k, by, seed, leave_out, only, coldness)
    return best.select(["id", "source"])


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
    rule = partial(information, rule=by, seed=seed, coldness=coldness)
    bests = [_Best(partial(rule, column=name), len(picked), seed) for name in BALD_WITHOUT]
    for table in _checked(_tables(_files(scores_uri)), {"id", *BALD_WITHOUT}):
        allowed = _allowed(table, leave_out, only)
        for best in bests:
            best.add(table, allowed)
    others = [best.rows()["id"] for best in bests]
    return [int(picked.contains(ids).sum()) / len(picked) for ids in others if len(ids)]


class _Best:
    """The k most informative rows of the tables seen so far.

    Rows are sorted out whenever k new ones have come together, so 2k and a table are held.
    """

    def __init__(self, information: Callable[[pa.Table], Scores], k: int, seed: int) -> None:
        self._information_of, self._k, self._seed = information, k, seed
        self._held: list[pa.Table] = []
        self._rows = 0
        self._enough = -np.inf

    def add(self, table: pa.Table, allowed: npt.NDArray[np.bool_]) -> None:
        """Consider those rows of a table that may be picked."""
        information = self._information_of(table)
        allowed = allowed & np.isfinite(information) & (information >= self._enough)
        rows = table.append_column("_information", pa.array(information)).filter(pa.array(allowed))
        if self._held:
            rows = rows.select(self._held[0].column_names)
        self._held.append(rows)
        self._rows += len(rows)
        if self._rows > 2 * self._k:
            self._sort_out()

    def rows(self) -> pa.Table:
        """Them, most informative first, with how informative each is in `_information`."""
        if not self._held:
            raise SelectionError("there are no scores to select from; score the pool first")
        self._sort_out()
        return self._held[0]

    def _sort_out(self) -> None:
        rows = pa.concat_tables(self._held, promote_options="permissive")
        best = _most_informative(rows, self._k, self._seed)
        self._held, self._rows = [best], len(best)
        if len(best) == self._k:
            self._enough = best["_information"][-1].as_py()


def _chosen(
    best: _Best, tables: Iterable[pa.Table], by: str, leave_out: IdSet | None, only: IdSet | None
) -> pa.Table:
    for table in _checked(tables, {"id", column_of(by) or "id"}):
        best.add(table, _allowed(table, leave_out, only))
    return best.rows()


def _files(scores_uri: str | Iterable[str]) -> Iterable[str]:
    """The files of scores; beside ones that baal_ray wrote, others do not belong there."""
    if not isinstance(scores_uri, str):
        return scores_uri
    files = storage.list_files(scores_uri, ".parquet")
    ours = [file for file in files if storage.is_named_by_sha256(file)]
    if ours and len(ours) < len(files):
        strange = min(set(files) - set(ours))
        logger.warning("%s is not named by a sha256, so baal_ray passes over it", strange)
    return ours or files


def _read(uri: str, columns: Set[str] | None = None) -> pa.Table:
    """Some columns of a file, or all but `log_probs`, which may be large."""
    data = storage.read_verified(uri) if storage.is_named_by_sha256(uri) else storage.read(uri)
    return parse_parquet(
        data, uri, lambda name: name in columns if columns else name != "log_probs"
    )


def _tables(files: Iterable[str], columns: Set[str] | None = None) -> Iterator[pa.Table]:
    """The files one by one, less those of another fingerprint's scores."""
    files = list(files)
    for file, table in zip(files, read_ahead(partial(_read, columns=columns), files), strict=True):
        if is_foreign(file, table.schema):
            logger.warning("%s has scores of another fingerprint: it is passed over", file)
        else:
            yield table


def _checked(tables: Iterable[pa.Table], needed: set[str]) -> Iterator[pa.Table]:
    """The tables, each with the columns it needs, and all of one K."""
    seen: set[int] = set()
    for table in tables:
        missing = sorted(needed - set(table.column_names))
        if missing:
            raise SelectionError(
                f"the scores have no column {', '.join(missing)}; they have "
                f"{', '.join(table.column_names)}. Select from a folder that baal_ray wrote"
            )
        if "samples" in table.column_names:
            seen.update(pc.unique(table["samples"].drop_null()).to_pylist())
        if len(seen) > 1:
            raise SelectionError(
                f"scores of {' and '.join(map(str, sorted(seen)))} posterior samples are mixed; "
                "BALD from K samples is about (1 - 1/K) of its limit, so they cannot be ranked "
                "together. Select from one fingerprint"
            )
        yield table


def _allowed(
    table: pa.Table, leave_out: IdSet | None, only: IdSet | None
) -> npt.NDArray[np.bool_]:
    """Which rows may be picked, whatever their score."""
    allowed = np.ones(len(table), dtype=bool)
    if "error" in table.column_names:
        allowed &= table["error"].is_null().to_numpy()
    for ids, wanted in ((leave_out, False), (only, True)):
        if ids is not None:
            allowed &= ids.contains(table["id"].cast(pa.string())) == wanted
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
