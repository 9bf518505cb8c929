"""The section of a round's page about the quality of each class."""

from baal_ray.report import page
from baal_ray.report.class_quality import ClassQuality, class_qualities, worst_first
from baal_ray.report.page import Html
from baal_ray.report.round_facts import RoundFacts

_MOST_CLASSES = 20


def class_section(facts: RoundFacts) -> list[Html]:
    """Show the recall and precision of each class, the lowest recall first."""
    if facts.result.by_class is None:
        return []
    ordered = worst_first(class_qualities(facts.config.classes, facts.result.by_class))
    note = (
        "Recall is the share of a class's evaluation images that the model finds, precision the "
        "share of the images predicted to be of a class that are. In parentheses are Wilson's "
        "95 % intervals. The lowest recall is first."
    )
    without = len(facts.config.classes) - len(ordered)
    if without:
        classes = "class" if without == 1 else "classes"
        note += f" The evaluation set has no image of {without:,} {classes}."
    header = ["class", "images", "recall", "precision"]
    parts = [page.paragraph(note, "muted"), page.table(header, map(_row, ordered[:_MOST_CLASSES]))]
    if len(ordered) > _MOST_CLASSES:
        rest = map(_row, ordered[_MOST_CLASSES:])
        parts.append(page.folded("Other classes", [page.table(header, rest)]))
    return parts if ordered else []


def _row(quality: ClassQuality) -> list[str]:
    return [quality.name, f"{quality.recall.of:,}", str(quality.recall), str(quality.precision)]
