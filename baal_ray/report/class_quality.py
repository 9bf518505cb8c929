"""The recall and precision of each class on the evaluation set, with their 95 % intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

from baal_ray.report.intervals import Interval, newcombe, wilson
from baal_ray.workspace.records import ClassCounts

# A recall is far below that of the other images if the 95 % interval of the difference is above
# this. Where all classes are alike, chance alone puts 1 of 100 classes there at most.
_FAR = 0.1


@dataclass(frozen=True)
class Share:
    """A share of a number of images."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 to 1; NaN if there are no images."""
        return self.count / self.of if self.of else nan

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval; 0 to 1 if there are no images."""
        return wilson(self.count, self.of) if self.of else (0.0, 1.0)

    def __str__(self) -> str:
        if not self.of:
            return "unknown"
        low, high = self.interval
        return f"{self.value:.0%} ({low:.0%} to {high:.0%})"


@dataclass(frozen=True)
class ClassQuality:
    """The quality of predictions about one class.

    Attributes:
        name: Name of the class.
        recall: Share of its evaluation images that the model finds.
        precision: Share of the images predicted to be of it that are.
        others: Recall of the images of all other classes together.
    """

    name: str
    recall: Share
    precision: Share
    others: Share

    @property
    def is_far_below(self) -> bool:
        """Whether its recall is far below that of the other images."""
        if not (self.recall.of and self.others.of):
            return False
        low, _ = newcombe(self.others.count, self.others.of, self.recall.count, self.recall.of)
        return low > _FAR

    def __str__(self) -> str:
        return (
            f"{self.name!r}: {self.recall.count:,} of {self.recall.of:,} evaluation images are "
            f"found, recall {self.recall}, precision {self.precision}"
        )


def class_qualities(classes: Sequence[str], counts: ClassCounts) -> list[ClassQuality]:
    """Return the quality of each class, in the order of the classes."""
    images, correct = sum(counts.images), sum(counts.correct)
    by_class = zip(classes, counts.images, counts.predicted, counts.correct, strict=True)
    return [
        ClassQuality(
            name, Share(hits, own), Share(hits, predicted), Share(correct - hits, images - own)
        )
        for name, own, predicted, hits in by_class
    ]


def worst_first(qualities: Iterable[ClassQuality]) -> list[ClassQuality]:
    """Return the classes that have evaluation images, the lowest recall first."""
    known = [quality for quality in qualities if quality.recall.of]
    return sorted(known, key=lambda quality: (quality.recall.value, -quality.recall.of))
