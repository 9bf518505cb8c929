"""Memory of a pass of the tail, which limits how many posterior samples share the pass."""

import torch
from torch.fx import GraphModule, Node

from baal_ray.posterior.memory import budget

# Most bytes of a pass of the tail on a CPU. A larger pass leaves the caches far behind and asks
# the system for fresh pages for each tensor: several passes were faster (two DenseNets, measured
# by hand).
_CPU_PASS = 2**26


def pass_budget(device: torch.device) -> int:
    """Return the bytes that one pass of the tail may take."""
    return budget(device) if device.type == "cuda" else min(budget(device), _CPU_PASS)


def peak_bytes(graph: GraphModule) -> int:
    """Return the most bytes alive at once, besides the inputs, while a part of a model runs."""
    last_use = {before: node for node in graph.graph.nodes for before in node.all_input_nodes}
    alive = peak = 0
    for node in graph.graph.nodes:
        if node.op == "call_function":
            alive += _bytes(node)
            peak = max(peak, alive)
        alive -= sum(
            _bytes(before)
            for before in node.all_input_nodes
            if before.op == "call_function" and last_use[before] is node
        )
    return peak


def _bytes(node: Node) -> int:
    value = node.meta.get("val")
    return value.nbytes if isinstance(value, torch.Tensor) else 0
