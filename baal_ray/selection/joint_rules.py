"""Acquisition rules that need the predictions of several images at once."""

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
from torch import Tensor

from baal_ray.ids import IdSet
from baal_ray.selection.batch_bald import batch_bald
from baal_ray.selection.epig import epig
from baal_ray.selection.ranking import Ranking


def candidates_for(
    rule: str, ranking: Ranking, size: int, best: Callable[[Ranking, int], pa.Table]
) -> pa.Table:
    """Return the candidates of a joint rule: the best by BALD, for "epig" only half of them.

    BALD is large for images that are unlike all that matters, so the best by BALD alone may have
    no information about the targets. The other half for "epig" is drawn at random.

    Args:
        rule: The rule.
        ranking: The ranking by BALD.
        size: Number of candidates.
        best: Function that returns the first images of a ranking, given their number.
    """
    if rule != "epig":
        return best(ranking, size)
    by_bald = best(ranking, size - size // 2)
    left_out = (ranking.leave_out or IdSet.of([])) | IdSet.of(by_bald["id"])
    # Another seed than that of the random control and the targets.
    rest = replace(ranking, by="random", seed=ranking.seed + 3, leave_out=left_out)
    return pa.concat_tables([by_bald, best(rest, size // 2)]) if size > 1 else by_bald


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
