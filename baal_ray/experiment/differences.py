"""The accuracy of each rule minus that of random picks, seed by seed.

The primary outcome of an experiment, fixed before any is run, is the difference between the areas
under the learning curves, per label: how much more accurate the rule's models are, averaged over
the whole range of labels. It uses every point of the curves and needs no target accuracy.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.integrate import trapezoid

from baal_ray.experiment.curves_by_seed import Floats, curves_by_seed
from baal_ray.experiment.student import interval_of_mean

#: The rule that others are compared with.
RANDOM = "random"


@dataclass(frozen=True)
class Difference:
    """The accuracy of a rule minus that of random picks, in percentage points.

    Attributes:
        rule: Name of the rule.
        labels_L: Numbers of labels at which each seed of both has a model, two or more.
        points_S_L: Difference of each seed at each number of labels.
        comparisons: Number of rules that are compared with random picks.
    """

    rule: str
    labels_L: Floats
    points_S_L: Floats
    comparisons: int = 1

    @property
    def area_S(self) -> Floats:
        """The area between the curves of each seed, per label."""
        area_S = trapezoid(self.points_S_L, self.labels_L, axis=1)
        return np.asarray(area_S / np.ptp(self.labels_L), np.float64)

    @property
    def mean(self) -> float:
        """The mean area over the seeds, per label."""
        return float(self.area_S.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean area. The intervals of all rules hold together with 95 %."""
        ends = interval_of_mean(self.area_S, self.comparisons)
        return None if ends is None else (float(ends[0]), float(ends[1]))


def differences(curves: pa.Table) -> list[Difference]:
    """Return the difference from random picks for each rule that can be compared with them.

    Args:
        curves: Rows with `rule`, `seed`, `labels` and `accuracy`.

    Returns:
        One for each rule that has a seed and two numbers of labels in common with random picks, in
        the order of the table.
    """
    names = [rule for rule in pc.unique(curves["rule"]).to_pylist() if rule != RANDOM]
    found = [(rule, *_paired(curves, rule)) for rule in names]
    return [
        Difference(rule, labels_L, points_S_L, len(names))
        for rule, labels_L, points_S_L in found
        if points_S_L.shape[0] and points_S_L.shape[1] > 1
    ]


def _paired(curves: pa.Table, rule: str) -> tuple[Floats, Floats]:
    """Return labels and differences, where every common seed has both."""
    ours, random = (curves_by_seed(curves, name, "accuracy") for name in (rule, RANDOM))
    seeds = np.intersect1d(ours.seeds, random.seeds)
    labels_L = np.intersect1d(ours.labels_L, random.labels_L)
    ours_S_L, random_S_L = (
        each.values_S_L[np.isin(each.seeds, seeds)][:, np.isin(each.labels_L, labels_L)]
        for each in (ours, random)
    )
    points_S_L = 100 * (ours_S_L - random_S_L)
    known_L = ~np.isnan(points_S_L).any(axis=0)
    return labels_L[known_L], points_S_L[:, known_L]
