"""Where images lie as the model sees them, on a map of two dimensions (t-SNE)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from baal_ray import images
from baal_ray.checkpoint import Checkpoint
from baal_ray.posterior.head_inputs import features

_AT_ONCE = 16
_COMPONENTS = 50
_PERPLEXITY = 30
FEWEST = 12

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FeatureMap:
    """Images on a map.

    Attributes:
        points: of each group, [N, 2].
        asked: images that were to be on it; fewer are, where time was short.
        neighbours: of the last group, how many images have another of that group as the nearest.
    """

    points: dict[str, Points]
    asked: int
    neighbours: int

    @property
    def images(self) -> int:
        """How many are on it."""
        return sum(map(len, self.points.values()))


def feature_map(
    checkpoint: Checkpoint,
    groups: Mapping[str, Sequence[bytes]],
    *,
    max_pixels: int,
    seconds: float,
) -> FeatureMap | None:
    """Put images on a map, in this process and on the CPU.

    Args:
        checkpoint: the model.
        groups: encoded images by the name of their group.
        max_pixels: of an encoded image.
        seconds: after which no more images go through the model; those on the map are then a
            random part.

    Returns:
        The map; None for fewer than a dozen images.
    """
    everything = [(name, image) for name, of_group in groups.items() for image in of_group]
    order = np.random.default_rng(0).permutation(len(everything))
    shuffled = [everything[i] for i in order]
    features_N_D, names = _features_of(checkpoint, shuffled, max_pixels, seconds)
    if len(features_N_D) < FEWEST:
        return None
    points = embedded(features_N_D)
    group = np.array(names)
    return FeatureMap(
        {name: points[group == name] for name in groups},
        len(everything),
        _neighbours(features_N_D, group == list(groups)[-1]),
    )


def _features_of(
    checkpoint: Checkpoint,
    examples: Sequence[tuple[str, bytes]],
    max_pixels: int,
    seconds: float,
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Features [N, D] of the images that can be decoded in the time, and their groups."""
    seen, names = [np.empty((0, 0), np.float32)], list[str]()
    until = time.monotonic() + seconds
    classifier = checkpoint.classifier.eval()
    for start in range(0, len(examples), _AT_ONCE):
        if start and time.monotonic() > until:
            break
        some = examples[start : start + _AT_ONCE]
        pixels_N, faults = images.decode_many(
            [image for _, image in some], *checkpoint.config.image_size, max_pixels=max_pixels
        )
        good = np.array([fault is None for fault in faults])
        if good.any():
            images_N = torch.from_numpy(pixels_N[good])
            seen.append(features(classifier, images_N, checkpoint.config.output).numpy())
            names += [name for (name, _), shown in zip(some, good, strict=True) if shown]
    return np.concatenate(seen[1:]) if names else seen[0], names


def embedded(features_N_D: npt.NDArray[np.float32]) -> Points:
    """Where t-SNE puts images on a map, [N, 2]; a dozen at least."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    images, width = features_N_D.shape
    if width > _COMPONENTS:
        components = min(_COMPONENTS, images - 1)
        features_N_D = PCA(components, random_state=0).fit_transform(features_N_D)
    perplexity = min(_PERPLEXITY, (images - 1) / 3)
    embedding = TSNE(perplexity=perplexity, init="pca", random_state=0)
    points: Points = embedding.fit_transform(features_N_D).astype(np.float64)
    return points


def _neighbours(features_N_D: npt.NDArray[np.float32], mine_N: npt.NDArray[np.bool_]) -> int:
    """How many of mine have another of mine as their nearest neighbour."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=2).fit(features_N_D)
    if not mine_N.any():
        return 0
    near_M_2 = nearest.kneighbors(features_N_D[mine_N], return_distance=False)
    rows = np.flatnonzero(mine_N)
    other = np.where(near_M_2[:, 0] == rows, near_M_2[:, 1], near_M_2[:, 0])
    return int(mine_N[other].sum())
