"""The reference model, which took no part in an experiment and looks at what its rules picked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.labelled_images import LabelledImages
from baal_ray.model import build_classifier
from baal_ray.posterior.head_inputs import features
from baal_ray.training.optimisation import fit

# The most images to look at. They suffice for a picture, and for a share to within 3 percentage
# points. With more, t-SNE takes minutes.
_MOST_PICKS, _MOST_OTHERS = 300, 1000

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class PickFeatures:
    """Images as the reference model sees them.

    Attributes:
        rows_N: Row of each image in the experiment's pool. An image may be in several groups.
        features_N_D: Inputs of the model's last linear layer, without dropout, float32.
        labels_N: Class indices of the images.
        pool: Slice of the images that are a random sample of the pool.
        picks: Slice of the images that each rule picked, or of a random part of them.
    """

    rows_N: Rows
    features_N_D: npt.NDArray[np.float32]
    labels_N: npt.NDArray[np.int64]
    pool: slice
    picks: Mapping[str, slice]


def features_of_picks(
    config: ExperimentConfig,
    images: LabelledImages,
    picks: Mapping[str, Sequence[str]],
) -> PickFeatures:
    """Fit a model on as many random labels as a curve ends with, and look at the picks with it.

    A model sees the images that it was fitted on more clearly than others, which would favour a
    rule. Picks that happen to be among the model's labels are therefore left out.

    Args:
        config: Configuration of the experiment.
        images: Pool of the experiment.
        picks: Ids of the picks, by rule.
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
    return PickFeatures(
        rows,
        _features(config, images, fitted, rows),
        images.labels_N[rows],
        pool,
        dict(zip(picks, of_rules, strict=True)),
    )


def _features(
    config: ExperimentConfig, images: LabelledImages, fitted: Rows, rows: Rows
) -> npt.NDArray[np.float32]:
    """Compute the features of some rows with a model that is fitted on others."""
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
