"""Scores → the acquisition batch: the k most informative images, exactly.

One file of scores is in memory at a time, however large the pool.
"""

from collections.abc import Iterable, Iterator
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from baal_ray import storage
from baal_ray.config import Rule
from baal_ray.errors import SelectionError
from baal_ray.ids import IdSet, hash_ids

RULES: tuple[str, ...] = get_args(Rule)
# Of these, little is informative; of the others, much.
_SMALL_IS_INFORMATIVE = {"margin", "confidence"}


def top_k(
    scores_uri: str | Iterable[str],
    k: int,
    by: str = "bald",
    seed: int = 0,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
) -> pa.Table:
    """The k most informative images among scored ones.

    Ties are broken by a hash of (id, seed), so coarse scores favour no folder. Of an id that was
    scored twice the highest score counts. Images with an error or a score that is not finite are
    never picked. At most k rows and one file are in memory at a time.

    Args:
        scores_uri: a folder of score files, or the files themselves.
        k: how many; there may be fewer images than that.
        by: an acquisition rule: the name of a score column, or "random".
        seed: of the ties, and of "random".
        leave_out: ids to pass over.
        only: ids to keep to.

    Returns:
        The scores' columns, with `rank` (from 1), `score` and `rule`, most informative first.

    Raises:
        SelectionError: k is not positive, the rule or its column does not exist, there are no
            scores, or scores of different K are mixed.
        CorruptFileError: a file's bytes are not those that its name promises.
    """
    files = (
        storage.list_files(scores_uri, ".parquet") if isinstance(scores_uri, str) else scores_uri
    )
    return top_k_of(map(_read, files), k, by, seed, leave_out=leave_out, only=only)


def top_k_of(
    tables: Iterable[pa.Table],
    k: int,
    by: str,
    seed: int,
    *,
    leave_out: IdSet | None = None,
    only: IdSet | None = None,
) -> pa.Table:
    """`top_k` over tables, read one at a time; "random" needs no columns but `id` and `source`."""
    if k < 1:
        raise SelectionError(f"k is {k}; it must be at least 1")
    if by not in RULES:
        raise SelectionError(f"by is {by!r}; it must be one of {', '.join(RULES)}")
    best: pa.Table | None = None
    for table in _of_one_k(tables):
        rows = _eligible(table, by, leave_out, only)
        if best is not None:
            if len(best) == k:
                rows = rows.filter(
                    pc.greater_equal(rows["_information"], best["_information"][-1])
                )
            rows = pa.concat_tables(
                [best, rows.select(best.column_names)], promote_options="permissive"
            )
        best = _most_informative(rows, k, seed)
    if best is None:
        raise SelectionError("there are no scores to select from; score the pool first")
    return _ranked(best, by)


def _read(uri: str) -> pa.Table:
    data = storage.read_verified(uri) if storage.is_named_by_sha256(uri) else storage.read(uri)
    return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)


def _of_one_k(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    seen: set[int] = set()
    for table in tables:
        if "samples" in table.column_names:
            seen.update(pc.unique(table["samples"].drop_null()).to_pylist())
        if len(seen) > 1:
            raise SelectionError(
                f"scores of {' and '.join(map(str, sorted(seen)))} posterior samples are mixed; "
                "BALD from K samples is about (1 - 1/K) of its limit, so they cannot be ranked "
                "together. Select from one fingerprint"
            )
        yield table


def _eligible(table: pa.Table, by: str, leave_out: IdSet | None, only: IdSet | None) -> pa.Table:
    """The rows that may be picked, with how informative each is."""
    needed = {"id"} if by == "random" else {"id", by}
    missing = sorted(needed - set(table.column_names))
    if missing:
        raise SelectionError(
            f"the scores have no column {', '.join(missing)}; they have "
            f"{', '.join(table.column_names)}. Select from a folder that baal_ray wrote"
        )
    information = _information(table, by)
    eligible = np.isfinite(information)
    if "error" in table.column_names:
        eligible &= table["error"].is_null().to_numpy()
    for ids, wanted in ((leave_out, False), (only, True)):
        if ids is not None:
            eligible &= ids.contains(table["id"].cast(pa.string())) == wanted
    return table.append_column("_information", pa.array(information)).filter(pa.array(eligible))


def _information(table: pa.Table, by: str) -> npt.NDArray[np.float64]:
    if by == "random":
        return np.zeros(len(table))
    score: npt.NDArray[np.float64] = table[by].cast(pa.float64()).fill_null(np.nan).to_numpy()
    return -score if by in _SMALL_IS_INFORMATIVE else score


def _most_informative(rows: pa.Table, k: int, seed: int) -> pa.Table:
    """At most k rows, one an id, most informative first."""
    ties = hash_ids(rows["id"], seed)
    order = np.lexsort((ties, -rows["_information"].to_numpy()))
    _, first_of_id = np.unique(ties[order], return_index=True)
    return rows.take(order[np.sort(first_of_id)[:k]])


def _ranked(best: pa.Table, by: str) -> pa.Table:
    nulls = pa.nulls(len(best), pa.float32())
    return (
        best.drop_columns(["_information"])
        .append_column("rank", pa.array(np.arange(1, len(best) + 1), pa.int32()))
        .append_column("score", nulls if by == "random" else best[by].cast(pa.float32()))
        .append_column("rule", pa.repeat(pa.scalar(by), len(best)))
    )
