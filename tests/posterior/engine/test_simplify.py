"""Tests that folding and overwriting do not change what a model computes."""

import pytest
import torch
from torch import nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from baal_ray.posterior.engine.simplify import reuse_memory, simplify
from scenarios import inputs

aten = torch.ops.aten


def traced(model, x):
    graph = make_fx(functionalize(model), tracing_mode="fake", _allow_non_fake_inputs=True)(x)
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(graph, node.target)
    return graph


def targets(graph):
    return [node.target for node in graph.graph.nodes]


def settled(norm):
    """Return a batch norm whose averages differ from its initial ones."""
    torch.manual_seed(0)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_norm_goes_into_the_convolution_before_it(bias, affine, groups):
    norm = settled(nn.BatchNorm2d(6, affine=affine))
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=bias, groups=groups), norm, nn.ReLU())
    x = inputs(2, 4, 8, 8)
    graph = traced(model, x)
    simplify(graph, torch.contiguous_format)
    assert aten.native_batch_norm.default not in targets(graph)
    torch.testing.assert_close(graph(x), model(x))


def test_large_means_and_small_variances_fold_as_exactly():
    # In float32, the difference of b and μ alone would leave 1e-5 of γ/σ·μ.
    norm = settled(nn.BatchNorm2d(6))
    norm.running_mean.fill_(100)
    norm.running_var.fill_(1e-2)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), norm)
    x = inputs(2, 4, 8, 8)
    graph = traced(model, x)
    simplify(graph, torch.contiguous_format)
    torch.testing.assert_close(graph(x), model.double()(x.double()).float(), rtol=1e-5, atol=1e-3)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), settled(nn.BatchNorm2d(4))

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


@pytest.mark.parametrize(
    "model",
    [
        Twice(),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 2), settled(nn.BatchNorm2d(4))),
        nn.Sequential(settled(nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 1)),
    ],
    ids=["used twice", "transposed", "the other way round"],
)
def test_other_batch_norms_stay(model):
    x = inputs(2, 4, 8, 8)
    graph = traced(model, x)
    simplify(graph, torch.contiguous_format)
    assert aten.native_batch_norm.default in targets(graph)
    torch.testing.assert_close(graph(x), model(x))


def test_only_what_nobody_else_reads_is_overwritten():
    first = nn.Linear(8, 8)

    def forward(x):
        mine = first(x).relu()  # the product is read once, its activation twice
        return mine.sigmoid() + mine, x.tanh()

    x = inputs(3)
    given = x.clone()
    graph = traced(forward, x)
    reuse_memory(graph)
    assert {aten.relu_.default, aten.sigmoid.default, aten.tanh.default} <= set(targets(graph))
    for _ in range(2):
        for result, expected in zip(graph(x), forward(given), strict=True):
            torch.testing.assert_close(result, expected)
    assert torch.equal(x, given)
