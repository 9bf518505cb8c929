"""BALD as other posterior samples might have estimated it, extrapolated from a jackknife."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray.score_names import BALD_WITHOUT, GROUPS


def of_other_samples(scores: pa.Table) -> pa.Table:
    """Replace each `bald_without_…` by a BALD that lies as far from `bald` as that of new samples.

    If one of G groups is left out, BALD changes with a variance of σ²/(G − 1), where σ is its
    standard error (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter
    2). The BALD of K other samples differs from it with a variance of 2σ². So each deviation is
    stretched by √(2(G − 1)). Samples that images share still move their BALD together.

    Args:
        scores: Table with `bald`, `samples` and the columns of `BALD_WITHOUT`.
    """
    bald_N, samples_N = (_numbers(scores, name) for name in ("bald", "samples"))
    stretch_N = np.sqrt(2 * (np.minimum(samples_N, GROUPS) - 1))
    for name in BALD_WITHOUT:
        other_N = bald_N + stretch_N * (_numbers(scores, name) - bald_N)
        at = scores.column_names.index(name)
        scores = scores.set_column(at, name, pa.array(np.maximum(other_N, 0)))
    return scores


def _numbers(scores: pa.Table, name: str) -> npt.NDArray[np.float64]:
    numbers: npt.NDArray[np.float64] = scores[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
    return numbers
