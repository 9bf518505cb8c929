"""The sections of a round's page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from baal_ray import images
from baal_ray.errors import ImageError
from baal_ray.report import page, plots
from baal_ray.report.page import Card, Html
from baal_ray.report.plots import Line, Values
from baal_ray.report.round_facts import PastRound, RoundFacts
from baal_ray.report.score_summary import predicted_counts
from baal_ray.score_names import SCORE_COLUMNS, SMALL_IS_INFORMATIVE
from baal_ray.scoring.progress import in_words
from baal_ray.workspace.batches import encoded_images
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE

# Number of pictures of the first picks in rank, and of the other picks.
_FIRST_CARDS, _OTHER_CARDS = 40, 20
_MOST_CLASSES, _MOST_REASONS, _MOST_BARS = 20, 20, 12
# Difference of shares that is worth a headline.
_DIFFERENCE = 0.05
_STAGES = ("fit", "score", "candidates", "select")


def batch_section(facts: RoundFacts) -> list[Html]:
    """Return pictures of the picks, and how many of them the model was wrong about."""
    rows = facts.batch.to_pylist()
    if not rows:
        return []
    shown = rows[:_FIRST_CARDS]
    others = rows[_FIRST_CARDS:]
    if others:
        places = np.linspace(0, len(others) - 1, min(_OTHER_CARDS, len(others))).astype(int)
        shown += [others[place] for place in places]
    pictures = encoded_images(facts.batch_files, [row["id"] for row in shown])
    cards = [_card(facts, row, pictures.get(row["id"])) for row in shown]
    left = f" {len(shown)} of {len(rows):,} picks are shown." if len(shown) < len(rows) else ""
    about = page.paragraph(_meaning(facts) + left, "muted")
    return [about, page.contact_sheet(cards), *_hindsight(facts)]


def _meaning(facts: RoundFacts) -> str:
    if facts.last_scores is None:
        return "The images are in the order in which they were picked."
    return (
        f"Below each image: its rank and its score by {facts.result.rule}, the class that the "
        "model predicts with its probability, and the label once there is one (= as predicted, "
        "≠ different)."
    )


def _card(facts: RoundFacts, row: dict[str, Any], image: bytes | None) -> Card:
    small, tiny = thumbnail(image, facts.config.scoring.max_pixels)
    predicted, label = facts.predicted(row["id"]), facts.labels.get(row["id"])
    lines = [f"{row['rank']}" if row["score"] is None else f"{row['rank']} · {row['score']:.3f}"]
    if predicted is not None:
        lines.append(f"{predicted[0]} · {predicted[1]:.0%}")
    if label is not None:
        wrong = predicted is not None and label != predicted[0]
        lines.append(f"{'≠' if wrong else '='} {label}")
    gone = "cannot be shown" if image else "no longer there"
    alt = f"pick {row['rank']}" if small else gone
    return Card(small, alt, lines, row["id"], tiny)


def _hindsight(facts: RoundFacts) -> list[Html]:
    active, random = facts.compared.active, facts.compared.random
    if not active.of:
        return []
    accuracy = facts.rounds[-1].metric("accuracy")
    beside = f"; {random.share:.0%} of {random.of:,} random picks" if random.of else ""
    beside += "" if np.isnan(accuracy) else f"; {1 - accuracy:.0%} of the evaluation images"
    told = (
        f"Of the {active.of:,} active picks that have a label by now, the model was wrong about "
        f"{active.count:,} ({active.share:.0%}{beside}). A rule that works picks images that "
        "the model gets wrong more often than others."
    )
    return [page.paragraph(told)]


def scores_section(facts: RoundFacts) -> list[Html]:
    """Show where the picks lie among the scores, and which classes they are predicted to be."""
    if facts.last_scores is None or facts.scores is None:
        return []
    return [page.figures([_histogram(facts), _classes(facts)])]


def _histogram(facts: RoundFacts) -> Html:
    summary = facts.last_scores
    assert summary is not None
    edges, pool, batch = summary.histogram()
    active = [summary.picks[id][summary.column] for id in facts.active() if id in summary.picks]
    small = summary.column in SMALL_IS_INFORMATIVE
    cut = None
    if facts.result.rule in SCORE_COLUMNS and active and not facts.config.selection.narrows:
        cut = max(active) if small else min(active)
    picked = len(summary.picks)
    share = picked / max(1, summary.scored)
    sentence = f"{picked:,} of {summary.scored:,} scored images were acquired ({share:.1%})"
    if cut is not None:
        side = "at most" if small else "at least"
        sentence += f": those whose {summary.column} is {side} {cut:.3f}"
        sentence += f", and {picked - len(active):,} at random" if picked > len(active) else ""
    note = "" if cut is not None else _no_cut(facts)
    if facts.last_scores is not facts.scores:
        note += " Only the candidates of the last stage of scoring are shown."
    return page.figure(
        sentence, plots.histogram(edges, pool, batch, cut, summary.column), note.strip()
    )


def _no_cut(facts: RoundFacts) -> str:
    rule = facts.result.rule
    if rule == "random":
        return "The images were picked at random, so their scores are like those of all others."
    return f"{rule} does not pick by this score alone, so there is no cut."


def _classes(facts: RoundFacts) -> Html:
    assert facts.scores is not None
    assert facts.last_scores is not None
    pool_C, batch_C = facts.scores.predicted_C, predicted_counts(facts.last_scores)
    pool, batch = pool_C / max(1, pool_C.sum()), batch_C / max(1, batch_C.sum())
    order = np.arange(len(pool))
    note = "The classes are the model's own predictions, which may be wrong."
    if len(order) > _MOST_CLASSES:
        order = np.sort(np.argsort(-np.abs(batch - pool), kind="stable")[:_MOST_CLASSES])
        note += f" Of {len(pool):,} classes, those that differ most are shown."
    most = int((batch - pool).argmax())
    names = facts.config.classes
    sentence = "The predicted classes of the picks are distributed like those of the pool"
    if batch[most] - pool[most] > _DIFFERENCE:
        sentence = (
            f"{names[most]!r} is more frequent among the picks than in the pool: "
            f"{batch[most]:.0%} against {pool[most]:.0%}"
        )
    drawn = plots.shares([names[i] for i in order], pool[order], batch[order])
    return page.figure(sentence, drawn, note)


def learning_section(facts: RoundFacts) -> list[Html]:
    """Show accuracy over the rounds so far."""
    rounds = _evaluated(facts)
    if not rounds:
        return []
    accuracy = _metric(rounds, "accuracy")
    low, high = np.array([past.interval() for past in rounds]).T
    line = Line("", _labels(rounds), accuracy, low, high)
    first, last = rounds[0], rounds[-1]
    sentence = f"Accuracy is {accuracy[-1]:.1%} with {last.result.labels:,} labels"
    if len(rounds) > 1:
        sentence += f"; it was {accuracy[0]:.1%} with {first.result.labels:,}"
    drawn = plots.lines([line], "labels", "accuracy")
    note = (
        "The band is the 95 % interval of each accuracy, by Wilson. The last one was measured on "
        f"{last.metric('images'):,.0f} evaluation images."
    )
    return [
        page.figures([page.figure(sentence, drawn, note)]),
        page.paragraph(
            "This curve can show that labels help, but not that these labels help more than "
            "others would, because there is no second curve of random picks. An experiment on "
            "labelled data draws both."
        ),
        page.folded("Figures by round", [_table(rounds)]),
    ]


def _table(rounds: Sequence[PastRound]) -> Html:
    header = ["round", "rule", "labels", "accuracy", "95 % interval", "nll", "ece"]
    rows = [
        [
            past.round_id,
            past.result.rule,
            f"{past.result.labels:,}",
            f"{past.metric('accuracy'):.3f}",
            "{:.3f} to {:.3f}".format(*past.interval()),
            f"{past.metric('nll'):.3f}",
            f"{past.metric('ece'):.3f}",
        ]
        for past in rounds
    ]
    return page.table(header, rows, text=[1])


def calibration_section(facts: RoundFacts) -> list[Html]:
    """Show how far confidence is from the truth over the rounds so far."""
    rounds = _evaluated(facts)
    if not rounds:
        return []
    labels, ece, nll = _labels(rounds), _metric(rounds, "ece"), _metric(rounds, "nll")
    return [
        page.figures(
            [
                page.figure(
                    f"Confidence is off by {ece[-1]:.3f} on average",
                    plots.lines([Line("", labels, ece)], "labels", "calibration error", zero=True),
                    "Expected calibration error: how far the model's confidence is from the share "
                    "of correct predictions, in 15 bins. Lower is better.",
                ),
                page.figure(
                    f"The negative log-likelihood is {nll[-1]:.2f} nats",
                    plots.lines([Line("", labels, nll)], "labels", "nats", zero=True),
                    "How much the right class surprises the model: 0 if it is always sure and "
                    f"right, {np.log(len(facts.config.classes)):.2f} if it knows nothing.",
                ),
            ]
        )
    ]


def _evaluated(facts: RoundFacts) -> list[PastRound]:
    """Return the rounds whose model was evaluated, fewest labels first."""
    known = [past for past in facts.rounds if not np.isnan(past.metric("accuracy"))]
    return sorted(known, key=lambda past: past.result.labels)


def _labels(rounds: Sequence[PastRound]) -> Values:
    return np.array([past.result.labels for past in rounds], np.float64)


def _metric(rounds: Sequence[PastRound], name: str) -> Values:
    return np.array([past.metric(name) for past in rounds])


def failures_section(facts: RoundFacts) -> list[Html]:
    """Show unreadable images by reason, and how many images were left out."""
    parts = [_left_out(facts)]
    failures = facts.scores.failures if facts.scores else {}
    if failures:
        ordered = sorted(failures.items(), key=lambda of: -of[1].images)
        rows = [
            [f"{failure.images:,}", reason, failure.example]
            for reason, failure in ordered[:_MOST_REASONS]
        ]
        parts.append(page.table(["images", "reason", "example"], rows, (1, 2)))
        if len(ordered) > _MOST_REASONS:
            parts.append(
                page.paragraph(f"There are {len(ordered) - _MOST_REASONS} other reasons.")
            )
    elif facts.scores:
        parts.append(page.paragraph("No image was unreadable."))
    return parts


def _left_out(facts: RoundFacts) -> Html:
    images = facts.pool.rows
    rows = [["in the pool", f"{images:,}"]]
    if facts.scores is not None:
        failures = facts.scores.failures
        not_scored = sum(failure.images for failure in failures.values())
        withheld = failures[EVALUATION_IMAGE].images if EVALUATION_IMAGE in failures else 0
        left = images - facts.scores.scored - not_scored - facts.evaluation_ids
        rows += [
            ["scored by this model", f"{facts.scores.scored:,}"],
            ["unreadable", f"{not_scored - withheld:,}"],
            ["left out because they were acquired before", f"{max(0, left):,}"],
        ]
    if facts.result.evaluation_images:
        left_out = f"{facts.result.evaluation_images:,}"
        rows.append(["left out because they are evaluation images", left_out])
    rows.append(["acquired in this round", f"{facts.result.acquired:,}"])
    if facts.rejected:
        rows.append(["of these, rejected by annotators as unusable", f"{facts.rejected:,}"])
    return page.table(["", "images"], rows)


def time_section(facts: RoundFacts) -> list[Html]:
    """Show how long the stages of the last rounds took."""
    rounds = facts.rounds[-_MOST_BARS:]
    seconds = {
        stage: np.array([past.result.seconds.get(stage, 0.0) for past in rounds])
        for stage in _STAGES
    }
    parts = [(stage, values) for stage, values in seconds.items() if values.any()]
    latest = facts.result.seconds
    total = sum(latest.values())
    sentence = f"This round took {in_words(total)}"
    scored = facts.result.scored
    if scored and latest["score"] > 0:
        sentence += f" and scored {scored / latest['score']:,.0f} images per second"
    longest = max(sum(past.result.seconds.values()) for past in rounds)
    unit, divisor = ("minutes", 60) if longest > 300 else ("seconds", 1)
    drawn = plots.stacked(
        [past.round_id for past in rounds],
        [(stage, values / divisor) for stage, values in parts],
        unit,
    )
    return [page.figures([page.figure(sentence, drawn)])]


_LONGEST_SIDE = 96


def thumbnail(image: bytes | None, max_pixels: int) -> tuple[bytes | None, bool]:
    """Return a thumbnail, or None if there is none, and whether to draw its pixels as squares."""
    try:
        small = images.thumbnail(image or b"", _LONGEST_SIDE, max_pixels=max_pixels)
    except ImageError:
        return None, False
    return small, small.startswith(b"\x89PNG")
