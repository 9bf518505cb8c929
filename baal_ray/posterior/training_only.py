"""Refuse randomness that a model has only in training mode, which its posterior would lack.

Dropout is caught wherever it is called, whatever its `training` flag says. But a forward() that
does not call it outside training hides it: `if self.training: …`, attention that gets
`dropout_p=0` unless it is training, or noise that a module draws itself.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.interception import FUSED_ATTENTION, Kind
from baal_ray.posterior.dropout.sites import WatchedDropout
from baal_ray.posterior.evaluation_mode import is_stochastic_depth

_DRAWS = {
    torch.bernoulli,
    torch.normal,
    torch.rand,
    torch.rand_like,
    torch.randint,
    torch.randint_like,
    torch.randn,
    torch.randn_like,
    torch.randperm,
    Tensor.bernoulli,
    Tensor.exponential_,
    Tensor.normal_,
    Tensor.random_,
    Tensor.uniform_,
}

_REMEDIES = {
    "dropout": "Call F.dropout(x, p, self.training) in every mode, as nn.Dropout does, so that it "
    "can be caught",
    "dropout inside fused attention": "No mask can reach it there, so let attention run in plain "
    "operations (timm.layers.set_fused_attn(False), or attn_implementation='eager' in "
    "transformers), or set its dropout to 0",
}
_OTHER_REMEDY = (
    "If that is a kind of dropout, write it with F.dropout, so that it can be caught; otherwise "
    "set its rate to 0"
)


def refuse_training_only(model: nn.Module, probe: Tensor) -> None:
    """Compare the random events of a pass in evaluation mode with those of one in training mode.

    Batch norms and stochastic depth stay in evaluation mode, because they are not dropout.

    Args:
        model: The model, in evaluation mode.
        probe: A few images.

    Raises:
        PosteriorError: If there are more in training mode.
    """
    usual, in_training = _Events(), _Events()
    usual.watch(model, probe)
    predictions: object = None
    with _training(model), suppress(Exception):  # in training, a model may want more than images
        predictions = in_training.watch(model, probe)
    extra = list(in_training.counts - usual.counts)
    if not isinstance(predictions, Tensor):
        # Auxiliary heads, which are there in training only, are no part of the prediction.
        extra = [(name, what) for name, what in extra if name in usual.ran]
    if not extra:
        return
    name, what = extra[0]
    raise PosteriorError(
        f"{name or 'the model'} applies {what} only in training mode, so posterior samples would "
        f"lack it. {_REMEDIES.get(what, _OTHER_REMEDY)}"
    )


class _Events(WatchedDropout):
    """A context in which dropouts do nothing, but are counted by module, like other draws.

    Attributes:
        counts: Number of events by the innermost module and what it did.
        ran: Names of the modules that ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ran: set[str] = set()
        self._path = [""]

    def watch(self, model: nn.Module, probe: Tensor) -> object:
        """Count the events of a forward pass, and return its result."""
        with self._paths(model), self:
            return model(probe.clone())

    def drop(self, x: Tensor, p: float, kind: Kind) -> Tensor:
        self._count("dropout")
        return x

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            call = FUSED_ATTENTION.bind(*args, **kwargs)
            if call.arguments.get("dropout_p", 0) > 0:
                self._count("dropout inside fused attention")
                call.arguments["dropout_p"] = 0.0
            return func(*call.args, **call.kwargs)
        if func in _DRAWS:
            self._count(f"noise ({func.__name__})")
        return super().__torch_function__(func, types, args, kwargs)

    def _count(self, what: str) -> None:
        self.counts[self._path[-1], what] += 1

    @contextmanager
    def _paths(self, model: nn.Module) -> Iterator[None]:
        """Follow which modules run, the innermost last."""

        def handles(name: str, module: nn.Module) -> list[Any]:
            def enter(*_: object) -> None:
                self._path.append(name)
                self.ran.add(name)

            def leave(*_: object) -> None:
                self._path.pop()

            return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

        # Scripted modules take no hooks.
        registered = [
            handle
            for name, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
            for handle in handles(name, module)
        ]
        try:
            yield
        finally:
            for handle in registered:
                handle.remove()


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Put all modules in training mode, except batch norms and stochastic depth."""
    modules = [
        module
        for module in model.modules()
        if not module.training
        and not isinstance(module, _BatchNorm)
        and not is_stochastic_depth(module)
    ]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False
