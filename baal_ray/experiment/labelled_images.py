"""The images of an experiment, decoded and in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baal_ray.errors import PoolError
from baal_ray.experiment.config import ExperimentConfig
from baal_ray.training.examples import LEFT_OUT, evaluation_examples, load_share


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory whose labels are known.

    Attributes:
        ids: Ids of the N images.
        pixels_N: Pixels, uint8 [N, 3, H, W].
        labels_N: Class indices, int64.
    """

    ids: Sequence[str]
    pixels_N: npt.NDArray[np.uint8]
    labels_N: npt.NDArray[np.int64]


def read_images(uri: str, config: ExperimentConfig) -> LabelledImages:
    """Read labelled images in the order of their ids. Images that do not decode are left out."""
    examples = evaluation_examples(uri, config.classes, integer_ids=True)
    pixels_N, labels_N = load_share(examples, 0, 1, config.model, config.scoring.max_pixels)
    decoded = labels_N != LEFT_OUT
    ids = [i for i, kept in zip(sorted(examples.class_of), decoded.tolist(), strict=True) if kept]
    if not ids:
        raise PoolError(f"{uri} has no image that can be decoded; it must have at least one")
    return LabelledImages(ids, pixels_N[decoded].numpy(), labels_N[decoded].numpy())
