"""Tables of scores with values that a test chooses."""

from collections.abc import Sequence

import pyarrow as pa

from baal_ray.score_names import SCORE_COLUMNS, STABILITY_COLUMNS
from baal_ray.workspace.table_schemas import SCORES


def scores(ids: Sequence[str], values: Sequence[float | None], **columns: pa.Array) -> pa.Table:
    """Return a table of scores as the stage writes it. All score columns hold the same values."""
    same = {name: pa.array(values, pa.float32()) for name in (*SCORE_COLUMNS, *STABILITY_COLUMNS)}
    filled = {
        "id": pa.array(ids, pa.string()),
        "source": pa.repeat(pa.scalar("pool.parquet"), len(ids)),
        "samples": pa.repeat(pa.scalar(20, pa.int32()), len(ids)),
        **same,
        "predicted": pa.repeat(pa.scalar(0, pa.int32()), len(ids)),
        "error": pa.nulls(len(ids), pa.string()),
        "log_probs": pa.nulls(len(ids), pa.binary()),
    } | columns
    return pa.table(filled).select(SCORES.names).cast(SCORES)


def picks(table: pa.Table) -> list[str]:
    """Return the ids of picks, in their order."""
    ids: list[str] = table["id"].to_pylist()
    return ids
