"""The curves of one rule as a matrix of seeds and numbers of labels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CurvesBySeed:
    """The values of one rule: values_S_L of S seeds at L numbers of labels, NaN where missing."""

    seeds: list[int]
    labels_L: Floats
    values_S_L: Floats

    def over_seeds(self, percent: float) -> Floats:
        """Return a percentile over the seeds that have a value, NaN where none has."""
        known = ~np.isnan(self.values_S_L).all(axis=0)
        result = np.full(self.values_S_L.shape[1], np.nan)
        result[known] = np.nanpercentile(self.values_S_L[:, known], percent, axis=0)
        return result

    def median(self) -> Floats:
        """Return the median over the seeds that have a value."""
        return self.over_seeds(50)


def curves_by_seed(table: pa.Table, rule: str, column: str) -> CurvesBySeed:
    """Return the values of a column for one rule.

    Args:
        table: Table with `rule`, `seed`, `labels` and the column.
        rule: Name of the rule.
        column: Name of the column.
    """
    rows = table.filter(pc.equal(table["rule"], rule))
    seeds, labels, values = (
        rows[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
        for name in ("seed", "labels", column)
    )
    seeds_S, s = np.unique(seeds, return_inverse=True)
    labels_L, at = np.unique(labels, return_inverse=True)
    values_S_L = np.full((len(seeds_S), len(labels_L)), np.nan)
    values_S_L[s, at] = values
    return CurvesBySeed([int(seed) for seed in seeds_S], labels_L, values_S_L)
