"""Multiply large matrices with oneDNN on CPUs where MKL, PyTorch's choice, is slow.

PyTorch leaves float32 products to MKL, which reaches half the speed of oneDNN on AMD CPUs. Small
products gain nothing (benchmarks/engine/products.txt). On Intel CPUs, MKL stays in use.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten

# Number of multiplications below which calling oneDNN costs more than it saves.
_WORTHWHILE = 2**22


def use_faster_products(graph: GraphModule) -> None:
    """Switch the products of a traced part to oneDNN where it is faster."""
    if not _mkl_is_slow():
        return
    for node in graph.graph.nodes:
        if node.target in (aten.mm.default, aten.addmm.default) and _is_large(node):
            node.target = _mm if node.target is aten.mm.default else _addmm
    graph.recompile()


@cache
def _mkl_is_slow() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and "AMD" in capabilities.get("cpu_name", "")
    )


def _is_large(node: Node) -> bool:
    x, weight = (each.meta["val"] for each in node.args[-2:])
    product: Tensor = node.meta["val"]
    return bool(
        {tensor.dtype for tensor in (x, weight, product)} == {torch.float32}
        and product.device.type == "cpu"
        and not node.kwargs  # beta and alpha are 1
        and (node.target is aten.mm.default or node.args[0].meta["val"].ndim == 1)
        and product.numel() * x.shape[1] >= _WORTHWHILE
    )


def _mm(x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, weight, None)


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "none", [], "")
    return product
