"""Notice that a model has changed, and restore what a forward pass changes in it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Numbers compared per tensor, evenly spread. Reading all of them would cost as much as a pass.
_GLIMPSE = 256

# Longest list or dictionary of a module whose items are compared, not only their number.
_LONGEST = 64


class Watch:
    """A watch over tensors that reports whether they have changed.

    PyTorch counts ordinary changes. Others (fused optimisers, `.data`, NumPy) are noticed by
    comparing a few hundred numbers per tensor, so a change of only a few numbers by such means may
    be missed.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """Remember the tensors as they are."""
        self._tensors = list(tensors)
        self.update()

    def update(self) -> None:
        """Remember the tensors as they are now."""
        self._places = self._places_now()
        self._glimpses = [_glimpse(tensor) for tensor in self._tensors if tensor.numel()]
        self._numbers = self._numbers_now()

    def changed(self) -> bool:
        """Return whether any tensor differs from what was remembered."""
        return self._places != self._places_now() or not all(
            map(torch.equal, self._numbers, self._numbers_now())
        )

    def _places_now(self) -> list[tuple[int, int]]:
        return [
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in self._tensors
        ]

    def _numbers_now(self) -> list[Tensor]:
        by_device: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
        for glimpse in self._glimpses:
            by_device[glimpse.device].append(glimpse.float())
        # Compared as integers, because NaN is not equal to itself.
        return [torch.cat(numbers).view(torch.int32) for numbers in by_device.values()]


def _glimpse(tensor: Tensor) -> Tensor:
    """Return a view of some of a tensor's numbers, or of the first only if they are not dense."""
    size = tensor.numel()
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    count = min(size, _GLIMPSE) if dense else 1
    step = size // count
    return tensor.detach().as_strided((count,), (step,), tensor.storage_offset())


def structure(model: nn.Module) -> list[Any]:
    """Return everything about a model except its numbers and modes: modules, hooks, settings."""
    parts: list[Any] = []
    for module in model.modules():
        parts.append(type(module))
        for name, value in vars(module).items():
            if name not in _NO_CONCERN:
                parts.append(name)
                _add(parts, value)
    return parts


# Attributes that every module has and predictions do not depend on.
_NO_CONCERN = vars(nn.Module()).keys() - {
    *("_parameters", "_buffers", "_modules"),
    *("_forward_hooks", "_forward_pre_hooks"),
}


def _add(parts: list[Any], value: Any) -> None:
    kind = type(value)
    if kind in (bool, int, float, str):
        parts.append(value)
    elif isinstance(value, Tensor):
        parts += (id(value), value.dtype, value.device, value.shape)
    elif isinstance(value, tuple | list | dict):
        parts.append(len(value))
        if len(value) <= _LONGEST:
            for item in value.items() if isinstance(value, dict) else value:
                _add(parts, item)
    elif value is not None:
        parts.append(id(value))


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Undo the block's changes to the model's attributes and buffers, and to random states."""
    attributes = [
        (vars(module), dict(vars(module)), module._buffers, dict(module._buffers))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # their attributes are not Python's
    ]
    contents = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for now, before, buffers_now, buffers_before in attributes:
                _put_back(now, before)
                _put_back(buffers_now, buffers_before)
            for buffer, content in contents:
                if not torch.equal(buffer, content):
                    buffer.copy_(content)


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    if now.keys() != before.keys() or any(now[name] is not before[name] for name in before):
        now.clear()
        now.update(before)
