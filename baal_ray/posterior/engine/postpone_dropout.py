"""Postpone dropout of whole units past functions that can equally run before it.

ReLU and pooling work unit by unit, and f(c·x) = c·f(x) for c ≥ 0, so units may as well be dropped
after them. A function that followed the first dropout then runs once for all samples, and after
pooling there is less to drop.
"""

import operator
from math import prod
from typing import Any

import torch
from torch.fx import GraphModule, Node

from baal_ray.posterior.engine.tracing import DROP

aten = torch.ops.aten

POOLS = {
    aten.avg_pool2d.default,
    aten.max_pool2d_with_indices.default,
    aten._adaptive_avg_pool2d.default,
}

#: Functions that work unit by unit, and for which f(c·x) = c·f(x) if c ≥ 0.
SCALES = {aten.relu.default, aten.leaky_relu.default} | POOLS


def postpone_dropout(graph: GraphModule) -> None:
    """Move each dropout of whole units behind the functions that can equally run before it."""
    for node in list(graph.graph.nodes):
        if node.target is DROP and drops_units(node):
            while (result := _commuting(node)) is not None:
                _move_behind(node, result)
    graph.recompile()


def drops_units(dropout: Node) -> bool:
    """Return whether a dropout keeps or drops whole channels [N, C, …] or features [N, D]."""
    keep: Any = dropout.args[1]
    _, alpha, axis, rows = dropout.args[2:6]
    unit_shape = keep.meta["val"].shape[3:]  # after samples, images, rows
    return bool(
        not alpha and axis == 0 and rows == 1 and len(unit_shape) and prod(unit_shape[1:]) == 1
    )


def _commuting(dropout: Node) -> Node | None:
    """Return the result of the dropout's only user, if that user may run before the dropout."""
    if len(dropout.users) != 1:
        return None
    (user,) = dropout.users
    if user.target not in SCALES or user.all_input_nodes != [dropout]:
        return None
    if user.target in POOLS and dropout.meta["val"].ndim != 4:
        return None  # PyTorch treats [N, C, L] as one image and pools its channels
    if user.target is not aten.max_pool2d_with_indices.default:
        return user
    picked = [each for each in user.users if each.target is operator.getitem and not each.args[1]]
    return picked[0] if len(picked) == len(user.users) == 1 else None


def _move_behind(dropout: Node, result: Node) -> None:
    dropped: Any = dropout.args[0]
    (user,) = dropout.users
    user.replace_input_with(dropout, dropped)
    result.replace_all_uses_with(dropout)
    dropout.replace_input_with(dropped, result)
    dropout.meta["val"] = result.meta["val"]
    result.append(dropout)
