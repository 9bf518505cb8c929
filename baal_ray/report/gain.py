"""The gain from labels: the accuracy of later models minus that of earlier ones, per label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from baal_ray.config import RoundConfig
from baal_ray.report.intervals import Interval, newcombe
from baal_ray.workspace.rounds import FinishedRound
from baal_ray.workspace.stage_files import RoundResult

#: Number of rounds with new labels over which the last gain is measured.
ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """The result of a round's model on the evaluation set.

    Attributes:
        round_id: Id of the round that fitted the model.
        labels: Number of labels that the model was fitted on.
        correct: Number of images that the model was right about.
        images: Number of images in the evaluation set.
    """

    round_id: str
    labels: int
    correct: float
    images: float


@dataclass(frozen=True)
class Gain:
    """Percentage points of accuracy per 100 labels, with their 95 % interval."""

    points: float
    interval: Interval

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.points:+.2f} ({low:+.2f} to {high:+.2f})"


def comparable_models(config: RoundConfig, finished: Sequence[FinishedRound]) -> list[Measured]:
    """Return the models of rounds whose accuracies show what labels gain, oldest first.

    Args:
        config: Configuration. Models that were fitted or measured in another way are left out.
        finished: The finished rounds, oldest first.

    Returns:
        The models measured on a fixed evaluation set with as many images as the last one's. Each
        was fitted on a different number of labels than the one before.
    """
    if config.training.evaluation_set is None:
        return []
    found = [
        _measured(each.record.result)
        for each in finished
        if "accuracy" in each.record.result.metrics and _fit(each.plan.config) == _fit(config)
    ]
    same_set = (model for model in found if model.images == found[-1].images)
    return [next(models) for _, models in groupby(same_set, key=lambda model: model.labels)]


def _measured(result: RoundResult) -> Measured:
    accuracy, images = result.metrics["accuracy"], result.metrics["images"]
    return Measured(result.round_id, result.labels, round(accuracy * images), images)


def _fit(config: RoundConfig) -> tuple[Any, ...]:
    """Return the settings that a model and its accuracy depend on, besides labels and chance."""
    training = config.training.model_dump(exclude={"max_failures"})
    return config.classes, config.model, training, config.scoring.stochastic_depth


def gain_between(before: Measured, after: Measured) -> Gain | None:
    """Return the gain from one model to a later one, or None without new labels.

    The interval is Newcombe's, which assumes that each model was measured on its own images. Both
    were measured on the same images and mostly err on the same ones, so for these two models the
    interval is too wide. It does not cover the variation between fits on the same
    labels.
    """
    labels = after.labels - before.labels
    if labels <= 0:
        return None
    points = 100 * 100 / labels
    low, high = newcombe(after.correct, after.images, before.correct, before.images)
    difference = after.correct / after.images - before.correct / before.images
    return Gain(points * difference, (points * low, points * high))


def gain_lines(config: RoundConfig, models: Sequence[Measured]) -> Iterator[str]:
    """Yield lines that say in plain words what the labels of the last rounds gained."""
    if config.training.evaluation_set is None:
        yield (
            "training.evaluation_set is not set: each round is measured on different images, so "
            "accuracies cannot be compared between rounds, and the gain per label is unknown."
        )
        return
    last = models[-ROUNDS - 1 :]
    gain = gain_between(last[0], last[-1]) if last else None
    if gain is None:
        yield (
            "The gain per label can be estimated after two rounds with these settings and "
            "different labels."
        )
        return
    yield "Points of accuracy per 100 labels (95% intervals):"
    if len(last) > 2:
        for before, after in pairwise(last):
            yield f"  {before.round_id} to {after.round_id}: {gain_between(before, after)}"
    images = f"{last[-1].images:.0f} evaluation images"
    yield f"  {last[0].round_id} to {last[-1].round_id}: {gain}: {_verdict(gain, images)}."


def _verdict(gain: Gain, images: str) -> str:
    low, high = gain.interval
    if low > 0:
        return "labels still make the model better"
    if high < 0:
        return "the model has become worse; look at the labels that came in"
    return f"no gain that {images} can distinguish from none"
