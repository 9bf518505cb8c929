import numpy as np

from baal_ray.experiment.picks_map import others_near, picks_map
from baal_ray.experiment.reference_model import PickFeatures
from pages import text_of


def two_classes(**picks: tuple[np.ndarray, list[int]]) -> PickFeatures:
    """Return the features of 24 images in two classes, around 0 and around 100, and of picks."""
    features = [np.arange(12.0), 100 + np.arange(12.0)]
    labels = [0] * 12 + [1] * 12
    rows, end = {}, 24
    for rule, (at, classes) in picks.items():
        features.append(at)
        labels += classes
        rows[rule] = slice(end, end + len(at))
        end += len(at)
    features_N_D = np.stack([np.concatenate(features)] * 2, axis=1).astype(np.float32)
    return PickFeatures(np.arange(end), features_N_D, np.array(labels), slice(0, 24), rows)


def test_picks_between_classes_have_others_near():
    sight = two_classes(
        bald=(np.array([55.5, 55.5]), [0, 1]),
        random=(np.array([3.0, 3.0, 104.0]), [0, 0, 1]),
        margin=(np.array([5.0]), [1]),
        confidence=(np.array([]), []),
    )
    assert others_near(sight) == {"bald": 0.5, "random": 0.0, "margin": 1.0, "pool": 0.0}


def test_a_pick_in_the_sample_is_not_its_own_neighbour():
    # The picks are the sample of the pool itself, so their share is that of the pool.
    rng = np.random.default_rng(0)
    rows_N = np.tile(np.arange(100), 2)
    sight = PickFeatures(
        rows_N,
        rng.normal(size=(100, 2)).astype(np.float32)[rows_N],
        rng.integers(0, 2, 100)[rows_N],
        slice(0, 100),
        {"bald": slice(100, 200)},
    )
    found = others_near(sight)
    assert found["bald"] == found["pool"]


def test_each_rule_has_its_map():
    sight = two_classes(bald=(np.array([55.5, 55.5]), [0, 1]), random=(np.array([3.0]), [0]))
    about, maps = picks_map(sight, ["cat", "<dog>"])
    assert "0% are of another class" in text_of(about)
    assert "bald: 50% of the 10 images nearest to a pick are of another class" in text_of(maps)
    assert maps.count("<svg") == 2
    assert "&lt;dog&gt;" in maps


def test_too_few_images_have_no_map():
    sight = two_classes(bald=(np.array([5.0]), [0]))
    few = PickFeatures(sight.rows_N, sight.features_N_D, sight.labels_N, slice(0, 11), sight.picks)
    assert picks_map(few, ["cat", "dog"]) == []


def test_many_classes_share_a_colour():
    sight = two_classes(bald=(np.array([5.0]), [0]))
    _, maps = picks_map(sight, [f"class {number}" for number in range(100)])
    assert "class 1" not in text_of(maps)
    assert "pool" in text_of(maps)
