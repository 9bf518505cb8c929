"""Reasons to doubt a round, found in its figures."""

from collections.abc import Iterator

import numpy as np

from baal_ray.report.class_quality import class_qualities, worst_first
from baal_ray.report.round_facts import RoundFacts
from baal_ray.report.score_summary import ScoreSummary, predicted_counts

# Least share of stable picks. The estimate is up to 0.08 too high (tests/selection/
# test_other_samples.py), so that below it two picks in five may depend on chance.
_STABLE = 0.7
# Least value, in nats, of a pool's highest BALD. Below it, the samples agree so closely that the
# ranking is noise.
_AGREEMENT = 0.01
_MISCALIBRATED = 0.1
_ENOUGH_LABELS = 10
# The share of a batch predicted to be of one class that is lopsided if it is also this many times
# the class's share of the pool.
_LOPSIDED, _TIMES = 0.5, 2.0


def doubts(facts: RoundFacts) -> Iterator[str]:
    """Yield the reasons to doubt a round, each with a remedy; none if nothing is doubtful."""
    yield from _of_the_evaluation(facts)
    yield from _of_the_model(facts)
    yield from _of_the_picks(facts)
    yield from _of_the_images(facts)


def _of_the_evaluation(facts: RoundFacts) -> Iterator[str]:
    latest = facts.rounds[-1]
    if facts.result.checkpoint is None:
        return
    if not facts.result.labels:
        yield (
            "The model was not fitted, so its accuracy and calibration on your images are not "
            "known. Scores are only as good as the model: set training.epochs once there are "
            "labels."
        )
    elif latest.evaluation_set is None:
        yield (
            "Accuracy and calibration are biased: they are measured on held-out labelled images, "
            "most of which a rule picked because they are hard. Set training.evaluation_set to "
            "images drawn at random."
        )
    elif len({past.evaluation_set for past in facts.rounds if past.result.checkpoint}) > 1:
        yield (
            "Some earlier rounds had a different evaluation set, so the learning curve has a "
            "break. Compare only rounds with the same evaluation set."
        )
    if len(facts.rounds) == 1:
        yield (
            "This is the first round, so there is no learning curve yet that could show whether "
            "labels help. Only `baal-ray experiment` can show whether they help more than labels "
            "of random images."
        )


def _of_the_model(facts: RoundFacts) -> Iterator[str]:
    latest = facts.rounds[-1]
    if latest.metric("ece") > _MISCALIBRATED:
        yield (
            f"The model's confidence is off by {latest.metric('ece'):.2f} on average, so the "
            "images it is unsure about are not always those it gets wrong. More labels, "
            "augmentation or a different dropout may help."
        )
    yield from _of_the_recalls(facts)
    with_model = [past for past in facts.rounds if not np.isnan(past.metric("accuracy"))]
    same = [past for past in with_model if past.evaluation_set == latest.evaluation_set]
    if len(same) > 1 and same[-1] is latest:
        fall = same[-2].metric("accuracy") - latest.metric("accuracy")
        if latest.fell_below(same[-2]):
            yield (
                f"Accuracy fell by {fall:.1%} since round {same[-2].round_id}, more than chance "
                "explains. Check the labels that came in since then."
            )
    scores = facts.last_scores
    if scores is not None and scores.column == "bald" and 0 <= scores.highest < _AGREEMENT:
        yield (
            f"The highest BALD is {scores.highest:.4f} nats: the posterior samples agree about "
            "every image, so the ranking is noise. The model may have too little dropout."
        )


def _of_the_recalls(facts: RoundFacts) -> Iterator[str]:
    if facts.result.by_class is None:
        return
    qualities = class_qualities(facts.config.classes, facts.result.by_class)
    far_below = [quality for quality in worst_first(qualities) if quality.is_far_below]
    if far_below:
        worst = far_below[0]
        others = f", and {len(far_below) - 1:,} other classes are as doubtful" * (
            len(far_below) > 1
        )
        yield (
            f"The model finds {worst.recall.count:,} of the {worst.recall.of:,} evaluation images "
            f"of {worst.name!r}, but {worst.others.value:.0%} of all others{others}. Accuracy "
            "hides this. Label more images of the class, or try training.class_weights: balanced."
        )


def _of_the_picks(facts: RoundFacts) -> Iterator[str]:
    stability = facts.result.stability
    if stability is not None and stability < _STABLE:
        yield (
            f"Other posterior samples would pick only about {stability:.0%} of these images. The "
            "other picks depend on chance. Raise scoring.samples, or add scoring.further_stages."
        )
    if facts.last_scores is not None and len(facts.batch):
        yield from _of_the_classes(facts, facts.scores or facts.last_scores, facts.last_scores)
    active, accuracy = facts.compared.active, facts.rounds[-1].metric("accuracy")
    if active.of >= _ENOUGH_LABELS and active.share < 1 - accuracy:
        yield (
            f"The model was wrong about {active.share:.0%} of the labelled picks, but about "
            f"{1 - accuracy:.0%} of the evaluation images, so the picks were no harder than other "
            "images. Check what they show, and whether their labels are right."
        )


def _of_the_classes(facts: RoundFacts, pool: ScoreSummary, last: ScoreSummary) -> Iterator[str]:
    picks = predicted_counts(last)
    if not picks.sum():
        return
    share, everywhere = picks / picks.sum(), pool.predicted_C / max(1, pool.predicted_C.sum())
    most = int(share.argmax())
    if share[most] > _LOPSIDED and share[most] > _TIMES * everywhere[most]:
        yield (
            f"{share[most]:.0%} of the picks are predicted to be {facts.config.classes[most]!r}, "
            f"compared with {everywhere[most]:.0%} of the pool. If they look alike below, set "
            "selection.most_alike, or use a rule that spreads its picks, such as batch_bald: "
            "that wastes fewer labels."
        )


def _of_the_images(facts: RoundFacts) -> Iterator[str]:
    result, k = facts.result, facts.config.selection.k
    if result.unreadable:
        yield (
            f"{result.unreadable:,} images of the pool are unreadable. The section Failures lists "
            "the reasons. These images are never picked, and every round tries them again."
        )
    if facts.pool.note:
        yield f"Not all files below pool.uri belong to the pool: {facts.pool.note}."
    if result.evaluation_images:
        yield (
            f"{result.evaluation_images:,} images of the pool are also evaluation images. They "
            "were not picked. A picture that was encoded again, under another id, would not be "
            "recognised: remove all evaluation images from the pool."
        )
    if result.acquired < k:
        yield (
            f"Only {result.acquired:,} of the {k:,} wanted images were acquired, because the pool "
            f"has no more{' whose BALD is above 0' if result.rule == 'power_bald' else ''}."
        )
    if result.checkpoint is not None and result.acquired and facts.scores is None:
        yield (
            "The scores of this round no longer exist, so they are not shown: `baal-ray prune` "
            "deletes the scores of old rounds."
        )
