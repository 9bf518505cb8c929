"""Acquisition rules that need only a row of scores per image.

References:
    Kirsch et al. 2023, Stochastic Batch Acquisition: A Simple Baseline for Deep Active Learning,
    https://arxiv.org/abs/2106.12059, section 3: the k best by scores with Gumbel noise are k draws
    without replacement. Kool et al. 2019, https://arxiv.org/abs/1903.06059, appendix A, prove it.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray.ids import hash_ids
from baal_ray.score_names import SMALL_IS_INFORMATIVE, STOCHASTIC_RULES, column_of

Scores = npt.NDArray[np.float64]


def needed_by(rule: str) -> set[str]:
    """Return the columns that `information` reads."""
    column = column_of(rule)
    noise = {"id"} if rule in (*STOCHASTIC_RULES, "random") else set()
    return noise if column is None else {column, *noise}


def scores_of(rows: pa.Table, rule: str) -> Scores:
    """Return the column that a rule ranks by, NaN where there is no score; zeros for "random"."""
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
    column: str | None = None,
) -> Scores:
    """Return how informative each row is by a rule. Rows with more are picked first.

    Args:
        rows: Rows with `id` and the column of the rule.
        rule: One of `score_names.RANKING_RULES`.
        seed: Seed of the noise, which depends on it and the id alone.
        coldness: β of the stochastic rules. At 0 they would be "random", at ∞ "bald".
        column: Column to use in place of the rule's own, such as BALD of other samples.

    Returns:
        N values, not finite where there is no score, and for "power_bald" where BALD is 0: then
        the weight BALD^β is 0 too, so the image is never drawn.
    """
    if rule == "random":
        return -_bits(rows["id"], seed)
    score_N = scores_of(rows, column or rule)
    if rule not in STOCHASTIC_RULES:
        return -score_N if rule in SMALL_IS_INFORMATIVE else score_N
    log_weight_N = score_N
    if rule == "power_bald":
        with np.errstate(divide="ignore"):  # ln 0 = −∞
            log_weight_N = np.log(np.maximum(score_N, 0))
    noisy_N = log_weight_N + _gumbel(rows["id"], seed) / coldness
    return np.where(np.isfinite(score_N), noisy_N, np.nan)


def _gumbel(ids: pa.ChunkedArray, seed: int) -> Scores:
    """Return a standard Gumbel variable per id: −ln(−ln u), u uniform between 0 and 1."""
    return -np.log(-np.log((_bits(ids, seed) + 0.5) / 2**52))


def _bits(ids: pa.ChunkedArray, seed: int) -> Scores:
    """Return the first 52 bits of each id's hash, which a float64 holds exactly."""
    bits_N = np.frombuffer(hash_ids(ids, seed).tobytes(), ">u8")[::2] >> 12
    return bits_N.astype(np.float64)
