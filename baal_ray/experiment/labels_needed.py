"""The number of labels that each acquisition rule needs for an accuracy, and its ratio to random.

A curve needs as many labels as it has where it first reaches the accuracy. A curve that never
reaches it needs more than any number. The result is the median over the seeds, with the interval
of the percentile bootstrap over seeds (Efron and Tibshirani 1993, An Introduction to the
Bootstrap, chapter 13). The ratio to random picks is the ratio of the medians. Its bootstrap draws
the same seeds for both, because curves of one seed start with the same labels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000

#: Confidence level of the intervals.
LEVEL = 0.95

# With fewer seeds there is no interval, because resamples of one or two hardly differ.
_FEWEST_SEEDS = 3

LABELS_NEEDED = pa.schema(
    [
        ("rule", pa.string()),
        ("accuracy", pa.float64()),
        ("seeds", pa.int32()),
        ("reached", pa.int32()),
        *((name, pa.float64()) for name in ("median", "low", "high")),
        *((name, pa.float64()) for name in ("ratio", "ratio_low", "ratio_high")),
    ]
)


def labels_needed(curves: pa.Table, accuracies: Sequence[float], seed: int = 0) -> pa.Table:
    """Compute the number of labels that each rule needs, one row per rule and accuracy.

    Args:
        curves: Rows with `rule`, `seed`, `labels` and `accuracy`.
        accuracies: Accuracies to reach, from 0 to 1.
        seed: Seed of the bootstrap.

    Returns:
        A table of `LABELS_NEEDED`. `reached` is how many of the rule's `seeds` curves reached the
        accuracy. A number larger than the labels of the curves is null, and so is the interval of
        fewer than three seeds. The ratio is over the seeds that "random" has, too. If there are
        none, it is null.
    """
    first = _first_reached(curves, accuracies)
    most = _most_labels(curves)
    rows = []
    for rule in dict.fromkeys(curves["rule"].to_pylist()):
        for accuracy in accuracies:
            needed, random = first[rule, accuracy], first.get(("random", accuracy), {})
            rows.append(
                {
                    "rule": rule,
                    "accuracy": accuracy,
                    "seeds": len(needed),
                    "reached": int(np.isfinite(list(needed.values())).sum()),
                    **_median(np.array(list(needed.values())), seed),
                    **_ratio(needed, {} if rule == "random" else random, most, rule, seed),
                }
            )
    return pa.Table.from_pylist(rows, LABELS_NEEDED)


def _first_reached(
    curves: pa.Table, accuracies: Sequence[float]
) -> dict[tuple[str, float], dict[int, float]]:
    """Return, by rule and accuracy, the labels where each seed first reaches it, or infinity."""
    found: dict[tuple[str, float], dict[int, float]] = {}
    for row in curves.select(["rule", "seed", "labels", "accuracy"]).to_pylist():
        for accuracy in accuracies:
            needed = found.setdefault((row["rule"], accuracy), {})
            labels = row["labels"] if row["accuracy"] >= accuracy else np.inf
            needed[row["seed"]] = min(labels, needed.get(row["seed"], np.inf))
    return found


def _most_labels(curves: pa.Table) -> dict[str, float]:
    """Return, by rule, the largest number of labels that all its curves have."""
    ends = curves.group_by(["rule", "seed"]).aggregate([("labels", "max")])
    least = ends.group_by("rule").aggregate([("labels_max", "min")]).to_pylist()
    return {row["rule"]: float(row["labels_max_min"]) for row in least}


def _median(needed_S: Floats, seed: int) -> dict[str, float | None]:
    low, high = _interval(_medians(needed_S[_resamples(len(needed_S), seed)]), len(needed_S))
    return {"median": _finite(float(_medians(needed_S))), "low": low, "high": high}


def _ratio(
    needed: dict[int, float],
    random: dict[int, float],
    most: dict[str, float],
    rule: str,
    seed: int,
) -> dict[str, float | None]:
    both = sorted(needed.keys() & random.keys())
    if not both:
        return {"ratio": None, "ratio_low": None, "ratio_high": None}
    pairs_S_2 = np.array([[needed[s], random[s]] for s in both])
    ours, chance = (float(_medians(column_S)) for column_S in pairs_S_2.T)
    ours_R, chance_R = (_medians(pairs_S_2[_resamples(len(both), seed), side]) for side in (0, 1))
    # A curve that never gets there needs more than the most labels that it had.
    low, _ = _interval(np.minimum(ours_R, most[rule]) / chance_R, len(both))
    _, high = _interval(ours_R / np.minimum(chance_R, most["random"]), len(both))
    known = np.isfinite(ours) and np.isfinite(chance)
    return {"ratio": ours / chance if known else None, "ratio_low": low, "ratio_high": high}


def _resamples(seeds: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, seeds, (RESAMPLES, seeds))


def _medians(needed_S: Floats) -> Floats:
    """Return medians, the lower of two middle values: a number of labels that a curve needed."""
    middle: Floats = np.sort(needed_S, axis=-1)[..., (needed_S.shape[-1] - 1) // 2]
    return middle


def _interval(values_R: Floats, seeds: int) -> tuple[float | None, float | None]:
    if seeds < _FEWEST_SEEDS:
        return None, None
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = (np.quantile(values_R, tail, method="inverted_cdf") for tail in tails)
    return _finite(low), _finite(high)


def _finite(value: np.floating | float) -> float | None:
    return float(value) if np.isfinite(value) else None
