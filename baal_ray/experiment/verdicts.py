"""The verdicts of an experiment on each rule against random picks, in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from baal_ray.experiment.differences import RANDOM

#: Number of seeds below which an interval is only a rough guess.
ENOUGH_SEEDS = 5

Outcome = Literal["saves labels", "no clear difference", "costs labels", "mixed", "not compared"]

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


def verdicts(labels_needed: pa.Table) -> list[Verdict]:
    """Return one verdict per rule, in the order of the table. Random picks have none.

    A rule saves labels at a target if the interval of its ratio to random lies below 1, and costs
    labels if it lies above. If the interval contains 1, there is no clear difference. A rule also
    saves labels if random picks never reach the target and it surely needs fewer than they had.
    It also costs labels if it never reaches the target and had more than random picks need.

    Args:
        labels_needed: Table with a row per `rule` and target `accuracy`, with `seeds`, `reached`
            (the number of seeds that reached the target), `ratio` (the labels needed, as a ratio
            to random), `ratio_low` and `ratio_high`. Missing values are null.
    """
    rows = labels_needed.to_pylist()
    at_random = {row["accuracy"]: row for row in rows if row["rule"] == RANDOM}
    rules = list(dict.fromkeys(row["rule"] for row in rows if row["rule"] != RANDOM))
    return [
        _verdict(rule, [row for row in rows if row["rule"] == rule], at_random) for rule in rules
    ]


def outcome_at(row: Mapping[str, Any]) -> Outcome:
    """Return the outcome at the target of one row."""
    if row["ratio_high"] is not None and row["ratio_high"] < 1:
        return "saves labels"  # even without a ratio: random picks may never get there
    if row["ratio_low"] is not None and row["ratio_low"] > 1:
        return "costs labels"  # even without a ratio: the rule may never get there
    return "not compared" if row["ratio"] is None else "no clear difference"


def _verdict(
    rule: str, rows: Sequence[Mapping[str, Any]], at_random: Mapping[float, Mapping[str, Any]]
) -> Verdict:
    by_outcome: dict[Outcome, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_outcome.setdefault(outcome_at(row), []).append(row)
    saves, costs = by_outcome.get("saves labels", []), by_outcome.get("costs labels", [])
    alike, missed = by_outcome.get("no clear difference", []), by_outcome.get("not compared", [])
    outcome: Outcome = "not compared"
    if saves and costs:
        outcome = "mixed"
    elif saves or costs or alike:
        outcome = "saves labels" if saves else "costs labels" if costs else "no clear difference"
    details = [
        _figures(saves + costs or alike),
        _alike(alike if saves or costs else []),
        _missed(rule, missed, at_random),
        _doubt(rows),
    ]
    headline = _HEADLINES[outcome].format(rule=rule)
    return Verdict(rule, outcome, headline, " ".join(filter(None, details)))


_HEADLINES: dict[Outcome, str] = {
    "saves labels": "{rule} saves labels",
    "costs labels": "{rule} costs labels",
    "mixed": "{rule} saves labels at some accuracies and costs labels at others",
    "no clear difference": "{rule} shows no clear difference from random picks",
    "not compared": "{rule} cannot be compared with random picks at any of these accuracies",
}


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence with the labels needed, target by target."""
    if not rows:
        return ""
    told = [
        f"{_times(row)} as many for accuracy {row['accuracy']:g}{_interval(row)}" for row in rows
    ]
    more = f", and so on ({len(told) - _NAMED} more)" if len(told) > _NAMED else ""
    return f"Labels needed compared with random picks: {', '.join(told[:_NAMED])}{more}."


def _alike(rows: Sequence[Mapping[str, Any]]) -> str:
    targets = ", ".join(f"{row['accuracy']:g}" for row in rows)
    return f"No clear difference from random picks for accuracy {targets}." if rows else ""


def _times(row: Mapping[str, Any]) -> str:
    # Without a ratio, the bound rests on all labels that the rule or random picks had, which were
    # not enough.
    if row["ratio"] is None and row["ratio_low"] > 1:
        return f"more than {row['ratio_low']:.2f} times"
    if row["ratio"] is None:
        return f"less than {row['ratio_high']:.2f} times"
    return f"{row['ratio']:.2f} times"


def _interval(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return ""
    if row["ratio_low"] is None or row["ratio_high"] is None:
        return " (no interval)"
    return f" ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"


def _missed(
    rule: str,
    rows: Sequence[Mapping[str, Any]],
    at_random: Mapping[float, Mapping[str, Any]],
) -> str:
    """Return a sentence on targets that too few seeds reached, which may itself favour a rule."""
    if not rows:
        return ""
    told = []
    for row in rows[:_NAMED]:
        other = at_random.get(row["accuracy"])
        beside = f", random in {other['reached']} of {other['seeds']}" if other else ""
        told.append(
            f"{row['accuracy']:g} ({rule} in {row['reached']} of {row['seeds']} seeds{beside})"
        )
    return f"Reached too rarely to compare: {', '.join(told)}."


def _doubt(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = max(row["seeds"] for row in rows)
    if seeds >= ENOUGH_SEEDS:
        return ""
    if seeds == 1:
        return "With one seed, this may be luck."
    return f"With only {seeds} seeds, this is a hint, not a finding."
