"""Acquisition rules that need the predictions of several images at once."""

import pyarrow as pa
from torch import Tensor

from baal_ray.selection.batch_bald import batch_bald
from baal_ray.selection.epig import epig


def best_together(
    rule: str,
    candidates: pa.Table,
    log_probs_N_K_C: Tensor,
    k: int,
    seed: int,
    target_log_probs_M_K_C: Tensor | None = None,
) -> pa.Table:
    """Return the k best candidates by a rule that ranks them together; all if there are fewer.

    Args:
        rule: "batch_bald" or "epig".
        candidates: Rows as `top_k` returns them, at least one.
        log_probs_N_K_C: Predictions for them under the same posterior samples.
        k: Number of candidates to pick.
        seed: Seed of the combinations of labels that BatchBALD draws.
        target_log_probs_M_K_C: Predictions for the images that matter, for "epig".

    Returns:
        Rows of the candidates with new `rank`, `score` and `rule`, in the order of picking.
    """
    k = min(k, len(candidates))
    if rule == "batch_bald":
        batch = batch_bald(log_probs_N_K_C, k, seed=seed)
        picks, score = batch.picks_B, batch.gains_B
    else:
        assert target_log_probs_M_K_C is not None
        score, picks = epig(log_probs_N_K_C, target_log_probs_M_K_C).sort(
            descending=True, stable=True
        )
    best = candidates.take(pa.array(picks[:k].numpy()))
    for name, column in (
        ("rank", pa.array(range(1, k + 1), pa.int32())),
        ("score", pa.array(score[:k].float().numpy())),
        ("rule", pa.repeat(pa.scalar(rule), k)),
    ):
        best = best.set_column(best.column_names.index(name), name, column)
    return best
