"""The page of an experiment that compares acquisition rules with random picks, over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import baal_ray
from baal_ray.experiment.verdicts import ENOUGH_SEEDS, RANDOM, outcome_at, verdicts
from baal_ray.report import page, plots
from baal_ray.report.page import Html, Section
from baal_ray.report.plots import Line, Values

_RESAMPLES = 2_000
_MOST_TARGET_ROWS = 24

_WARY = "Before you rely on this"


def experiment_page(
    curves: pa.Table,
    labels_needed: pa.Table,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    where_picks_lie: Sequence[Html] = (),
) -> str:
    """Return the page as HTML.

    Args:
        curves: Table with a row per round: `rule`, `seed`, `round`, `labels` (the number that the
            model was fitted on), `accuracy`, `nll` (nats), `ece`, `picks` (ids), `fit_seconds` and
            `score_seconds`.
        labels_needed: Table with a row per rule and target: `rule`, `accuracy` (the target),
            `seeds`, `reached` (the number of seeds that reached it), `median`, `low` and `high`
            (labels), `ratio`, `ratio_low` and `ratio_high` (labels needed, as a ratio to random).
            Unknown values are null.
        settings: Names and values to show.
        notes: Sentences on how the experiment was done.
        where_picks_lie: Maps of the picks, from `baal_ray.experiment.picks_map`.
    """
    rules = _rules(curves)
    seeds = len(pc.unique(curves["seed"]))
    return page.render(
        f"Experiment: {', '.join(rules)}",
        [
            page.paragraph(
                f"{_listed([rule for rule in rules if rule != RANDOM])} compared with random "
                f"picks over {_seeds(seeds)}, with everything else the same.",
                "lead",
            ),
            page.points((each.headline, each.details) for each in verdicts(labels_needed)),
            page.warning(_WARY, list(_doubts(curves, labels_needed, rules))),
        ],
        _facts(curves, rules, seeds),
        [
            Section("Learning curves", _learning(curves, labels_needed, rules)),
            Section("Difference from random", _differences(curves, rules)),
            Section("Where the picks lie", where_picks_lie),
            Section("Calibration", _calibration(curves, rules)),
            Section("Time", _time(curves, rules)),
            Section("How it was done", _how(settings, notes)),
        ],
        f"baal_ray {baal_ray.__version__}. Intervals of differences: 95 %, from {_RESAMPLES:,} "
        "bootstrap resamples of the seeds.",
    )


@dataclass(frozen=True)
class _Curves:
    """The values of one rule: values_S_L of S seeds at L numbers of labels, NaN where missing."""

    seeds: list[int]
    labels_L: Values
    values_S_L: Values

    def median(self) -> Values:
        return _over_seeds(self.values_S_L, 50)

    def line(self, name: str, number: int | None) -> Line:
        """Return the median, with quartiles or a line per seed.

        There are quartiles if there are enough seeds.
        """
        if len(self.seeds) >= ENOUGH_SEEDS:
            low, high = (_over_seeds(self.values_S_L, q) for q in (25, 75))
            return Line(name, self.labels_L, self.median(), low, high, number=number)
        each = [(self.labels_L, values_L) for values_L in self.values_S_L]
        shown = each if len(each) > 1 else []
        return Line(name, self.labels_L, self.median(), each=shown, number=number)


def _over_seeds(values_S_L: Values, percent: float) -> Values:
    known = ~np.isnan(values_S_L).all(axis=0)
    result = np.full(values_S_L.shape[1], np.nan)
    result[known] = np.nanpercentile(values_S_L[:, known], percent, axis=0)
    return result


def _curves(table: pa.Table, rule: str, column: str) -> _Curves:
    rows = table.filter(pc.equal(table["rule"], rule))
    seeds, labels, values = (
        rows[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
        for name in ("seed", "labels", column)
    )
    seeds_S, s = np.unique(seeds, return_inverse=True)
    labels_L, at = np.unique(labels, return_inverse=True)
    values_S_L = np.full((len(seeds_S), len(labels_L)), np.nan)
    values_S_L[s, at] = values
    return _Curves([int(seed) for seed in seeds_S], labels_L, values_S_L)


def _rules(curves: pa.Table) -> list[str]:
    """Return the rules in the table's order, with random last."""
    rules: list[str] = pc.unique(curves["rule"]).to_pylist()
    return sorted(rules, key=lambda rule: rule == RANDOM)


def _number(rules: Sequence[str], rule: str) -> int | None:
    return None if rule == RANDOM else rules.index(rule)


def _lines(curves: pa.Table, rules: Sequence[str], column: str) -> list[Line]:
    return [_curves(curves, rule, column).line(rule, _number(rules, rule)) for rule in rules]


def _facts(curves: pa.Table, rules: Sequence[str], seeds: int) -> list[tuple[str, str]]:
    labels = pc.min_max(curves["labels"]).as_py()
    last = [_curves(curves, rule, "accuracy") for rule in rules]
    return [
        ("rules", str(len(rules))),
        ("seeds", str(seeds)),
        ("labels", f"{labels['min']:,} to {labels['max']:,}"),
        *(
            (f"final accuracy, {rule}", _rounded(of_rule.median()[-1]))
            for rule, of_rule in zip(rules, last, strict=True)
        ),
    ]


def _doubts(curves: pa.Table, labels_needed: pa.Table, rules: Sequence[str]) -> Iterator[str]:
    of_rule = {rule: len(_curves(curves, rule, "accuracy").seeds) for rule in rules}
    fewest = min(of_rule.values())
    if fewest < ENOUGH_SEEDS:
        yield (
            f"There {'is only 1 seed' if fewest == 1 else f'are only {fewest} seeds'} for at "
            f"least one rule. Repeat the experiment with {ENOUGH_SEEDS} or more before you "
            "decide, because curves cross by chance from seed to seed."
        )
    if len(set(of_rule.values())) > 1:
        counts = ", ".join(f"{rule} {count}" for rule, count in of_rule.items())
        yield f"Rules have different numbers of seeds ({counts}): the experiment is unfinished."
    if RANDOM not in rules:
        yield (
            "There are no random picks to compare the rules with, so the page cannot say how many "
            "labels they save."
        )
    compared = [row for row in labels_needed.to_pylist() if row["ratio_low"] is not None]
    if len(compared) > 1:
        yield (
            f"This page makes {len(compared)} comparisons. On average, one in 20 intervals at "
            "95 % misses the truth by chance alone. Trust results that show at several targets."
        )
    yield (
        "The oracle was simulated and never wrong, and this is only one data set and one model. "
        "Annotators make mistakes, most of all on the images that rules like these pick."
    )


def _learning(curves: pa.Table, labels_needed: pa.Table, rules: Sequence[str]) -> list[Html]:
    rows = labels_needed.to_pylist()
    order = {rule: place for place, rule in enumerate(rules)}
    rows.sort(key=lambda row: (row["accuracy"], order.get(row["rule"], len(order))))
    compared = [
        row for row in rows if row["ratio"] is not None and row["rule"] in {*order} - {RANDOM}
    ]
    drawn = [_learning_curves(curves, rules, sorted({row["accuracy"] for row in rows}))]
    if compared:
        drawn.append(_ratios(compared[:_MOST_TARGET_ROWS], rules))
    return [page.figures(drawn), *([_labels_needed(rows)] if rows else [])]


def _learning_curves(curves: pa.Table, rules: Sequence[str], targets: Sequence[float]) -> Html:
    last = {rule: _curves(curves, rule, "accuracy").median()[-1] for rule in rules}
    ahead = max(last, key=lambda rule: np.nan_to_num(last[rule], nan=-1))
    return page.figure(
        f"With the most labels, {ahead} has the highest median accuracy: {_rounded(last[ahead])}",
        plots.lines(_lines(curves, rules, "accuracy"), "labels", "accuracy", level=targets),
        f"{_band(curves, rules)} Dotted lines are the target accuracies.",
    )


def _band(curves: pa.Table, rules: Sequence[str]) -> str:
    if min(len(_curves(curves, rule, "accuracy").seeds) for rule in rules) >= ENOUGH_SEEDS:
        return "Medians over seeds. The bands contain the middle half of the seeds."
    return "Medians over seeds. Thin lines are single seeds."


def _labels_needed(rows: Sequence[Mapping[str, Any]]) -> Html:
    header = ["rule", "accuracy", "verdict", "ratio to random", "interval", "labels", "interval"]
    return page.table([*header, "reached by"], [_needed_row(row) for row in rows], text=[2])


def _needed_row(row: Mapping[str, Any]) -> list[str]:
    is_random = row["rule"] == RANDOM
    return [
        row["rule"],
        f"{row['accuracy']:g}",
        "" if is_random else outcome_at(row),
        "" if is_random else _ratio(row["ratio"]),
        "" if is_random else _span(row["ratio_low"], row["ratio_high"], _ratio),
        _count(row["median"]),
        _span(row["low"], row["high"], _count),
        f"{row['reached']} of {row['seeds']}",
    ]


def _ratios(rows: Sequence[Mapping[str, Any]], rules: Sequence[str]) -> Html:
    centre, low, high = (
        np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)
        for name in ("ratio", "ratio_low", "ratio_high")
    )
    below = int((high < 1).sum())
    sentence = (
        f"In {below} of {len(rows)} comparisons, the whole interval of the ratio lies below 1"
    )
    drawn = plots.intervals(
        [f"{row['rule']}, {row['accuracy']:g}" for row in rows],
        centre,
        low,
        high,
        [rules.index(row["rule"]) for row in rows],
        "labels needed, ratio to random",
        level=1.0,
    )
    note = (
        "Left of the dashed line, a rule saves labels. A bar that crosses the line shows no clear "
        "difference from random picks."
    )
    return page.figure(sentence, drawn, note)


def _differences(curves: pa.Table, rules: Sequence[str]) -> list[Html]:
    if RANDOM not in rules or len(rules) < 2:
        return []
    pairs = [(rule, _paired(curves, rule)) for rule in rules if rule != RANDOM]
    drawn = [
        _difference(rule, pair, rules.index(rule)) for rule, pair in pairs if pair.labels_L.size
    ]
    about = "Accuracy minus that of random picks with the same seed and the same number of labels."
    return [page.paragraph(about, "muted"), page.figures(drawn)] if drawn else []


def _paired(curves: pa.Table, rule: str) -> _Curves:
    """Return differences in percentage points, where every common seed has both."""
    ours, theirs = (_curves(curves, name, "accuracy") for name in (rule, RANDOM))
    seeds = sorted(set(ours.seeds) & set(theirs.seeds))
    labels_L = np.intersect1d(ours.labels_L, theirs.labels_L)
    mine, other = (
        of.values_S_L[np.isin(of.seeds, seeds)][:, np.isin(of.labels_L, labels_L)]
        for of in (ours, theirs)
    )
    difference_S_L = 100 * (mine - other)
    known = ~np.isnan(difference_S_L).any(axis=0) & bool(seeds)
    return _Curves(seeds, labels_L[known], difference_S_L[:, known])


def _difference(rule: str, pair: _Curves, number: int) -> Html:
    mean_L = pair.values_S_L.mean(axis=0)
    average_S = pair.values_S_L.mean(axis=1)
    each = [(pair.labels_L, values_L) for values_L in pair.values_S_L]
    if len(pair.seeds) < 2:
        line = Line(rule, pair.labels_L, mean_L, number=number)
        told = "from one seed, which is no evidence"
    else:
        low_L, high_L = _bootstrap(pair.values_S_L)
        ((low,), (high,)) = _bootstrap(average_S[:, None])
        line = Line(rule, pair.labels_L, mean_L, low_L, high_L, each, number)
        told = f"interval {low:+.1f} to {high:+.1f}"
    sentence = f"{rule}: {average_S.mean():+.1f} percentage points over the whole curve ({told})"
    drawn = plots.lines([line], "labels", "accuracy minus random, percentage points", level=[0])
    return page.figure(sentence, drawn, f"Mean over {_seeds(len(pair.seeds))}, with its interval.")


def _bootstrap(values_S_L: Values) -> tuple[Values, Values]:
    """Return the 95 % percentile interval of the mean over seeds."""
    seeds = len(values_S_L)
    drawn = np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))
    low, high = np.percentile(values_S_L[drawn].mean(axis=1), [2.5, 97.5], axis=0)
    return low, high


def _calibration(curves: pa.Table, rules: Sequence[str]) -> list[Html]:
    worst = max(rules, key=lambda rule: np.nan_to_num(_curves(curves, rule, "ece").median()[-1]))
    ece = _curves(curves, worst, "ece").median()[-1]
    lowest = min(
        rules,
        key=lambda rule: np.nan_to_num(_curves(curves, rule, "nll").median()[-1], nan=np.inf),
    )
    return [
        page.figures(
            [
                page.figure(
                    f"With the most labels, confidence is off by {ece:.3f} at most, for {worst}",
                    plots.lines(
                        _lines(curves, rules, "ece"), "labels", "calibration error", zero=True
                    ),
                    "Expected calibration error: how far confidence is from the share of correct "
                    "predictions. Lower is better.",
                ),
                page.figure(
                    f"With the most labels, {lowest} gives the right class the most probability",
                    plots.lines(
                        _lines(curves, rules, "nll"), "labels", "negative log-likelihood, nats"
                    ),
                    "Lower is better.",
                ),
            ]
        )
    ]


def _time(curves: pa.Table, rules: Sequence[str]) -> list[Html]:
    total = pc.add(curves["fit_seconds"], pc.fill_null(curves["score_seconds"], 0.0))
    table = curves.append_column("seconds", total)
    rows = [
        [rule, *(_median_seconds(table, rule, name) for name in ("fit_seconds", "score_seconds"))]
        for rule in rules
    ]
    slowest = max(
        rules, key=lambda rule: np.nanmax(np.nan_to_num(_curves(table, rule, "seconds").median()))
    )
    drawn = plots.lines(_lines(table, rules, "seconds"), "labels", "seconds per round")
    sentence = f"A round takes longest with {slowest}"
    return [
        page.figures([page.figure(sentence, drawn, "Time to fit and score, median over seeds.")]),
        page.table(["rule", "fit, s", "score, s"], rows),
    ]


def _median_seconds(table: pa.Table, rule: str, column: str) -> str:
    rows = table.filter(pc.equal(table["rule"], rule))
    values = rows[column].drop_null().to_numpy()
    return f"{np.median(values):.1f}" if len(values) else "–"


def _how(settings: Mapping[str, Any], notes: Sequence[str]) -> list[Html]:
    rows = [[str(name), str(value)] for name, value in settings.items()]
    shown = [page.table(["setting", "value"], rows, text=[1])] if rows else []
    return [*([page.bullets(notes)] if notes else []), *shown]


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names) or "Nothing"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _rounded(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _span(low: float | None, high: float | None, shown: Any) -> str:
    """Format an interval, one end of which may be unknown. A lower end of 0 says nothing."""
    if not low:
        return "–" if high is None else f"below {shown(high)}"
    return f"from {shown(low)}" if high is None else f"{shown(low)} to {shown(high)}"
