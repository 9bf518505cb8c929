"""Tests of features of images: the inputs of the last linear layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baal_ray.posterior.head_inputs import features
from scenarios import inputs


def test_they_are_what_the_last_linear_layer_is_given():
    first = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())
    model = nn.Sequential(first, nn.Dropout(0.5), nn.Linear(5, 3)).train()
    images_N = inputs(4, 3, 2, 2)
    assert torch.equal(features(model, images_N, "logits"), first(images_N))
    assert model.training


@pytest.mark.parametrize("output", ["logits", "log_probs"])
def test_a_model_without_a_linear_layer_gives_its_log_probabilities(output):
    layers = [nn.Conv2d(3, 3, 2), nn.Flatten()]
    if output == "log_probs":
        layers.append(nn.LogSoftmax(dim=1))
    seen = features(nn.Sequential(*layers), inputs(2, 3, 2, 2), output)
    assert seen.shape == (2, 3)
    torch.testing.assert_close(seen.exp().sum(dim=1), torch.ones(2))


class AlwaysDropping(nn.Module):
    """A model whose dropout is a function that no mode switches off."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        return self.linear(F.dropout(x.flatten(1), training=True))


def test_nothing_is_dropped_whatever_the_model_says():
    images_N = inputs(2, 3, 2, 2)
    assert torch.equal(features(AlwaysDropping(), images_N, "logits"), images_N.flatten(1))


class Transposed(nn.Module):
    """A model whose linear layer has positions before images in its input."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x.flatten(2).permute(2, 0, 1)).mean(dim=0)


def test_a_layer_that_is_given_no_row_for_each_image_does_not_count():
    assert features(Transposed(), inputs(2, 3, 2, 2), "logits").shape == (2, 3)
