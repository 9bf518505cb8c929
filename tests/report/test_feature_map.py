import numpy as np
from torch import nn

from baal_ray.checkpoint import Checkpoint
from baal_ray.config import ModelConfig
from baal_ray.model import ImageClassifier
from baal_ray.report import feature_map as features
from baal_ray.report.feature_map import feature_map
from pools import CLASSES, picture


def checkpoint(network: nn.Module, output: str = "logits") -> Checkpoint:
    config = ModelConfig.model_validate({"image_size": 12, "output": output})
    classifier = ImageClassifier(network, config.mean, config.std).eval()
    return Checkpoint("0" * 64, config, CLASSES, {}, classifier)


def images(count: int, start: int = 0) -> list[bytes]:
    return [picture(i % 3, i) for i in range(start, start + count)]


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.ReLU(), *layers)


def test_every_group_is_on_the_map_and_unreadable_images_are_not():
    groups = {"pool": [*images(20), b"no image"], "acquired": images(6, 100)}
    model = checkpoint(network(nn.Linear(5, 3)))
    drawn = feature_map(model, groups, max_pixels=1000, seconds=60)
    assert {name: points.shape for name, points in drawn.points.items()} == {
        "pool": (20, 2),
        "acquired": (6, 2),
    }
    assert (drawn.images, drawn.asked) == (26, 27)
    again = feature_map(model, groups, max_pixels=1000, seconds=60)
    assert np.array_equal(again.points["pool"], drawn.points["pool"])


def test_when_time_is_up_a_part_is_on_the_map():
    groups = {"pool": images(40), "acquired": images(6, 100)}
    drawn = feature_map(checkpoint(network(nn.Linear(5, 3))), groups, max_pixels=1000, seconds=0)
    assert drawn.images == 16


def test_too_few_images_have_no_map():
    model = checkpoint(network(nn.Linear(5, 3)))
    assert feature_map(model, {"pool": images(5)}, max_pixels=1000, seconds=60) is None


def test_neighbours_are_those_nearest_in_features():
    features_N_D = np.array([[0], [1], [10], [11.5], [20], [20]], np.float32)
    mine_N = np.array([True, True, True, False, True, True])
    assert features._neighbours(features_N_D, mine_N) == 4
