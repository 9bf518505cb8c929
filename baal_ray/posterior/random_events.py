"""Count what a forward pass does at random, by module: dropout, and other random numbers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baal_ray.posterior.dropout.interception import FUSED_ATTENTION, Kind
from baal_ray.posterior.dropout.sites import WatchedDropout


@dataclass(frozen=True)
class Event:
    """Something that a module does at random.

    Attributes:
        does: The predicate of a sentence about the module.
        remedy: What to do so that posterior samples have it.
        per_image: Whether one number is drawn for each image, as in stochastic depth.
    """

    does: str
    remedy: str
    per_image: bool = False


DROPOUT = Event(
    "applies dropout",
    "Call F.dropout(x, p, self.training) in every mode, as nn.Dropout does, so that it can be "
    "caught, or set its rate to 0 (attention_probs_dropout_prob=0 in transformers)",
)
WHOLE_IMAGES = Event(
    "leaves out whole images",
    "Put stochastic depth into a module without weights of its own, so that it is recognised",
    per_image=True,
)
IN_ATTENTION = Event(
    "applies dropout inside fused attention",
    "No mask can reach it there, so let attention run in plain operations "
    "(timm.layers.set_fused_attn(False)), or set its dropout to 0 "
    "(attention_probs_dropout_prob=0 in transformers)",
)

_MASKS = {
    torch.bernoulli,
    torch.rand,
    torch.rand_like,
    Tensor.bernoulli,
    Tensor.bernoulli_,
    Tensor.uniform_,
}
_NOISE = {torch.normal, torch.randn, torch.randn_like, Tensor.normal_}
# `bernoulli_` with one probability for all is caught like a dropout, so it is not among these.
_DRAWS = (_MASKS - {Tensor.bernoulli_}) | _NOISE
_DRAWS |= {
    F.gumbel_softmax,
    torch.multinomial,
    torch.poisson,
    torch.randint,
    torch.randint_like,
    torch.randperm,
    Tensor.exponential_,
    Tensor.geometric_,
    Tensor.multinomial,
    Tensor.random_,
}


def _drawn_by(function: Any) -> Event:
    name = function.__name__
    if function in _MASKS:
        return Event(
            f"draws a random mask itself ({name}), as homemade dropout does",
            "Write dropout as F.dropout(x, p), and stochastic depth as "
            "x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - p), so that they can be caught, or set "
            "its rate to 0",
        )
    if function in _NOISE:
        return Event(
            f"draws Gaussian noise itself ({name})",
            "No mask stands for it. Replace a factor of mean 1 and variance v by F.dropout with "
            "p = v / (1 + v), which has the same mean and variance (Srivastava et al. 2014, "
            "section 10), or set the noise to 0",
        )
    return Event(f"draws random numbers itself ({name})", "Remove them")


def named(model: nn.Module, name: str) -> str:
    """Return a module of a model as the subject of a sentence."""
    return f"{name} ({type(model.get_submodule(name)).__name__})" if name else "the model"


def own_draws(model: nn.Module, probe: Tensor) -> str:
    """Return a sentence about the first numbers that a model draws itself, "" if there are none.

    Args:
        model: The model, in evaluation mode.
        probe: A few images.
    """
    events = RandomEvents()
    events.watch(model, probe)
    for name, event in events.counts:
        if event not in (DROPOUT, WHOLE_IMAGES, IN_ATTENTION):
            return f"{named(model, name)} {event.does}. {event.remedy}"
    return ""


class RandomEvents(WatchedDropout):
    """A context in which dropouts do nothing, but are counted by module, like other draws.

    Attributes:
        counts: Number of events by the name of the innermost module and the event.
        ran: Names of the modules that ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, Event]] = Counter()
        self.ran: set[str] = set()
        self._path = [""]
        self._images = 0

    def watch(self, model: nn.Module, probe: Tensor) -> object:
        """Count the events of a forward pass, and return its result."""
        self._images = len(probe)
        with self._paths(model), self:
            return model(probe.clone())

    def drop(self, x: Tensor, p: float, kind: Kind) -> Tensor:
        """Count a dropout, and return x."""
        self._count(DROPOUT)
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
                self._count(IN_ATTENTION)
                call.arguments["dropout_p"] = 0.0
            return func(*call.args, **call.kwargs)
        own_probabilities = func is Tensor.bernoulli_ and isinstance(args[-1], Tensor) and args[1:]
        if func in _DRAWS or own_probabilities:
            drawn = super().__torch_function__(func, types, args, kwargs)
            per_image = func in _MASKS and self._is_per_image(drawn)
            self._count(replace(_drawn_by(func), per_image=per_image))
            return drawn
        return super().__torch_function__(func, types, args, kwargs)

    def _keep_at_random(self, x: Tensor, p: float = 0.5, *, generator: object = None) -> Tensor:
        """Keep everything, and count a draw for each image as stochastic depth."""
        if not self._is_per_image(x):
            return super()._keep_at_random(x, p, generator=generator)
        self._count(WHOLE_IMAGES)
        return x.fill_(1)

    def _is_per_image(self, drawn: Tensor) -> bool:
        return drawn.ndim > 1 and len(drawn) == drawn.numel() == self._images

    def _count(self, event: Event) -> None:
        self.counts[self._path[-1], event] += 1

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
