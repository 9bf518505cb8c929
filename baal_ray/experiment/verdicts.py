"""The verdicts of an experiment on each rule against random picks, in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from baal_ray.experiment.differences import RANDOM, Difference, differences
from baal_ray.experiment.student import FEWEST_SEEDS

#: Number of seeds below which an interval is only a rough guess.
ENOUGH_SEEDS = 5

Outcome = Literal["better", "worse", "no clear difference", "not compared"]

# The most targets that a sentence names.
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """The verdict on one rule.

    Attributes:
        rule: Name of the rule.
        outcome: Outcome in a few words.
        headline: Rule and outcome in plain words, without a full stop.
        details: Figures that the verdict rests on, in a sentence or more. May be empty.
    """

    rule: str
    outcome: Outcome
    headline: str
    details: str

    @property
    def sentence(self) -> str:
        """The headline, followed by the details."""
        return f"{self.headline}. {self.details}".strip()


def verdicts(curves: pa.Table, labels_needed: pa.Table) -> list[Verdict]:
    """Return one verdict per rule, in the order of the curves. Random picks have none.

    The outcome rests on the primary outcome alone, the area between the learning curves
    (`baal_ray.experiment.differences`). A rule is better than random picks if the whole interval
    of the area lies above 0. If all rules equal random picks and the areas are normal, an
    experiment of any size calls one of them better or worse in at most 5 % of cases. The labels
    needed are said beside it, and decide nothing.

    Args:
        curves: Rows with `rule`, `seed`, `labels` and `accuracy`.
        labels_needed: Table of `baal_ray.experiment.labels_needed`.
    """
    of_rule = {each.rule: each for each in differences(curves)}
    rules = [rule for rule in pc.unique(curves["rule"]).to_pylist() if rule != RANDOM]
    rows = labels_needed.to_pylist()
    return [
        _verdict(rule, of_rule.get(rule), [row for row in rows if row["rule"] == rule])
        for rule in rules
    ]


def _verdict(
    rule: str, difference: Difference | None, rows: Sequence[Mapping[str, Any]]
) -> Verdict:
    outcome = _outcome(difference)
    details = [] if difference is None else [_area(difference), _figures(rows), _doubt(difference)]
    headline = _HEADLINES[outcome].format(rule=rule)
    return Verdict(rule, outcome, headline, " ".join(filter(None, details)))


def _outcome(difference: Difference | None) -> Outcome:
    if difference is None or difference.interval is None:
        return "not compared"
    low, high = difference.interval
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


_HEADLINES: dict[Outcome, str] = {
    "better": "{rule} is better than random picks",
    "worse": "{rule} is worse than random picks",
    "no clear difference": "{rule} shows no clear difference from random picks",
    "not compared": "{rule} cannot be compared with random picks",
}


def _area(difference: Difference) -> str:
    return (
        "Averaged over the whole curve, its accuracy differs by "
        f"{difference.mean:+.1f} percentage points{_interval(difference.interval, '{:+.1f}')}."
    )


def _interval(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f" ({' to '.join(form.format(end) for end in ends)})"


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence with the labels needed, target by target."""
    figures = [
        f"{ratio_in_words(row)} times as many for accuracy {row['accuracy']:g}"
        f"{_interval(_ends(row), '{:.2f}')}"
        for row in rows
        if row["ratio"] is not None
    ]
    if not figures:
        return ""
    more = f", and so on ({len(figures) - _NAMED} more)" if len(figures) > _NAMED else ""
    return f"Labels needed compared with random picks: {', '.join(figures[:_NAMED])}{more}."


def ratio_in_words(row: Mapping[str, Any]) -> str:
    """Return the ratio of a row of labels needed, and whether it is only a bound."""
    if row["ratio"] is None:
        return "–"
    bound = "" if row["ratio_is"] == "exact" else f"{row['ratio_is']} "
    return f"{bound}{row['ratio']:.2f}"


def _ends(row: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if row["ratio_low"] is None else (row["ratio_low"], row["ratio_high"])


def _doubt(difference: Difference) -> str:
    seeds = len(difference.points_S_L)
    if seeds == 1:
        return "With one seed, this may be luck."
    if seeds < FEWEST_SEEDS:
        return f"With {seeds} seeds, this may be luck: an interval needs {FEWEST_SEEDS}."
    if seeds < ENOUGH_SEEDS:
        return f"With only {seeds} seeds, only large differences show."
    return ""
