"""Acquisition rules that need no more than a row of scores: how informative an image is.

References:
    Kirsch et al. 2023, Stochastic Batch Acquisition: A Simple Baseline for Deep Active Learning,
    https://arxiv.org/abs/2106.12059, section 3: the k best by scores with Gumbel noise are k draws
    without replacement. Kool et al. 2019, https://arxiv.org/abs/1903.06059, appendix A: why.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray.ids import hash_ids
from baal_ray.workspace.schema import SCORE_COLUMNS, SMALL_IS_INFORMATIVE, STOCHASTIC, column_of

#: Rules of which `overlaps` can tell how stable their picks are.
BY_BALD = ("bald", "power_bald", "softmax_bald")

#: What `top_k` can select by.
RANKING_RULES = (*SCORE_COLUMNS, *STOCHASTIC, "random")

Scores = npt.NDArray[np.float64]

# Of BALD in `power_bald`: with none at all, an image is drawn after all that have some.
_LEAST = float(np.finfo(np.float32).tiny)


def needed_by(rule: str) -> set[str]:
    """The columns that `information` looks at."""
    column = column_of(rule)
    noise = {"id"} if rule in (*STOCHASTIC, "random") else set()
    return noise if column is None else {column, *noise}


def scores_of(rows: pa.Table, rule: str) -> Scores:
    """The column that a rule ranks by, NaN where there is no score; zeros for "random"."""
    column = column_of(rule)
    if column is None:
        return np.zeros(len(rows))
    scores: Scores = rows[column].cast(pa.float64()).fill_null(np.nan).to_numpy()
    return scores


def information(
    rows: pa.Table,
    rule: str,
    seed: int,
    coldness: float = 1.0,
    descending_N: npt.NDArray[np.float32] | None = None,
    column: str | None = None,
) -> Scores:
    """How informative each row is by a rule: it is picked before those with less.

    Args:
        rows: with `id` and the column.
        rule: one of `RANKING_RULES`.
        seed: of the noise, which is a function of it and the id alone.
        coldness: β of the stochastic rules; at 0 they would be "random", at ∞ "bald".
        descending_N: for "softrank_bald", the scores of all images that may be picked, negated
            and sorted.
        column: what the rule is to go by in place of its own, such as BALD of other samples.

    Returns:
        N values, not finite where there is no score.
    """
    if rule == "random":
        return -_bits(rows["id"], seed)
    score_N = scores_of(rows, column or rule)
    if rule not in STOCHASTIC:
        return -score_N if rule in SMALL_IS_INFORMATIVE else score_N
    if rule == "power_bald":
        log_weight_N = np.log(np.maximum(score_N, _LEAST))
    elif rule == "softmax_bald":
        log_weight_N = score_N
    else:
        assert descending_N is not None
        log_weight_N = -np.log1p(np.searchsorted(descending_N, (-score_N).astype(np.float32)))
    noisy_N = log_weight_N + _gumbel(rows["id"], seed) / coldness
    return np.where(np.isfinite(score_N), noisy_N, np.nan)


def _gumbel(ids: pa.ChunkedArray, seed: int) -> Scores:
    """A standard Gumbel variable for each id: −ln(−ln u), u uniform between 0 and 1."""
    return -np.log(-np.log((_bits(ids, seed) + 0.5) / 2**52))


def _bits(ids: pa.ChunkedArray, seed: int) -> Scores:
    """The first 52 bits of each id's hash, which a float64 holds exactly."""
    bits_N = np.frombuffer(hash_ids(ids, seed).tobytes(), ">u8")[::2] >> 12
    return bits_N.astype(np.float64)
