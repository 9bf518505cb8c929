"""Run posterior samples as smaller networks, without the units that their masks drop.

A dropped unit need not be computed by the layer before, nor multiplied by the layer after. So
where a mask is the same for all images and positions, Linear, activation, Dropout, Linear becomes
two smaller layers. Their weights are copied once per sample and used for every mini-batch.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from baal_ray.posterior.engine.finish import finish
from baal_ray.posterior.engine.postpone_dropout import POOLS, SCALES, drops_units
from baal_ray.posterior.engine.tracing import DROP, Part

aten = torch.ops.aten

# Functions that work channel by channel and map zeros to zeros: removed units stay removed.
_KEEPS_ZEROS = {
    aten.relu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.hardswish.default,
    aten.tanh.default,
    aten.leaky_relu.default,
    aten.elu.default,
} | POOLS
# Functions that work channel by channel: units dropped after them need not be computed before.
_BY_CHANNEL = _KEEPS_ZEROS | {
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.hardtanh.default,
}

# Largest share of the multiplications that may be left. Thinned samples run one by one and the
# others together, so a small saving is not worth it.
_WORTHWHILE = 0.75


@dataclass(frozen=True)
class _Arguments:
    """The positions of a layer's arguments. The layer is transposed if its weight is [in, out]."""

    input: int
    weight: int
    bias: int | None
    transposed: bool


_LAYERS = {
    aten.addmm.default: _Arguments(input=1, weight=2, bias=0, transposed=True),
    aten.mm.default: _Arguments(input=0, weight=1, bias=None, transposed=True),
    aten.convolution.default: _Arguments(input=0, weight=1, bias=2, transposed=False),
}


@dataclass
class _Layer:
    """A Linear or convolution, and the dropouts that thin it.

    Attributes:
        node: Node of the layer in the graph.
        rows: Dropout of its outputs.
        columns: Dropout of its inputs.
        positions: Number of inputs per unit of `columns`, above 1 if a flattening is in between.
        scaled: Whether the factor 1/(1 − p) of `columns` may go into the weight, past the
            functions in between.
    """

    node: Node
    rows: Node | None = None
    columns: Node | None = None
    positions: int = 1
    scaled: bool = True

    def __post_init__(self) -> None:
        self.arguments = _LAYERS[self.node.target]  # read now, as the node may get a faster kernel

    @property
    def weight(self) -> Node:
        weight: Node = self.node.args[self.arguments.weight]
        return weight

    @property
    def bias(self) -> Node | None:
        place = self.arguments.bias
        bias: Node | None = None if place is None else self.node.args[place]
        return bias


class ThinnedTail:
    """The tail of a model for one posterior sample at a time, as small as its masks allow.

    Attributes:
        share: Share of the tail's multiplications that are left.
    """

    def __init__(self, tail: Part, sites: int, max_bytes: int) -> None:
        """Find the layers that can be thinned.

        Args:
            tail: Tail of a model cut for one sample and shared masks. It is not modified.
            sites: Number of dropouts of the model.
            max_bytes: Most bytes that thinned weights may take.
        """
        graph = Graph()
        graph.output(graph.graph_copy(tail.module.graph, {}))
        self._module = GraphModule(tail.module, graph)
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self._masks = inputs[len(inputs) - sites :]
        constants = len(_results(tail.constants))
        self._constants = inputs[len(inputs) - sites - constants : len(inputs) - sites]
        self._layers: dict[Node, _Layer] = {}
        self._gathered: list[Node] = []
        self._flattened: list[Node] = []
        for node in graph.nodes:
            if node.target is DROP:
                self._thin(node)
        self.share = self._share()
        self._kept_by: dict[Node, int] = {}
        self._originals = [
            (layer, layer.weight, layer.bias if layer.rows else None)
            for layer in self._layers.values()
        ]
        self._rewrite()
        self._max_bytes = max_bytes
        self.forget()

    @property
    def worthwhile(self) -> bool:
        """Whether thinning saves enough."""
        return self.share <= _WORTHWHILE

    def forget(self) -> None:
        """Drop the copies of the weights, because the weights have changed."""
        self._copies: dict[int, list[Tensor]] = {}
        self._bytes = 0
        self._full = False

    def __call__(
        self, k: int, trunk: Sequence[Tensor], constants: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> Tensor | None:
        """Return the k-th sample's predictions [N, C] under masks [1, 1, *mask_shape].

        Return None if there is no room for its weights, because copying them again for every
        mini-batch would cost more than they save. Return None too if the sample drops a whole
        layer, because kernels do not accept a layer without channels.
        """
        if k not in self._copies and not self._full:
            copies = self._copy(constants, masks)
            if copies is None:
                return None
            size = sum(tensor.nbytes for tensor in copies)
            self._full = self._bytes + size > self._max_bytes
            if not self._full:
                self._copies[k] = copies
                self._bytes += size
        if k not in self._copies:
            return None
        predictions: Tensor
        (predictions,) = self._module(*trunk, *constants, *masks, *self._copies[k])
        return predictions

    def _thin(self, dropout: Node) -> None:
        keep: Any = dropout.args[1]
        if dropout.args[2] == 1 or keep.meta["val"].shape[1] != 1 or not drops_units(dropout):
            return
        after = self._layer_after(dropout)
        if after is None:
            return
        after.columns = dropout
        before = self._layer_before(dropout)
        if before is None:
            self._gathered.append(dropout)
        else:
            before.rows = dropout

    def _layer_after(self, dropout: Node) -> _Layer | None:
        """Return the layer that takes the dropout's output, if nothing else does."""
        node, positions, scaled = dropout, 1, True
        flattened: list[Node] = []
        while len(node.users) == 1:
            (user,) = node.users
            if self._is_layer(user) and user.args[_LAYERS[user.target].input] is node:
                self._flattened += flattened
                layer = self._layers.setdefault(user, _Layer(user))
                layer.positions, layer.scaled = positions, scaled
                return layer
            if _flattens(user):
                flattened.append(user)
                positions *= prod(node.meta["val"].shape[2:])
            elif not (_maps(user, node, _KEEPS_ZEROS) or _keeps_zero_between(user)):
                return None
            else:
                scaled &= user.target in SCALES or user.target is operator.getitem
            node = user
        return None

    def _layer_before(self, dropout: Node) -> _Layer | None:
        """Return the layer that makes the dropout's input, if that is used for nothing else."""
        node: Any = dropout.args[0]
        while len(node.users) == 1:
            if self._is_layer(node):
                return self._layers.setdefault(node, _Layer(node))
            before: Any = node.args[0] if node.args else None
            if not _maps(node, before, _BY_CHANNEL):
                return None
            node = before
        return None

    def _is_layer(self, node: Node) -> bool:
        if node.target not in _LAYERS:
            return False
        if node.target is aten.convolution.default and (node.args[6] or node.args[8] != 1):
            return False  # transposed or grouped
        layer = _Layer(node)
        return all(
            weights is None or weights.op == "get_attr" or weights in self._constants
            for weights in (layer.weight, layer.bias)
        )

    def _share(self) -> float:
        whole = left = 0.0
        for node in self._module.graph.nodes:
            if node.target in (*_LAYERS, aten.bmm.default):
                cost = _multiplications(node)
                whole += cost
                layer = self._layers.get(node)
                for dropout in (layer.rows, layer.columns) if layer else ():
                    cost *= 1 - dropout.args[2] if dropout else 1
                left += cost
        return left / whole if whole else 1.0

    def _rewrite(self) -> None:
        """Make the thinned weights further inputs, in the order in which `_copy` returns them."""
        graph = self._module.graph
        last = self._masks[-1]

        def new_input(of: Node, name: str) -> Node:
            nonlocal last
            with graph.inserting_after(last):
                last = graph.placeholder(f"{of.name}_{name}")
            return last

        gathered = {dropout: new_input(dropout, "kept") for dropout in self._gathered}
        for layer, weight, bias in self._originals:
            arguments = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            for name, replaced in arguments.items():
                thinned = new_input(layer.node, name)
                thinned.meta = replaced.meta
                layer.node.update_arg(getattr(layer.arguments, name), thinned)
        for node in self._flattened:
            node.target, node.args = aten.flatten.using_ints, (node.args[0], 1)
        for layer in self._layers.values():
            dropout = layer.columns
            if dropout is None:
                continue
            with graph.inserting_before(dropout):
                x = dropout.args[0]
                if dropout in gathered:
                    x = graph.call_function(aten.index_select.default, (x, 1, gathered[dropout]))
                    x.meta = dropout.meta
                if not layer.scaled:
                    x = graph.call_function(aten.mul.Tensor, (x, 1 / (1 - dropout.args[2])))
                    x.meta = dropout.meta
            dropout.replace_all_uses_with(x)
            self._kept_by[dropout] = self._masks.index(dropout.args[1])
            graph.erase_node(dropout)
        finish(self._module)

    def _copy(self, constants: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor] | None:
        kept = {
            dropout: masks[site].flatten().nonzero().flatten()
            for dropout, site in self._kept_by.items()
        }
        if not all(len(units) for units in kept.values()):
            return None

        def value(node: Node) -> Tensor:
            if node.op == "get_attr":
                weight: Tensor = getattr(self._module, node.target)
                return weight
            return constants[self._constants.index(node)]

        copies = [kept[dropout] for dropout in self._gathered]
        for layer, weight_node, bias_node in self._originals:
            weight = value(weight_node)
            if layer.arguments.transposed:
                weight = weight.t()
            if layer.rows:
                weight = weight.index_select(0, kept[layer.rows])
            if layer.columns:
                columns = kept[layer.columns]
                if layer.positions > 1:
                    within = torch.arange(layer.positions, device=columns.device)
                    columns = (columns[:, None] * layer.positions + within).flatten()
                weight = weight.index_select(1, columns)
                if layer.scaled:
                    weight = weight / (1 - layer.columns.args[2])
            copies.append(weight.t() if layer.arguments.transposed else weight)
            if bias_node is not None:
                copies.append(value(bias_node).index_select(0, kept[layer.rows]))
        return copies


def _maps(node: Node, before: Any, targets: set[Any]) -> bool:
    """Return whether a node maps `before` alone by one of `targets`, or picks its first result."""
    if not isinstance(before, Node) or node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return node.args[1] == 0 and before.target in targets
    if node.target in POOLS and before.meta["val"].ndim != 4:
        return False  # PyTorch treats [N, C, L] as one image and pools its channels
    return node.target in targets and node.all_input_nodes == [before]


def _keeps_zero_between(node: Node) -> bool:
    """Return whether a node clamps to a range that includes 0, as ReLU6 does."""
    if node.target is not aten.hardtanh.default:
        return False
    bounds = [*node.args[1:], *(-1, 1)[len(node.args) - 1 :]]
    return bool(bounds[0] <= 0 <= bounds[1])


def _flattens(node: Node) -> bool:
    """Return whether a node reshapes [N, C, …] to [N, C·positions]."""
    if node.target is not aten.reshape.default:
        return False
    before = node.args[0].meta["val"].shape
    shape = node.meta["val"].shape
    return len(shape) == 2 and len(before) > 2 and shape[0] == before[0]


def _multiplications(node: Node) -> int:
    """Return the number of multiplications of a matrix product or a convolution."""
    size: int = node.meta["val"].numel()
    if node.target is aten.convolution.default:
        return size * prod(int(n) for n in node.args[1].meta["val"].shape[1:])
    return size * int(node.args[-2].meta["val"].shape[-1])


def _results(module: GraphModule) -> list[Node]:
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    return list(output.args[0])
