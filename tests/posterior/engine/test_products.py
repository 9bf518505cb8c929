"""Tests that products by oneDNN equal those by MKL."""

import pytest
import torch
from torch import nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from baal_ray.posterior.engine import products
from scenarios import inputs

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def mkl_is_slow(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: True)


def with_faster_products(model, x):
    graph = make_fx(functionalize(model), tracing_mode="fake", _allow_non_fake_inputs=True)(x)
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(graph, node.target)
    products.use_faster_products(graph)
    return graph, {node.target for node in graph.graph.nodes}


@pytest.mark.parametrize("bias", [True, False])
def test_a_large_product_is_the_same(bias):
    model = nn.Sequential(nn.Linear(512, 256, bias=bias), nn.ReLU()).eval()
    x = inputs(64, 512)
    graph, targets = with_faster_products(model, x)
    assert not targets & {aten.addmm.default, aten.mm.default}
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


def test_small_and_double_products_stay():
    small = nn.Linear(16, 16)
    assert aten.addmm.default in with_faster_products(small, inputs(4, 16))[1]
    double = nn.Linear(512, 256).double()
    assert aten.addmm.default in with_faster_products(double, inputs(64, 512).double())[1]


@pytest.mark.parametrize(
    "add",
    [
        lambda x, weight, other: torch.addmm(other, x, weight),
        lambda x, weight, other: torch.addmm(other[0], x, weight, alpha=2.0),
    ],
    ids=["a matrix added", "a factor"],
)
def test_a_sum_that_is_no_linear_layer_stays(add):
    weight, other, x = inputs(512, 256), inputs(64, 256), inputs(64, 512)
    graph, targets = with_faster_products(lambda x: add(x, weight, other), x)
    assert aten.addmm.default in targets
    torch.testing.assert_close(graph(x), add(x, weight, other))


def test_a_matrix_times_itself():
    x = inputs(200, 200)
    graph, targets = with_faster_products(lambda x: x @ x, x)
    assert aten.mm.default not in targets
    torch.testing.assert_close(graph(x), x @ x, rtol=1e-4, atol=1e-4)


def test_factors_may_lie_in_memory_otherwise():
    x, weight = inputs(300, 100).t(), inputs(300, 200)
    graph, targets = with_faster_products(lambda x: x @ weight, x)
    assert aten.mm.default not in targets
    torch.testing.assert_close(graph(x), x @ weight, rtol=1e-4, atol=1e-4)
