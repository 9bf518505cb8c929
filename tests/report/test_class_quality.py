"""Tests of recall and precision by class, and of when a class is far below the rest."""

import numpy as np
import pytest

from baal_ray.report.class_quality import Share, class_qualities, worst_first
from baal_ray.report.intervals import wilson
from baal_ray.workspace.records import ClassCounts

# Accuracy is 0.95 and the model finds none of the 6 rare images.
HIDDEN = ClassCounts(images=[114, 6], predicted=[120, 0], correct=[114, 0])


def test_recall_and_precision_of_each_class() -> None:
    counts = ClassCounts(images=[10, 20, 0], predicted=[12, 16, 2], correct=[9, 15, 0])
    first, second, third = class_qualities(["a", "b", "c"], counts)
    assert (first.recall, first.precision) == (Share(9, 10), Share(9, 12))
    assert first.others == Share(15, 20)
    assert second.recall.interval == wilson(15, 20)
    assert str(third.recall) == "unknown"
    assert str(third.precision) == "0% (0% to 66%)"


def test_the_lowest_recall_is_first_and_unknown_ones_are_left_out() -> None:
    counts = ClassCounts(images=[10, 2, 4, 0], predicted=[9, 2, 5, 0], correct=[9, 1, 2, 0])
    ordered = worst_first(class_qualities(["a", "b", "c", "d"], counts))
    assert [quality.name for quality in ordered] == ["c", "b", "a"]


def test_a_class_that_accuracy_hides_is_far_below() -> None:
    common, rare = class_qualities(["common", "rare"], HIDDEN)
    assert rare.is_far_below
    assert not common.is_far_below
    assert str(rare) == (
        "'rare': 0 of 6 evaluation images are found, recall 0% (0% to 39%), precision unknown"
    )


@pytest.mark.parametrize(("found", "images"), [(0, 1), (1, 2), (2, 3), (4, 6)])
def test_a_few_images_of_a_good_class_are_no_evidence(found: int, images: int) -> None:
    counts = ClassCounts(images=[90, images], predicted=[80, 12], correct=[80, found])
    assert not class_qualities(["a", "b"], counts)[1].is_far_below


@pytest.mark.parametrize("recall", [0.5, 0.7, 0.9])
def test_chance_seldom_puts_a_class_far_below(recall: float) -> None:
    """All classes have the same recall here, so each class that is far below is a false alarm."""
    generator = np.random.default_rng(0)
    alarms = []
    for _ in range(300):
        images = generator.integers(1, 60, 20)
        counts = ClassCounts(
            images=images.tolist(),
            predicted=images.tolist(),
            correct=generator.binomial(images, recall).tolist(),
        )
        names = [str(number) for number in range(20)]
        alarms += [quality.is_far_below for quality in class_qualities(names, counts)]
    assert np.mean(alarms) < 0.01
