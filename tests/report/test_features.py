import numpy as np
import pytest
import torch
from torch import nn

from baal_ray.config import ModelConfig
from baal_ray.model import Checkpoint, ImageClassifier
from baal_ray.report import features
from baal_ray.report.features import feature_map
from pools import CLASSES, picture


def checkpoint(network: nn.Module, output: str = "logits") -> Checkpoint:
    config = ModelConfig.model_validate({"image_size": 12, "output": output})
    classifier = ImageClassifier(network, config.mean, config.std).eval()
    return Checkpoint("0" * 64, config, CLASSES, {}, classifier)


def images(count: int, start: int = 0) -> list[bytes]:
    return [picture(i % 3, i) for i in range(start, start + count)]


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.ReLU(), *layers)


def test_features_are_what_the_last_linear_layer_sees():
    model = checkpoint(network(nn.Dropout(0.5), nn.Linear(5, 3)))
    images_N = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    seen = features._seen_last(model, images_N)
    before = nn.Sequential(*list(model.classifier.network)[:-2])
    normalised = (images_N / 255 - model.classifier.mean) / model.classifier.std
    assert torch.allclose(seen, before(normalised))


@pytest.mark.parametrize("output", ["logits", "log_probs"])
def test_a_model_without_a_linear_layer_gives_its_log_probabilities(output):
    layers = [nn.Conv2d(3, 3, 12), nn.Flatten()]
    if output == "log_probs":
        layers.append(nn.LogSoftmax(dim=1))
    model = checkpoint(nn.Sequential(*layers), output)
    seen = features._seen_last(model, torch.zeros(2, 3, 12, 12, dtype=torch.uint8))
    assert seen.shape == (2, 3)
    assert torch.allclose(seen.exp().sum(dim=1), torch.ones(2))


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
