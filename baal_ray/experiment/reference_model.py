"""A model that took no part in an experiment, to look at what its rules picked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.images import LabelledImages
from baal_ray.model import build_classifier
from baal_ray.posterior.head_inputs import features
from baal_ray.training.optimisation import fit

# Enough for a picture and for a share to 3 percentage points; more take t-SNE minutes.
_MOST_PICKS, _MOST_OTHERS = 300, 1000

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Sight:
    """Images as the onlooker sees them.

    Attributes:
        rows_N: of the images in the experiment's pool; an image may be in several groups.
        features_N_D: float32; what its last linear layer is given, without dropout.
        labels_N: class indices.
        pool: the rows that are a random sample of the pool.
        picks: the rows that each rule picked, or a random part of them.
    """

    rows_N: Rows
    features_N_D: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]
    pool: slice
    picks: Mapping[str, slice]


def look(
    config: ExperimentConfig,
    images: LabelledImages,
    picks: Mapping[str, Sequence[str]],
) -> Sight:
    """Fit a model on as many labels as a curve ends with, drawn at random, and look at picks.

    A model that was fitted on a rule's picks would see these more clearly than those of others; so
    picks that happen to be among its labels are left out.

    Args:
        config: of the experiment.
        images: its pool.
        picks: ids by rule.
    """
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(images.ids))
    fitted, others = np.split(order, [config.most_labels])
    shown = {"": others[:_MOST_OTHERS]}
    for rule, ids in picks.items():
        picked = np.array([row_of[image_id] for image_id in ids], dtype=np.intp)
        shown[rule] = rng.permutation(np.setdiff1d(picked, fitted))[:_MOST_PICKS]
    rows = np.concatenate(list(shown.values()))
    ends = np.cumsum([0, *map(len, shown.values())]).tolist()
    pool, *of_rules = (slice(start, end) for start, end in pairwise(ends))
    return Sight(
        rows,
        _features(config, images, fitted, rows),
        images.labels_N[rows],
        pool,
        dict(zip(picks, of_rules, strict=True)),
    )


def _features(
    config: ExperimentConfig, images: LabelledImages, fitted: Rows, rows: Rows
) -> npt.NDArray[np.float32]:
    """Of some rows, by a model that is fitted on others."""
    device = torch.device("cuda" if config.gpus else "cpu")
    torch.set_num_threads(max(1, int(config.cpus)))
    torch.manual_seed(config.seed)
    classifier = build_classifier(config.model, len(config.classes)).to(device)
    fit(
        classifier,
        torch.from_numpy(images.pixels_N[fitted]),
        torch.from_numpy(images.labels_N[fitted]),
        config.model,
        config.training,
    )
    size = config.scoring.mini_batch
    parts = [
        features(
            classifier,
            torch.from_numpy(images.pixels_N[rows[start : start + size]]).to(device),
            config.model.output,
        )
        for start in range(0, len(rows), size)
    ]
    return torch.cat(parts).cpu().numpy()
