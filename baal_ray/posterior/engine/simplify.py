"""Make a traced model cheaper without changing what it computes.

Batch norms are folded into the convolutions before them, weights are laid out once, and
activations overwrite memory that nothing else reads.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from baal_ray.posterior.engine.tracing import DROP

aten = torch.ops.aten

# Functions that evaluate a batch norm, with the position of their epsilon. All of them take x,
# weight, bias, running mean and running variance first. In the first two functions, the next
# argument says whether the norm is training.
_BATCH_NORMS = {
    aten.native_batch_norm.default: 7,
    aten.cudnn_batch_norm.default: 7,
    aten._native_batch_norm_legit_no_training.default: 6,
}

_ACTIVATIONS = (
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "relu",
    "sigmoid",
    "silu",
    "tanh",
)
_IN_PLACE = {
    getattr(aten, name).default: getattr(aten, f"{name}_").default for name in _ACTIVATIONS
} | {aten.add.Tensor: aten.add_.Tensor, aten.mul.Tensor: aten.mul_.Tensor}


def simplify(graph: GraphModule, layout: torch.memory_format) -> None:
    """Change a traced model before it is cut.

    Args:
        graph: Graph of the model.
        layout: Memory layout of its images.
    """
    for node in list(graph.graph.nodes):
        if node.target in (aten.view.default, aten._unsafe_view.default):
            # A view was possible for the strides of the trace, but kernels may choose others.
            # A reshape copies if it must, so a copy that was made for the view is not needed.
            node.target = aten.reshape.default
            copy = node.args[0]
            if copy.target is aten.clone.default and len(copy.users) == 1:
                node.update_arg(0, copy.args[0])
        elif node.target is aten.copy.default and _alike(*node.args[:2]):
            node.replace_all_uses_with(node.args[1])
        elif node.target in _BATCH_NORMS:
            _fold(graph, node)
    for node in list(graph.graph.nodes) if layout is torch.channels_last else ():
        if node.target is aten.convolution.default and _is_constant(node.args[1]):
            _lay_out(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def reuse_memory(graph: GraphModule) -> None:
    """Let a part of a model overwrite memory that it has made and no longer needs."""
    for node in graph.graph.nodes:
        in_place = _IN_PLACE.get(node.target)
        if in_place is not None and _is_own(node.args[0]) and _alike(node, node.args[0]):
            node.target = in_place
    graph.recompile()


def _alike(one: Node, other: Any) -> bool:
    if not isinstance(other, Node):
        return False
    a, b = one.meta["val"], other.meta["val"]
    return bool(a.shape == b.shape and a.dtype == b.dtype)


def _is_own(node: Any) -> bool:
    """Return whether a node makes new memory that at most one other node reads."""
    if not isinstance(node, Node) or node.op != "call_function" or len(node.users) > 1:
        return False
    if node.target is operator.getitem:
        return node.args[0].op == "call_function" and _makes_new(node.args[0].target)
    return _makes_new(node.target)


def _makes_new(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and all(result.alias_info is None for result in schema.returns)


def _fold(graph: GraphModule, norm: Node) -> None:
    """Fold a batch norm into the convolution before it.

    γ (W x + b − μ) / √(σ² + ε) + β is a convolution with the weight γ W / √(σ² + ε).
    """
    convolution, *statistics = norm.args[:5]
    eps_place = _BATCH_NORMS[norm.target]
    if not (
        convolution.target is aten.convolution.default
        and len(convolution.users) == 1
        and not convolution.args[6]  # transposed: its channels are on another axis
        and all(node is None or node.op == "get_attr" for node in statistics)
        and all(node is None or _is_constant(node) for node in convolution.args[1:3])
        and (eps_place == 6 or not norm.args[5])
    ):
        return
    weight, bias = convolution.args[1:3]
    with graph.graph.inserting_before(convolution):
        gamma, beta, mean, variance = (
            node and graph.graph.get_attr(node.target) for node in statistics
        )
        scale = graph.graph.call_function(_scale, (gamma, variance, norm.args[eps_place]))
        folded_weight = graph.graph.call_function(_folded_weight, (weight, scale))
        folded_weight.meta["val"] = weight.meta["val"]
        folded_bias = graph.graph.call_function(_folded_bias, (weight, bias, mean, beta, scale))
    convolution.args = (convolution.args[0], folded_weight, folded_bias, *convolution.args[3:])
    for user in list(norm.users):
        if user.target is operator.getitem and user.args[1] == 0:
            user.replace_all_uses_with(convolution)


def _lay_out(graph: GraphModule, convolution: Node) -> None:
    """Lay out a weight once like its images, so that no kernel does it for each mini-batch.

    If PyTorch is faster with channels first, lay out the images that way instead.
    """
    images, weight = convolution.args[:2]
    if weight.meta["val"].ndim != 4:
        return
    with graph.graph.inserting_before(convolution):
        if _runs_faster_channels_first(convolution):
            laid_out, place = graph.graph.call_function(_channels_first, (images,)), 0
        else:
            laid_out, place = graph.graph.call_function(_channels_last, (weight,)), 1
    laid_out.meta["val"] = convolution.args[place].meta["val"]
    convolution.update_arg(place, laid_out)


def _runs_faster_channels_first(convolution: Node) -> bool:
    """Return whether a convolution is faster channels first.

    It is on a CPU, if it has many channels and few pixels.

    3 by 3 convolutions of 256 or 512 channels at 2 by 2 to 6 by 6 pixels take 0.32 to 0.97 of the
    time. Larger maps take 0.97 of it and more (benchmarks/engine/layout.txt).
    """
    output, weight = convolution.meta["val"], convolution.args[1].meta["val"]
    stride, groups = convolution.args[3], convolution.args[8]
    return bool(
        (output.device.type, output.dtype) == ("cpu", torch.float32)
        and tuple(weight.shape[2:]) == (3, 3)
        and (tuple(stride), groups) == ((1, 1), 1)
        and min(weight.shape[:2]) >= 128
        and output.shape[2:].numel() <= 36
    )


def _channels_first(images: Tensor) -> Tensor:
    return images.contiguous()


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _is_constant(node: Node) -> bool:
    return node.op == "get_attr" or (
        node.op == "call_function"
        and node.target is not DROP
        and bool(node.all_input_nodes)
        and all(_is_constant(before) for before in node.all_input_nodes)
    )


def _scale(gamma: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    # In double precision, because a small variance amplifies the difference of large numbers.
    scale = (variance.double() + eps).rsqrt()
    return scale if gamma is None else gamma * scale


def _folded_weight(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight * scale.view(-1, *(1 for _ in weight.shape[1:]))).to(weight.dtype)


def _folded_bias(
    weight: Tensor, bias: Tensor | None, mean: Tensor, beta: Tensor | None, scale: Tensor
) -> Tensor:
    mean = mean.double()
    folded = (-mean if bias is None else bias - mean) * scale
    return (folded if beta is None else folded + beta).to(weight.dtype)
