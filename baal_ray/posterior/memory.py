"""How much memory posterior samples may take, found from the device."""

import os

import torch

# Of the device's memory, for each of: a pass of the tail, masks, thinned weights. The model, the
# images and the caller's own things need the rest, and a machine often has several actors.
_SHARE = 1 / 8

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


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room; PyTorch has a class of its own for GPUs alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(path: str) -> float:
    try:
        with open(path) as file:
            return float(file.read())  # "max" is none
    except (OSError, ValueError):
        return float("inf")
