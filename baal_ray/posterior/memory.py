"""The memory that posterior samples may take, derived from the device."""

import os

import torch

# Share of the device's memory for each of three uses: a pass of the tail, masks, thinned weights.
# The model, the images and the caller need the rest, and several actors often share a machine.
_SHARE = 1 / 8

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def budget(device: torch.device) -> int:
    """Return the bytes that one use may take: a share of all memory, not of what is free just now.

    So the budget is the same on all machines of a kind, and so are the shapes that kernels see.
    """
    total: float
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = min(_physical_memory(), *map(_limit, _CGROUP_LIMITS))
    return int(total * _SHARE)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device ran out of memory; PyTorch has a class for this on GPUs only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(path: str) -> float:
    try:
        with open(path) as file:
            return float(file.read())  # "max" means no limit and is no number
    except (OSError, ValueError):
        return float("inf")
