"""The page of an experiment that compares acquisition rules with random picks, over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import baal_ray
from baal_ray.experiment.curves_by_seed import CurvesBySeed, curves_by_seed
from baal_ray.experiment.differences import RANDOM, Difference, differences
from baal_ray.experiment.student import interval_of_mean
from baal_ray.experiment.verdicts import ENOUGH_SEEDS, ratio_in_words, verdicts
from baal_ray.report import page, plots
from baal_ray.report.page import Html, Section
from baal_ray.report.plots import Line

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
        labels_needed: Table of `baal_ray.experiment.labels_needed`.
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
            page.points((each.headline, each.details) for each in verdicts(curves, labels_needed)),
            page.warning(_WARY, list(_doubts(curves, rules))),
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
        f"baal_ray {baal_ray.__version__}. Intervals of differences: Student's t over the seeds. "
        "Those over the whole curve hold together with 95 % for all rules.",
    )


def _line(curves: CurvesBySeed, name: str, number: int | None) -> Line:
    """Return the median, with quartiles if there are enough seeds, otherwise a line per seed."""
    median_L = curves.median()
    if len(curves.seeds) >= ENOUGH_SEEDS:
        low_L, high_L = (curves.over_seeds(percent) for percent in (25, 75))
        return Line(name, curves.labels_L, median_L, low_L, high_L, number=number)
    each = [(curves.labels_L, values_L) for values_L in curves.values_S_L]
    return Line(name, curves.labels_L, median_L, each=each if len(each) > 1 else [], number=number)


def _rules(curves: pa.Table) -> list[str]:
    """Return the rules in the table's order, with random last."""
    rules: list[str] = pc.unique(curves["rule"]).to_pylist()
    return sorted(rules, key=lambda rule: rule == RANDOM)


def _number(rules: Sequence[str], rule: str) -> int | None:
    return None if rule == RANDOM else rules.index(rule)


def _lines(curves: pa.Table, rules: Sequence[str], column: str) -> list[Line]:
    return [
        _line(curves_by_seed(curves, rule, column), rule, _number(rules, rule)) for rule in rules
    ]


def _last(curves: pa.Table, rule: str, column: str) -> float:
    """Return the median over seeds at the most labels."""
    return float(curves_by_seed(curves, rule, column).median()[-1])


def _facts(curves: pa.Table, rules: Sequence[str], seeds: int) -> list[tuple[str, str]]:
    labels = pc.min_max(curves["labels"]).as_py()
    return [
        ("rules", str(len(rules))),
        ("seeds", str(seeds)),
        ("labels", f"{labels['min']:,} to {labels['max']:,}"),
        *(
            (f"final accuracy, {rule}", _rounded(_last(curves, rule, "accuracy")))
            for rule in rules
        ),
    ]


def _doubts(curves: pa.Table, rules: Sequence[str]) -> Iterator[str]:
    of_rule = {rule: len(curves_by_seed(curves, rule, "accuracy").seeds) for rule in rules}
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
            "There are no random picks to compare the rules with, so the page cannot say whether "
            "they are better."
        )
    yield (
        "The oracle was simulated and never wrong, and this is only one data set and one model. "
        "Annotators make mistakes, most of all on the images that rules like these pick."
    )


def _learning(curves: pa.Table, labels_needed: pa.Table, rules: Sequence[str]) -> list[Html]:
    rows = labels_needed.to_pylist()
    order = {rule: place for place, rule in enumerate(rules)}
    rows.sort(key=lambda row: (row["accuracy"], order.get(row["rule"], len(order))))
    compared = [row for row in rows if row["ratio_low"] is not None and row["rule"] in order]
    drawn = [_learning_curves(curves, rules, sorted({row["accuracy"] for row in rows}))]
    if compared:
        drawn.append(_ratios(compared[:_MOST_TARGET_ROWS], rules))
    return [page.figures(drawn), *([_labels_needed(rows)] if rows else [])]


def _learning_curves(curves: pa.Table, rules: Sequence[str], targets: Sequence[float]) -> Html:
    last = {rule: _last(curves, rule, "accuracy") for rule in rules}
    ahead = max(last, key=lambda rule: np.nan_to_num(last[rule], nan=-1))
    return page.figure(
        f"With the most labels, {ahead} has the highest median accuracy: {_rounded(last[ahead])}",
        plots.lines(_lines(curves, rules, "accuracy"), "labels", "accuracy", level=targets),
        f"{_band(curves, rules)} Dotted lines are the target accuracies.",
    )


def _band(curves: pa.Table, rules: Sequence[str]) -> str:
    if min(len(curves_by_seed(curves, rule, "accuracy").seeds) for rule in rules) >= ENOUGH_SEEDS:
        return "Medians over seeds. The bands contain the middle half of the seeds."
    return "Medians over seeds. Thin lines are single seeds."


def _labels_needed(rows: Sequence[Mapping[str, Any]]) -> Html:
    header = ["rule", "accuracy", "ratio to random", "95 % interval", "labels, median"]
    return page.table([*header, "of seeds", "reached by"], [_needed_row(row) for row in rows])


def _needed_row(row: Mapping[str, Any]) -> list[str]:
    low, high = row["ratio_low"], row["ratio_high"]
    most = f"{row['most']:,.0f}" if row["most"] is not None else "never"
    return [
        row["rule"],
        f"{row['accuracy']:g}",
        "" if row["rule"] == RANDOM else ratio_in_words(row),
        "" if row["rule"] == RANDOM else "–" if low is None else f"{low:.2f} to {high:.2f}",
        _count(row["median"]),
        "–" if row["fewest"] is None else f"{row['fewest']:,.0f} to {most}",
        f"{row['reached']} of {row['seeds']}",
    ]


def _ratios(rows: Sequence[Mapping[str, Any]], rules: Sequence[str]) -> Html:
    centre, low, high = (
        np.array([row[name] for row in rows], np.float64)
        for name in ("ratio", "ratio_low", "ratio_high")
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
    return page.figure(
        f"In {int((high < 1).sum())} of {len(rows)} comparisons, the whole interval of the ratio "
        "lies below 1",
        drawn,
        "Left of the dashed line, a rule needs fewer labels. The intervals of all rules and "
        "accuracies hold together with 95 %. Only accuracies that all seeds reached are shown. "
        "The verdicts above do not rest on these ratios.",
    )


def _differences(curves: pa.Table, rules: Sequence[str]) -> list[Html]:
    drawn = [_difference(each, rules.index(each.rule)) for each in differences(curves)]
    about = "Accuracy minus that of random picks with the same seed and the same number of labels."
    return [page.paragraph(about, "muted"), page.figures(drawn)] if drawn else []


def _difference(difference: Difference, number: int) -> Html:
    seeds = len(difference.points_S_L)
    mean_L = difference.points_S_L.mean(axis=0)
    each = [(difference.labels_L, points_L) for points_L in difference.points_S_L]
    band, interval = interval_of_mean(difference.points_S_L), difference.interval
    if band is None or interval is None:
        known = "too few seeds for an interval"
        note = f"Mean over {_seeds(seeds)}."
    else:
        known = f"95 % interval {interval[0]:+.1f} to {interval[1]:+.1f}"
        note = (
            f"Mean over {_seeds(seeds)}. The band is the 95 % interval at each number of labels, "
            "taken by itself."
        )
    low_L, high_L = band or (None, None)
    line = Line(difference.rule, difference.labels_L, mean_L, low_L, high_L, each, number)
    sentence = (
        f"{difference.rule}: {difference.mean:+.1f} percentage points over the whole curve "
        f"({known})"
    )
    drawn = plots.lines([line], "labels", "accuracy minus random, percentage points", level=[0])
    return page.figure(sentence, drawn, note)


def _calibration(curves: pa.Table, rules: Sequence[str]) -> list[Html]:
    ece = {rule: _last(curves, rule, "ece") for rule in rules}
    nll = {rule: _last(curves, rule, "nll") for rule in rules}
    worst = max(rules, key=lambda rule: np.nan_to_num(ece[rule]))
    lowest = min(rules, key=lambda rule: np.nan_to_num(nll[rule], nan=np.inf))
    return [
        page.figures(
            [
                page.figure(
                    f"With the most labels, confidence is off by {ece[worst]:.3f} or less",
                    plots.lines(
                        _lines(curves, rules, "ece"), "labels", "calibration error", zero=True
                    ),
                    "Expected calibration error: how far confidence is from the share of correct "
                    f"predictions. Lower is better. It is largest for {worst}.",
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
    longest = {
        rule: np.nanmax(np.nan_to_num(curves_by_seed(table, rule, "seconds").median()))
        for rule in rules
    }
    slowest = max(rules, key=lambda rule: longest[rule])
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


def _rounded(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
