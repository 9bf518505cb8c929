"""Refuse a model without dropout, and one with a dropout that its forward pass bypasses."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.interception import CaughtDropout
from baal_ray.posterior.dropout.sites import WatchedDropout
from baal_ray.posterior.outputs import Output
from baal_ray.posterior.random_events import own_draws
from baal_ray.posterior.training_only import training_mode


def check_reached(model: nn.Module, probe: Tensor, output: Output) -> None:
    """Check that a forward pass reaches the model's dropouts.

    A dropout may be there without any use, as in transformers' EfficientNet. That is no fault.

    Args:
        model: The model, in evaluation mode, which `refuse_training_only` accepts.
        probe: A few images.
        output: The kind and the place of its predictions.

    Raises:
        PosteriorError: If a dropout is bypassed, or there is none.
    """
    watched = WatchedDropout()
    with _watch_dropouts(model, watched) as missed, watched:
        model(probe.clone())
    if missed and not _repeats_in_training(model, probe, output):
        raise PosteriorError(
            f"dropout is not reached at {', '.join(missed)}, although its parent runs: forward() "
            "or a fused path bypasses it. Set its p to 0, or call it in forward()"
        )
    if not watched.sites:
        if drawn := own_draws(model, probe):
            raise PosteriorError(f"the model has no dropout that can be intercepted: {drawn}")
        raise PosteriorError(
            "the model has no dropout with p > 0 between images and predictions, so all its "
            "posterior samples would be the same and every BALD score would be 0. Add a dropout "
            "layer (torchvision's VGG, AlexNet, MobileNet and EfficientNet have one; ResNet has "
            "none)"
        )


def _repeats_in_training(model: nn.Module, probe: Tensor, output: Output) -> bool:
    """Return whether nothing is random in training mode, except the dropouts that are caught.

    Then a dropout that was not reached is not there in training either, not even in a kernel that
    takes its rate.
    """
    with training_mode(model), suppress(Exception):  # in training, it may want more than images
        one, other = (output.log_probs_of(_without_dropout(model, probe)) for _ in range(2))
        return torch.allclose(one, other, atol=1e-4, equal_nan=True)
    return False


def _without_dropout(model: nn.Module, probe: Tensor) -> object:
    with WatchedDropout():
        return model(probe.clone())


@contextmanager
def _watch_dropouts(model: nn.Module, mode: CaughtDropout) -> Iterator[list[str]]:
    """Yield a list, and put into it the dropouts that the block missed.

    They are those that caught no mask in the block although their parent ran.
    """
    missed: list[str] = []
    ran: set[nn.Module] = set()
    masked: set[nn.Module] = set()
    before: list[int] = []

    def enter(module: nn.Module, _: object) -> None:
        before.append(mode.sites)

    def leave(module: nn.Module, _: object, __: object) -> None:
        ran.add(module)
        if mode.sites > before.pop():
            masked.add(module)

    handles = [
        handle
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # these take no hooks
        for handle in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        )
    ]
    try:
        yield missed
    finally:
        for handle in handles:
            handle.remove()
    missed.extend(
        f"{parent_name}.{name}".lstrip(".")
        for parent_name, parent in model.named_modules()
        for name, child in parent.named_children()
        if parent in ran and isinstance(child, _DropoutNd) and child.p > 0 and child not in masked
    )
