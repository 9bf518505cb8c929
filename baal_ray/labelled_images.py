"""Labelled images in memory, as an experiment's processes share them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory whose labels are known.

    Attributes:
        ids: of N images.
        pixels_N: uint8 [N, 3, H, W].
        labels_N: class indices, int64.
    """

    ids: Sequence[str]
    pixels_N: npt.NDArray[np.uint8]
    labels_N: npt.NDArray[np.int64]
