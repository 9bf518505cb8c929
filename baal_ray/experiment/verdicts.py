"""What an experiment says of each rule against random picks, in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

#: The rule that others are held against.
RANDOM = "random"

#: With fewer seeds an interval is a rough guess.
ENOUGH_SEEDS = 5

Outcome = Literal["saves labels", "not told apart", "costs labels", "mixed", "not compared"]

# Targets that a sentence goes into.
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What an experiment says of one rule.

    Attributes:
        rule: its name.
        outcome: in two words.
        headline: rule and outcome in plain words, without a full stop.
        details: the figures it rests on, in a sentence or more; may be empty.
    """

    rule: str
    outcome: Outcome
    headline: str
    details: str

    @property
    def sentence(self) -> str:
        """Headline and details."""
        return f"{self.headline}. {self.details}".strip()


def verdicts(labels_needed: pa.Table) -> list[Verdict]:
    """One verdict a rule, in the order of the table; random has none.

    A rule saves labels at a target when the interval of its ratio to random lies below 1, and
    costs labels when it lies above. Where it holds 1, the two are not told apart. It saves labels
    too where random picks never get there and it needs less, for sure, than they had; and it costs
    labels where it never gets there, and had more than random picks need.

    Args:
        labels_needed: a row for each `rule` and target `accuracy`, with `seeds`, `reached` (how
            many of those seeds reached it), `ratio` (labels needed, of random's), `ratio_low` and
            `ratio_high`, null where there are none.
    """
    rows = labels_needed.to_pylist()
    at_random = {row["accuracy"]: row for row in rows if row["rule"] == RANDOM}
    rules = list(dict.fromkeys(row["rule"] for row in rows if row["rule"] != RANDOM))
    return [
        _verdict(rule, [row for row in rows if row["rule"] == rule], at_random) for rule in rules
    ]


def outcome_at(row: Mapping[str, Any]) -> Outcome:
    """What one row says."""
    if row["ratio_high"] is not None and row["ratio_high"] < 1:
        return "saves labels"  # with or without a ratio: random picks may never get there
    if row["ratio_low"] is not None and row["ratio_low"] > 1:
        return "costs labels"  # likewise: the rule may never get there
    return "not compared" if row["ratio"] is None else "not told apart"


def _verdict(
    rule: str, rows: Sequence[Mapping[str, Any]], at_random: Mapping[float, Mapping[str, Any]]
) -> Verdict:
    by_outcome: dict[Outcome, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_outcome.setdefault(outcome_at(row), []).append(row)
    saves, costs = by_outcome.get("saves labels", []), by_outcome.get("costs labels", [])
    alike, missed = by_outcome.get("not told apart", []), by_outcome.get("not compared", [])
    outcome: Outcome = "not compared"
    if saves and costs:
        outcome = "mixed"
    elif saves or costs or alike:
        outcome = "saves labels" if saves else "costs labels" if costs else "not told apart"
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
    "not told apart": "{rule} is not told apart from random",
    "not compared": "{rule} is not compared with random at any of these accuracies",
}


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """The labels needed, target by target."""
    if not rows:
        return ""
    told = [
        f"{_times(row)} random's for accuracy {row['accuracy']:g}{_interval(row)}" for row in rows
    ]
    more = f", and so on for {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return f"Labels needed: {', '.join(told[:_NAMED])}{more}."


def _alike(rows: Sequence[Mapping[str, Any]]) -> str:
    targets = ", ".join(f"{row['accuracy']:g}" for row in rows)
    return f"Not told apart from random for accuracy {targets}." if rows else ""


def _times(row: Mapping[str, Any]) -> str:
    # Of what random picks had in all, which was not enough, or by all that the rule had.
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
    """Targets that too few seeds reached, and how many did; that itself may speak for a rule."""
    if not rows:
        return ""
    told = []
    for row in rows[:_NAMED]:
        other = at_random.get(row["accuracy"])
        beside = f", random in {other['reached']} of {other['seeds']}" if other else ""
        told.append(
            f"{row['accuracy']:g} ({rule} in {row['reached']} of {row['seeds']} seeds{beside})"
        )
    return f"Too seldom reached to be compared: {', '.join(told)}."


def _doubt(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = max(row["seeds"] for row in rows)
    if seeds >= ENOUGH_SEEDS:
        return ""
    if seeds == 1:
        return "One seed cannot tell a rule from luck."
    return f"From {seeds} seeds this is a hint, not a finding."
