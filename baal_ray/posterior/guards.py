"""Refuse a model whose posterior samples would be missing, wrong or someone else's.

It is run on a few images, and what it does there is held against what a posterior sample is.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.catching import CaughtDropout, MaskedDropout
from baal_ray.posterior.dropout.masks import SharedMasks
from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis
from baal_ray.posterior.dropout.sites import Site, WatchedDropout, find_axes, unlike
from baal_ray.posterior.outputs import check_output, log_probs_of

#: Images looked at.
PROBE = 4

# What two passes over the same images may differ by, of the largest log-probability: kernels that
# add up in another order each time make 1e-6 of it in float32, 1e-2 in 16 bits.
_REPEATED, _REPEATED_IN_16_BITS = 1e-5, 2e-2

# The same for an image that has moved, as a share of what other masks change: kernels are chosen
# by shape, which makes 1e-5 of it in float32, 1e-3 in TF32 and 1e-2 in bfloat16.
_MOVED = 0.05
_MASKS_TRIED = 4

# Of a log-probability, where the masks happen to change nothing.
_ROUNDING = 1e-4


def check_posterior(model: nn.Module, images: Tensor, output: str) -> tuple[Site, ...]:
    """Draw from the model a few times on at most `PROBE` images.

    Args:
        model: the model, in evaluation mode.
        images: a mini-batch [N, ...], N ≥ 1.
        output: what the model is declared to return.

    Returns:
        Its dropouts, in the order of the forward pass.

    Raises:
        PosteriorError: no dropout is reached, or not each of them, or the model is not a function
            of its input and masks, or an image's prediction depends on the others, or the output
            is not what was declared.
    """
    refuse_hidden_dropout(model)
    probe = _with_neighbour(images[:PROBE])
    _check_reached(model, probe)
    axes = find_axes(model, probe)

    draw = partial(_draw, model, axes, output)
    drawn = draw(0, probe)
    check_output(drawn.predictions, len(probe), output)
    repeated = _REPEATED_IN_16_BITS if in_16_bits(model, drawn.predictions) else _REPEATED
    _check_repeats(drawn, draw(0, probe), repeated * largest(drawn.log_probs))
    masks_change = max(
        log_prob_distance(drawn.log_probs, draw(k, probe).log_probs)
        for k in range(1, _MASKS_TRIED)
    )
    moved = max(_ROUNDING, _MOVED * masks_change)
    _check_company(partial(draw, 0), probe, repeated * largest(drawn.log_probs), moved)
    # A mask may hide what images have of each other; with nothing dropped it shows in the same
    # place. Elsewhere kernels' rounding, scaled up by 1/(1 − p) each time, has no known bound.
    whole = draw(None, probe).log_probs
    _check_company(partial(draw, None), probe, repeated * largest(whole), math.inf)
    masks = zip(axes, drawn.mode.mask_shapes, drawn.mode.ps, strict=True)
    return tuple(Site(*site) for site in masks)


class _NothingDropped:
    """Masks that keep every unit."""

    def keep(self, _: int, shape: tuple[int, ...], __: float, device: torch.device) -> Tensor:
        return torch.ones(1, 1, *shape, dtype=torch.bool, device=device)


@dataclass(frozen=True)
class _Drawn:
    """What one posterior sample gives for some images."""

    predictions: Tensor
    log_probs: Tensor
    mode: MaskedDropout


def _draw(
    model: nn.Module,
    axes: tuple[MiniBatchAxis | None, ...],
    output: str,
    k: int | None,
    images: Tensor,
) -> _Drawn:
    # Shared masks whatever the user's are: an image then keeps its masks when it is moved.
    masks = _NothingDropped() if k is None else SharedMasks(0, (k,))
    mode = MaskedDropout(masks, len(images), axes)
    with mode:
        predictions = model(images.clone())
    return _Drawn(predictions, log_probs_of(predictions, output), mode)


def refuse_hidden_dropout(model: nn.Module) -> None:
    """Refuse modules whose dropout happens where no mask reaches it.

    Raises:
        PosteriorError: a recurrent module has dropout > 0 between its layers, or a scripted module
            has any.
    """
    for name, module in model.named_modules():
        where = f"{name or 'the model'} is a {type(module).__name__}"
        if isinstance(module, nn.RNNBase) and module.dropout > 0:
            raise PosteriorError(
                f"{where} with dropout={module.dropout}, which PyTorch applies inside a fused "
                "kernel where no posterior sample can reach it; build it with dropout=0, which "
                "takes the same weights, and put an nn.Dropout after it"
            )
        if isinstance(module, torch.jit.ScriptModule) and _scripts_dropout(module):
            raise PosteriorError(
                f"{where} with dropout inside, where no posterior sample can reach it; use the "
                "plain module that it was scripted or traced from"
            )


def _scripts_dropout(module: torch.jit.ScriptModule) -> bool:
    # Containers such as a scripted ModuleList have no graph of their own; what they hold has.
    return module._c._has_method("forward") and "dropout" in str(module.inlined_graph)


def log_prob_distance(one: Tensor, other: Tensor) -> float:
    """The largest difference between two sets of log-probabilities; NaN counts as none."""
    smallest = -1e4  # −∞ less −∞ is no number
    return (one.clamp(smallest) - other.clamp(smallest)).abs().nan_to_num().max().item()


def largest(log_probs: Tensor) -> float:
    """The largest finite log-probability by size, at least 1."""
    return max(1.0, log_probs.where(log_probs.isfinite(), 0).abs().max().item())


def in_16_bits(model: nn.Module, predictions: Tensor) -> bool:
    """Whether a model computes in bfloat16 or float16, wholly or in part."""
    device = predictions.device.type
    return torch.is_autocast_enabled(device) or any(
        tensor.is_floating_point() and tensor.dtype.itemsize == 2
        for tensor in (predictions, *model.parameters())
    )


def _with_neighbour(images: Tensor) -> Tensor:
    return images if len(images) > 1 else torch.cat([images, torch.zeros_like(images)])


def _check_reached(model: nn.Module, probe: Tensor) -> None:
    watched = WatchedDropout()
    with _watch_dropouts(model, watched) as missed, watched:
        model(probe.clone())
    if missed:
        raise PosteriorError(
            f"dropout is not reached at {', '.join(missed)}, though its parent runs: a fused path "
            "goes around it. Set its p to 0, or call it in forward()"
        )
    if not watched.sites:
        raise PosteriorError(
            "the model has no dropout with p > 0 on its way from images to predictions, so all "
            "its posterior samples are the same and every BALD score would be 0; add a dropout "
            "layer (torchvision's VGG, AlexNet, MobileNet and EfficientNet have one; ResNet has "
            "none)"
        )


def _check_repeats(drawn: _Drawn, again: _Drawn, tolerance: float) -> None:
    difference = log_prob_distance(drawn.log_probs, again.log_probs)
    if difference > tolerance:
        raise PosteriorError(
            "the model gives another result each time on the same images and masks "
            f"(log-probabilities differ by {difference:.2g}); take out what else is random in it"
        )


def _check_company(
    draw: Callable[[Tensor], _Drawn], probe: Tensor, same_place: float, moved: float
) -> None:
    """Compare an image's prediction with the same among other images.

    The first and the last keep their place, which takes the same kernels. So an image is seen that
    depends on those after it, or on those before it. Then the first comes last of more images.
    """
    others = unlike(probe)
    drawn = draw(probe)
    before_others = draw(torch.cat([probe[:1], others[1:]])).log_probs[:1]
    after_others = draw(torch.cat([others[:-1], probe[-1:]])).log_probs[-1:]
    last_of_more = draw(torch.cat([others, probe[:1]]))
    _check_shapes(drawn.mode.mask_shapes, last_of_more.mode.mask_shapes, len(probe))
    first, last = drawn.log_probs[:1], drawn.log_probs[-1:]
    for image, in_other_company, tolerance in (
        (first, before_others, same_place),
        (last, after_others, same_place),
        (first, last_of_more.log_probs[-1:], moved),
    ):
        difference = log_prob_distance(image, in_other_company)
        if difference > tolerance:
            raise PosteriorError(
                "the model lets an image's prediction depend on the others in its mini-batch: its "
                f"log-probabilities differ by {difference:.2g} in other company. Look for "
                "statistics over the mini-batch, such as a BatchNorm without running averages, "
                "and for a dropout that sees rows of several images in turn"
            )


def _check_shapes(
    shapes: list[tuple[int, ...]], others: list[tuple[int, ...]], images: int
) -> None:
    if shapes != others:
        raise PosteriorError(
            f"dropout masks change with the mini-batch (shapes {shapes} for {images} images, "
            f"{others} for {images + 1}); they must be the same for one image in any company"
        )


@contextmanager
def _watch_dropouts(model: nn.Module, mode: CaughtDropout) -> Iterator[list[str]]:
    """Once the block has ended, the dropouts that caught no mask while their parent ran."""
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
        if not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
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
