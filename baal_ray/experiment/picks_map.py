"""Maps of where each rule's picks lie in the pool, as seen by a model that took no part."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from baal_ray.experiment.reference_model import PickFeatures
from baal_ray.report import page, plots
from baal_ray.report.page import Html

_NEAREST = 10
# Fewest images on a map.
_FEWEST = 12
# Settings of t-SNE, and the principal components that it is given.
_COMPONENTS, _PERPLEXITY = 50, 30

Points = npt.NDArray[np.float64]


def picks_map(sight: PickFeatures, classes: Sequence[str]) -> list[Html]:
    """Draw one map per rule, all of the same images, or none if there are too few images.

    Args:
        sight: Images to draw, with their features.
        classes: Names of the classes, in the order of the class indices.
    """
    if len(sight.features_N_D[sight.pool]) < _FEWEST:
        return []
    points_N_2 = _embedded(sight.features_N_D)
    classes_P = sight.labels_N[sight.pool]
    pool = [(name, points_N_2[sight.pool][classes_P == c]) for c, name in enumerate(classes)]
    near = others_near(sight)
    about = (
        f"Each map is a t-SNE of the same {len(classes_P):,} images of the pool, and of up to "
        f"{max(rows.stop - rows.start for rows in sight.picks.values())} picks of a rule with the "
        "first seed. The features come from a model that was fitted on other images, drawn at "
        "random. Distances between clusters mean nothing. For comparison: of the "
        f"{_NEAREST} pool images nearest to an image of the pool, "
        f"{near.pop('pool'):.0%} are of another class."
    )
    drawn = [
        page.figure(
            f"{rule}: {share:.0%} of the {_NEAREST} images nearest to a pick are of another class",
            plots.crowd(pool, (f"picks of {rule}", points_N_2[sight.picks[rule]])),
        )
        for rule, share in near.items()
    ]
    return [page.paragraph(about, "muted"), page.figures(drawn)]


def others_near(sight: PickFeatures) -> dict[str, float]:
    """Return, for each group of images, the share of nearest images that are of another class.

    Args:
        sight: Images with their features, in which distances are measured.

    Returns:
        The share for each rule and for "pool". Groups without images are left out.
    """
    from sklearn.neighbors import NearestNeighbors

    pool = sight.pool
    nearest = NearestNeighbors(n_neighbors=min(_NEAREST + 1, pool.stop - pool.start))
    nearest.fit(sight.features_N_D[pool])

    def share(rows: slice) -> float:
        near_M_n = nearest.kneighbors(sight.features_N_D[rows], return_distance=False)
        # An image may be its own neighbour, which says nothing.
        itself_M_n = sight.rows_N[pool][near_M_n] == sight.rows_N[rows, None]
        order_M_n = np.argsort(itself_M_n, axis=1, kind="stable")[:, :_NEAREST]
        near_M_n = np.take_along_axis(near_M_n, order_M_n, axis=1)
        return float((sight.labels_N[pool][near_M_n] != sight.labels_N[rows, None]).mean())

    groups = {**sight.picks, "pool": pool}
    return {name: share(rows) for name, rows in groups.items() if rows.stop > rows.start}


def _embedded(features_N_D: npt.NDArray[np.float32]) -> Points:
    """Return the places [N, 2] of N images, a dozen at least, by t-SNE."""
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
