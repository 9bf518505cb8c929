"""Where the picks of each rule lie in the pool, as a model sees it that took no part."""

from collections.abc import Sequence

import numpy as np

from baal_ray.experiment.reference_model import Sight
from baal_ray.report import page, plots
from baal_ray.report.feature_map import FEWEST, embedded
from baal_ray.report.page import Html

_NEAREST = 10


def picks_map(sight: Sight, classes: Sequence[str]) -> list[Html]:
    """A map for each rule, of the same images, beside each other; none for too few images.

    Args:
        sight: the images.
        classes: their names, in the order of the class indices.
    """
    if len(sight.features_N_D[sight.pool]) < FEWEST:
        return []
    points_N_2 = embedded(sight.features_N_D)
    classes_P = sight.labels_N[sight.pool]
    pool = [(name, points_N_2[sight.pool][classes_P == c]) for c, name in enumerate(classes)]
    near = others_near(sight)
    about = (
        f"t-SNE of {len(classes_P):,} images of the pool, the same on every map, and up to "
        f"{max(rows.stop - rows.start for rows in sight.picks.values())} picks of the first seed, "
        "as a model sees them that was fitted on other images, drawn at random. Distances between "
        f"clusters mean nothing. Of the {_NEAREST} images of the pool nearest to one of the pool, "
        f"{near.pop('pool'):.0%} are of another class."
    )
    drawn = [
        page.figure(
            f"{rule}: of {_NEAREST} images nearest to a pick, {share:.0%} are of another class",
            plots.crowd(pool, (f"picks of {rule}", points_N_2[sight.picks[rule]])),
        )
        for rule, share in near.items()
    ]
    return [page.paragraph(about, "muted"), page.figures(drawn)]


def others_near(sight: Sight) -> dict[str, float]:
    """What share of the images nearest in features to those of a group are of another class.

    Args:
        sight: the images.

    Returns:
        The share by rule, and by "pool"; only of groups that have images.
    """
    from sklearn.neighbors import NearestNeighbors

    pool = sight.pool
    nearest = NearestNeighbors(n_neighbors=min(_NEAREST + 1, pool.stop - pool.start))
    nearest.fit(sight.features_N_D[pool])

    def share(rows: slice) -> float:
        near_M_n = nearest.kneighbors(sight.features_N_D[rows], return_distance=False)
        # An image may be its own neighbour, which tells nothing.
        itself_M_n = sight.rows_N[pool][near_M_n] == sight.rows_N[rows, None]
        order_M_n = np.argsort(itself_M_n, axis=1, kind="stable")[:, :_NEAREST]
        near_M_n = np.take_along_axis(near_M_n, order_M_n, axis=1)
        return float((sight.labels_N[pool][near_M_n] != sight.labels_N[rows, None]).mean())

    groups = {**sight.picks, "pool": pool}
    return {name: share(rows) for name, rows in groups.items() if rows.stop > rows.start}
