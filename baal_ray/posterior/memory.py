"""How much memory posterior samples may take, found from the device."""

import os

import torch
from torch.fx import GraphModule, Node

# Of the device's memory, for each of: a pass of the tail, masks, thinned weights. The model, the
# images and the caller's own things need the rest, and a machine often has several actors.
_SHARE = 1 / 8

# A pass of the tail on a CPU should not leave its caches far behind, nor ask the system for fresh
# pages for each tensor: beyond this several passes were faster (two DenseNets, measured by hand).
_CPU_PASS = 2**26

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def budget(device: torch.device) -> int:
    """Bytes that one use of memory may take: a share of the whole, not of what is free just now.

    So it is the same on every machine of a kind, and so are the shapes that kernels see.
    """
    total: float
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = min(_physical_memory(), *map(_limit, _CGROUP_LIMITS))
    return int(total * _SHARE)


def pass_budget(device: torch.device) -> int:
    """Bytes that one pass of the tail may take."""
    return budget(device) if device.type == "cuda" else min(budget(device), _CPU_PASS)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room; PyTorch has a class of its own for GPUs alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def peak_bytes(graph: GraphModule) -> int:
    """The most bytes alive at once while a part of a traced model runs, its inputs left out."""
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


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(path: str) -> float:
    try:
        with open(path) as file:
            return float(file.read())  # "max" is none
    except (OSError, ValueError):
        return float("inf")
