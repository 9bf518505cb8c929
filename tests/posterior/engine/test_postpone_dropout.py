"""Tests that dropout moves behind functions that commute with it, with the same samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from baal_ray.posterior import MCDropout
from baal_ray.posterior.engine.postpone_dropout import postpone_dropout
from baal_ray.posterior.engine.simplify import simplify
from baal_ray.posterior.engine.tracing import DROP, trace
from baal_ray.posterior.outputs import Output
from scenarios import inputs

aten = torch.ops.aten


def order(model, x, per_item=False):
    """Return the kinds of operations of a model, in order, after its dropout is postponed."""
    posterior = MCDropout(model.eval(), samples=2)
    with torch.no_grad():
        sites = posterior.sites(x)
        graph = trace(model, x, torch.contiguous_format, sites, 2, per_item, Output())
    simplify(graph, torch.contiguous_format)
    postpone_dropout(graph)
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def last_drop_is_behind(operations, target):
    return operations.index(DROP) > operations.index(target)


@pytest.mark.parametrize("per_item", [False, True])
def test_channels_are_dropped_after_pooling(per_item):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Dropout2d(),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 3),
    )
    operations = order(model, inputs(4, 1, 8, 8), per_item)
    assert last_drop_is_behind(operations, aten.max_pool2d_with_indices.default)
    assert last_drop_is_behind(operations, aten.relu.default)


@pytest.mark.parametrize(
    ("between", "target"),
    [
        (nn.GELU(), aten.gelu.default),  # f(c·x) ≠ c·f(x)
        (nn.Sigmoid(), aten.sigmoid.default),
        (nn.Conv2d(8, 8, 1), aten.convolution.default),
    ],
)
def test_what_does_not_commute_stays_behind(between, target):
    model = nn.Sequential(
        nn.Flatten(0, 0), nn.Dropout2d(), between, nn.Flatten(), nn.Linear(128, 3)
    )
    operations = order(model, inputs(4, 8, 4, 4))
    assert not last_drop_is_behind(operations, target)


def test_single_pixels_are_dropped_before_pooling():
    model = nn.Sequential(nn.Dropout(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    operations = order(model, inputs(4, 8, 4, 4))
    assert not last_drop_is_behind(operations, aten.max_pool2d_with_indices.default)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = F.dropout2d(self.convolution(x), training=True)
        return self.last((F.relu(x) + x).mean(dim=(2, 3)))


class Indices(nn.Module):
    def forward(self, x):
        x, places = F.max_pool2d(F.dropout2d(x, training=True), 2, return_indices=True)
        return (x + places).flatten(1)


class Convnet(nn.Module):
    """A network with every kind of function that commutes, between two dropouts."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = F.avg_pool2d(F.leaky_relu(F.dropout2d(self.first(x), training=True)), 2, padding=1)
        x = F.max_pool2d(F.dropout2d(self.second(x), training=True), 2)
        return self.last(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


@pytest.mark.parametrize("masks", ["shared", "per_item"])
@pytest.mark.parametrize("model", [Branch(), Indices(), Convnet()], ids=lambda m: type(m).__name__)
def test_samples_are_those_of_the_model(model, masks):
    posterior = MCDropout(model.eval(), samples=6, masks=masks)
    x, ids = inputs(5, 1, 14, 14), list("abcde")
    drawn = posterior.log_probs(x, ids)
    for k in range(6):
        torch.testing.assert_close(drawn[:, k], posterior.sample(k)(x, ids), rtol=1e-5, atol=1e-5)


def test_what_was_postponed_runs_once():
    # Eight samples of the pooled maps cost no more convolutions than one.
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Dropout2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
    x = inputs(4, 1, 12, 12)
    counts = []
    for samples in (1, 8):
        posterior = MCDropout(model, samples=samples)
        posterior.statistics(x)
        with FlopCounterMode(display=False) as counter:
            posterior.statistics(x)
        counts.append(counter.get_flop_counts()["Global"][aten.convolution])
    assert counts[0] == counts[1]
