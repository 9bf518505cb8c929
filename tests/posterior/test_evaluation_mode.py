"""Tests of evaluation mode, and of each module's own mode afterwards."""

import pytest
from torch import nn
from torchvision.ops import StochasticDepth

from baal_ray.posterior.evaluation_mode import evaluation_mode


def build():
    """Return a model in training mode whose batch norm is frozen, as in fine-tuning."""
    model = nn.Sequential(nn.BatchNorm1d(2), StochasticDepth(0.5, "row"), nn.Dropout(0.5)).train()
    model[0].eval()
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_each_module_has_its_own_mode_back():
    model = build()
    with evaluation_mode(model):
        assert modes(model) == [False, False, False, False]
    assert modes(model) == [True, False, True, True]


def test_after_an_exception_too():
    model = build()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        1 / 0  # noqa: B018
    assert modes(model) == [True, False, True, True]


def test_blocks_are_left_out_only_when_asked():
    model = build().eval()
    with evaluation_mode(model, stochastic_depth=True):
        assert modes(model) == [False, False, True, False]
    assert modes(model) == [False, False, False, False]
