"""Experiments whose outcome is known, as the tables that an experiment writes."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from baal_ray.experiment.labels_needed import LABELS_NEEDED
from baal_ray.experiment.learning_curve import CURVE


def curves(better: Mapping[str, float], seeds: int = 6, rounds: int = 4) -> pa.Table:
    """Return curves in which each rule's accuracy is random's plus a constant.

    Seeds differ, and are paired.
    """
    rows = []
    for rule, more in better.items():
        for seed in range(seeds):
            luck = np.random.default_rng(seed).normal(0, 0.01, rounds)
            rows += [
                {
                    "rule": rule,
                    "seed": seed,
                    "round": number,
                    "labels": 20 + 10 * number,
                    "accuracy": 0.5 + 0.1 * number + luck[number] + more,
                    "nll": 1.5 - 0.2 * number,
                    "ece": 0.2 - 0.03 * number,
                    "picks": [f"image-{number}"],
                    "fit_seconds": 1.0 + number,
                    "score_seconds": None if rule == "random" else 2.0,
                }
                for number in range(rounds)
            ]
    return pa.Table.from_pylist(rows, CURVE)


def needed(
    *rows: tuple[str, float, tuple[float, float | None, float | None] | None], seeds: int = 6
) -> pa.Table:
    """Return labels needed: rule, target, and the ratio to random with its interval, if any.

    A ratio without an interval is an upper bound.
    """
    return pa.Table.from_pylist(
        [
            {
                "rule": rule,
                "accuracy": accuracy,
                "seeds": seeds,
                "reached": seeds if ratio or rule == "random" else 1,
                "median": 100.0 * ratio[0] if ratio else None,
                "fewest": 90.0 if ratio else None,
                "most": 110.0 if ratio else None,
                "ratio": ratio[0] if ratio else None,
                "ratio_is": ("at most" if ratio[1] is None else "exact") if ratio else None,
                "ratio_low": ratio[1] if ratio else None,
                "ratio_high": ratio[2] if ratio else None,
            }
            for rule, accuracy, ratio in rows
        ],
        LABELS_NEEDED,
    )
