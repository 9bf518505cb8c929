"""Notice that a model has changed, and restore what a forward pass changes in it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

# The attributes of a model's modules, by the number of the module and the attribute's name.
Attributes = dict[tuple[int, str], list[Any]]

Change = Literal["nothing", "numbers", "structure"]


class ModelChanges:
    """The state of a model when it was last looked at, to notice changes since then."""

    def __init__(self, model: nn.Module) -> None:
        """Prepare to look at a model."""
        self._model = model
        self._attributes: Attributes = {}
        self._by_forward: set[tuple[int, str]] = set()
        self._tensors = Watch([])

    @property
    def seen(self) -> bool:
        """Whether the model has been looked at."""
        return bool(self._attributes)

    def notice(self, *, tensors: bool) -> Change:
        """Look at the model, and return what has changed since the last time.

        Args:
            tensors: Whether to remember the model's tensors, to notice changes of them.
        """
        if differences(self._attributes, self._present()):
            self._by_forward = set()
            self._attributes = structure(self._model)
            own = [*self._model.parameters(), *self._model.buffers()]
            self._tensors = Watch(own if tensors else [])
            return "structure"
        if self._tensors.changed():
            self._tensors.update()
            return "numbers"
        return "nothing"

    def ignore_changes_by(self, run: Callable[[], object], device: torch.device) -> None:
        """Run the model, and from now on ignore what that changes in it, such as counters."""
        self._tensors.update()
        with unchanged(self._model, device):
            run()
            self._by_forward |= differences(self._attributes, self._present())
            self._tensors.drop_changed()
        self._attributes = self._present()

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Notice changes of these tensors, too."""
        self._tensors.add(tensors)

    def _present(self) -> Attributes:
        now = structure(self._model)
        return {key: value for key, value in now.items() if key not in self._by_forward}


class Watch:
    """A watch over tensors that reports whether they have changed.

    PyTorch counts ordinary changes. Others (fused optimisers, `.data`, NumPy) are noticed by
    comparing the tensors, bit for bit, with copies of them.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """Remember the tensors as they are."""
        self._tensors = list(tensors)
        self.update()

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Watch more tensors, those that are not watched yet."""
        watched = set(map(id, self._tensors))
        more = {id(tensor): tensor for tensor in tensors if id(tensor) not in watched}
        self._tensors += more.values()
        self.update()

    def drop_changed(self) -> None:
        """Stop watching the tensors that have changed since they were remembered."""
        pairs = zip(self._tensors, self._copies, strict=True)
        self._tensors = [tensor for tensor, copy in pairs if _same_bits(tensor, copy)]
        self.update()

    def update(self) -> None:
        """Remember the tensors as they are now."""
        self._places = self._places_now()
        self._copies = [tensor.detach().clone() for tensor in self._tensors]

    def changed(self) -> bool:
        """Return whether any tensor differs from what was remembered."""
        return self._places != self._places_now() or not all(
            map(_same_bits, self._tensors, self._copies)
        )

    def _places_now(self) -> list[tuple[int, int]]:
        return [
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in self._tensors
        ]


# By the bytes of a number.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare as integers, because NaN is not equal to itself."""
    kind = _INTEGERS.get(one.itemsize, one.dtype)
    return torch.equal(one.detach().view(kind), other.view(kind))


def structure(model: nn.Module) -> Attributes:
    """Return everything about a model except its numbers and modes: modules, hooks, settings.

    Settings are attributes of modules: numbers, strings, and lists, tuples and dictionaries. Of
    any other object, only its replacement by another one shows.
    """
    attributes: Attributes = {}
    for number, module in enumerate(model.modules()):
        attributes[number, "its type"] = [type(module)]
        for name, value in vars(module).items():
            if name not in _NO_CONCERN:
                _add(attributes.setdefault((number, name), []), value)
    return attributes


def differences(one: Attributes, other: Attributes) -> set[tuple[int, str]]:
    """Return which attributes are not the same."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


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
        for item in value.items() if isinstance(value, dict) else value:
            _add(parts, item)
    elif value is not None:
        parts.append(id(value))


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Undo the block's changes to the model's attributes and buffers, and to random states.

    Lists and dictionaries that are attributes get their items back.
    """
    containers = [
        (container, container.copy())
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # their attributes are not Python's
        for container in (vars(module), *vars(module).values())
        if type(container) in (list, dict)
    ]
    contents = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for container, before in containers:
                _put_back(container, before)
            for buffer, content in contents:
                if not torch.equal(buffer, content):
                    buffer.copy_(content)


def _put_back(now: Any, before: Any) -> None:
    if isinstance(now, list):
        now[:] = before
    elif now.keys() != before.keys() or any(now[name] is not before[name] for name in before):
        now.clear()
        now.update(before)
