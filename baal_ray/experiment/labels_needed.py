"""The number of labels that each acquisition rule needs for an accuracy, and its ratio to random.

The noisier of two learning curves crosses an accuracy first. So each curve is made monotone by
isotonic regression (Barlow et al. 1972, Statistical Inference under Order Restrictions), and needs
the labels where straight lines between its points cross the accuracy.

The ratio to random is the geometric mean of the ratios of single seeds, because the curves of one
seed start with the same labels. Its interval is Student's, of the logarithms.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import isotonic_regression

from baal_ray.experiment.curves_by_seed import Floats, curves_by_seed
from baal_ray.experiment.differences import RANDOM
from baal_ray.experiment.student import interval_of_mean

LABELS_NEEDED = pa.schema(
    [
        ("rule", pa.string()),
        ("accuracy", pa.float64()),
        ("seeds", pa.int32()),
        ("reached", pa.int32()),
        *((name, pa.float64()) for name in ("median", "fewest", "most")),
        ("ratio", pa.float64()),
        ("ratio_is", pa.string()),
        *((name, pa.float64()) for name in ("ratio_low", "ratio_high")),
    ]
)


def labels_needed(curves: pa.Table, accuracies: Sequence[float]) -> pa.Table:
    """Compute the number of labels that each rule needs, one row per rule and accuracy.

    Args:
        curves: Rows with `rule`, `seed`, `labels` and `accuracy`.
        accuracies: Accuracies to reach, from 0 to 1.

    Returns:
        A table of `LABELS_NEEDED`. `reached` is how many of the rule's `seeds` curves reached the
        accuracy. `median`, `fewest` and `most` are over the seeds. A number larger than the labels
        of the curves is null.

        `ratio` is over the seeds that "random" has, too. `ratio_is` is "exact" if all these curves
        reached the accuracy. Otherwise a curve that did not is counted with the most labels it
        had. The ratio is then "at most" that if only random's curves fell short, "at least" that
        if only the rule's did, and null if both did. Only exact ratios of three seeds or more have
        an interval. The intervals of one table hold together with 95 %.
    """
    rules = pc.unique(curves["rule"]).to_pylist()
    comparisons = len(accuracies) * len(set(rules) - {RANDOM})
    rising = {rule: _rising(curves, rule) for rule in rules}
    rows = []
    for rule, accuracy in product(rules, accuracies):
        needed = _crossings(rising[rule], accuracy)
        random = {} if rule == RANDOM else _crossings(rising.get(RANDOM, {}), accuracy)
        figures = {**_over_seeds(list(needed.values())), **_ratio(needed, random, comparisons)}
        rows.append({"rule": rule, "accuracy": accuracy, **figures})
    return pa.Table.from_pylist(rows, LABELS_NEEDED)


class _Crossing(NamedTuple):
    """The labels at which a curve reaches an accuracy, or its last ones if it does not."""

    labels: float
    reached: bool


def _rising(curves: pa.Table, rule: str) -> dict[int, tuple[Floats, Floats]]:
    """Return the labels and the monotone accuracies of a rule's curves, by seed."""
    of_rule = curves_by_seed(curves, rule, "accuracy")
    found = {}
    for seed, values_L in zip(of_rule.seeds, of_rule.values_S_L, strict=True):
        known_L = ~np.isnan(values_L)
        rising_L = isotonic_regression(values_L[known_L]).x
        found[seed] = (of_rule.labels_L[known_L], rising_L)
    return found


def _crossings(
    rising: Mapping[int, tuple[Floats, Floats]], accuracy: float
) -> dict[int, _Crossing]:
    return {seed: _crossing(*curve, accuracy) for seed, curve in rising.items()}


def _crossing(labels_L: Floats, rising_L: Floats, accuracy: float) -> _Crossing:
    at = int(np.searchsorted(rising_L, accuracy))
    if at == len(rising_L):
        return _Crossing(float(labels_L[-1]), False)
    around = slice(max(0, at - 1), at + 1)
    return _Crossing(float(np.interp(accuracy, rising_L[around], labels_L[around])), True)


def _over_seeds(crossings: Sequence[_Crossing]) -> dict[str, Any]:
    labels_S = [each.labels if each.reached else np.inf for each in crossings]
    return {
        "seeds": len(crossings),
        "reached": sum(each.reached for each in crossings),
        "median": _finite(np.median(labels_S)),
        "fewest": _finite(np.min(labels_S)),
        "most": _finite(np.max(labels_S)),
    }


def _ratio(
    ours: Mapping[int, _Crossing], random: Mapping[int, _Crossing], comparisons: int
) -> dict[str, Any]:
    pairs = [(ours[seed], random[seed]) for seed in sorted(ours.keys() & random.keys())]
    kind = _kind_of_ratio(pairs)
    if kind is None:
        return {}
    logs_S = np.log([mine.labels / other.labels for mine, other in pairs])
    interval = interval_of_mean(logs_S, comparisons) if kind == "exact" else None
    low, high = (None, None) if interval is None else np.exp(interval)
    ratio = np.exp(logs_S.mean())
    return {"ratio": ratio, "ratio_is": kind, "ratio_low": low, "ratio_high": high}


def _kind_of_ratio(pairs: Sequence[tuple[_Crossing, _Crossing]]) -> str | None:
    if not pairs:
        return None
    ours_reached = all(mine.reached for mine, _ in pairs)
    random_reached = all(other.reached for _, other in pairs)
    if ours_reached:
        return "exact" if random_reached else "at most"
    return "at least" if random_reached else None


def _finite(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
