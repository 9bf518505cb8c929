"""Refuse a model whose posterior samples would be missing, wrong or dependent on other images.

The model runs on a few images, and its behaviour is compared with the definition of a posterior
sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.interception import MaskedDropout
from baal_ray.posterior.dropout.masks import SharedMasks
from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis
from baal_ray.posterior.dropout.row_order import unlike
from baal_ray.posterior.dropout.sites import Site, find_axes
from baal_ray.posterior.image_type import type_of_images_named
from baal_ray.posterior.outputs import Output
from baal_ray.posterior.random_events import own_draws
from baal_ray.posterior.reached_dropout import check_reached
from baal_ray.posterior.training_only import refuse_training_only

#: Number of images that the checks run on.
PROBE = 4

# Tolerance between two passes over the same images, as a share of the largest log-probability.
# Kernels that add up in a different order each time cause 1e-6 of it in float32, 1e-2 in 16 bits.
_REPEATED, _REPEATED_IN_16_BITS = 1e-5, 2e-2

# Tolerance between two ways to compute the same with other kernels, by precision. They differed by
# 1e-6 of the largest log-probability in float32, 2e-3 in TF32 and 1e-2 in bfloat16.
_OTHER_KERNELS, _OTHER_KERNELS_IN_TF32, _OTHER_KERNELS_IN_16_BITS = 1e-4, 1e-2, 0.05

# Tolerance for an image that has moved within the mini-batch, as a share of the change that other
# masks cause. Kernels are chosen by shape, which causes 1e-5 of it in float32, 1e-3 in TF32 and
# 1e-2 in bfloat16.
_MOVED = 0.05
_MASKS_TRIED = 4

# Least tolerance for a moved image, in log-probability, in case the masks change nothing.
_ROUNDING = 1e-4


def check_posterior(model: nn.Module, images: Tensor, output: Output) -> tuple[Site, ...]:
    """Check a model by drawing from it a few times on at most `PROBE` images.

    Args:
        model: The model, in evaluation mode.
        images: A mini-batch [N, ...], N ≥ 1.
        output: The kind and the place of its predictions, as declared.

    Returns:
        The model's dropouts, in the order of the forward pass.

    Raises:
        PosteriorError: If the model does not take images of this type, if it reaches no dropout,
            not all of them, or some only in training mode, if it is not a function of its input
            and masks, if an image's prediction depends on the others, or if the output is not
            what was declared.
    """
    refuse_hidden_dropout(model)
    probe = _with_neighbour(images[:PROBE])
    with type_of_images_named(model, probe):
        refuse_training_only(model, probe)
    check_reached(model, probe, output)
    axes = find_axes(model, probe)

    draw = partial(_draw, model, axes, output)
    drawn = draw(0, probe)
    output.check(drawn.predictions, len(probe))
    repeated = _REPEATED_IN_16_BITS if in_16_bits(model, drawn.predictions) else _REPEATED
    tolerance = repeated * largest(drawn.log_probs)
    _check_repeats(drawn, draw(0, probe), tolerance, partial(own_draws, model, probe))
    masks_change = max(
        log_prob_distance(drawn.log_probs, draw(k, probe).log_probs)
        for k in range(1, _MASKS_TRIED)
    )
    moved = max(_ROUNDING, _MOVED * masks_change)
    _check_company(partial(draw, 0), probe, repeated * largest(drawn.log_probs), moved)
    # A mask can hide that an image depends on others. With nothing dropped, it shows in an image
    # that keeps its place. For moved images no bound on the kernels' rounding is known, because
    # each dropout scales it up by 1/(1 − p).
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
    """The output of one posterior sample for some images."""

    predictions: Tensor
    log_probs: Tensor
    mode: MaskedDropout


def _draw(
    model: nn.Module,
    axes: tuple[MiniBatchAxis | None, ...],
    output: Output,
    k: int | None,
    images: Tensor,
) -> _Drawn:
    # Shared masks even if the user's are per item, so that an image keeps its masks when it moves.
    masks = _NothingDropped() if k is None else SharedMasks(0, (k,))
    mode = MaskedDropout(masks, len(images), axes)
    with mode:
        predictions = output.predictions_in(model(images.clone()))
    return _Drawn(predictions, output.log_probs_of(predictions), mode)


def refuse_hidden_dropout(model: nn.Module) -> None:
    """Refuse modules whose dropout happens where no mask can reach it.

    Raises:
        PosteriorError: If a recurrent module has dropout > 0 between its layers, or a scripted
            module has any dropout.
    """
    for name, module in model.named_modules():
        where = f"{name or 'the model'} is a {type(module).__name__}"
        # It is between layers, so a single layer has none, whatever its dropout says.
        if isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
            raise PosteriorError(
                f"{where} with dropout={module.dropout}, which PyTorch applies inside a fused "
                "kernel, where no mask can reach it. Build it with dropout=0, which takes the "
                "same weights, and put an nn.Dropout after it"
            )
        if isinstance(module, torch.jit.ScriptModule) and _scripts_dropout(module):
            raise PosteriorError(
                f"{where} with dropout inside, where no mask can reach it. Use the plain module "
                "that it was scripted or traced from"
            )


def _scripts_dropout(module: torch.jit.ScriptModule) -> bool:
    # Containers such as a scripted ModuleList have no graph of their own; their modules have.
    return module._c._has_method("forward") and "dropout" in str(module.inlined_graph)


def log_prob_distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference between two sets of log-probabilities; NaN counts as 0."""
    smallest = -1e4  # −∞ minus −∞ is NaN
    return (one.clamp(smallest) - other.clamp(smallest)).abs().nan_to_num().max().item()


def largest(log_probs: Tensor) -> float:
    """Return the largest magnitude of a finite log-probability, at least 1."""
    return max(1.0, log_probs.where(log_probs.isfinite(), 0).abs().max().item())


def rounding_on(device: torch.device, *, in_16_bits: bool) -> float:
    """Return the tolerance between a model's predictions and a faster way to compute them.

    It is a share of the largest log-probability.
    """
    if in_16_bits:
        return _OTHER_KERNELS_IN_16_BITS
    return _OTHER_KERNELS_IN_TF32 if _in_tf32(device) else _OTHER_KERNELS


def _in_tf32(device: torch.device) -> bool:
    """Return whether PyTorch may use TF32 on a device. By default, convolutions do."""
    allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return device.type == "cuda" and allowed


def in_16_bits(model: nn.Module, predictions: Tensor) -> bool:
    """Return whether a model computes in bfloat16 or float16, wholly or in part."""
    device = predictions.device.type
    return torch.is_autocast_enabled(device) or any(
        tensor.is_floating_point() and tensor.dtype.itemsize == 2
        for tensor in (predictions, *model.parameters())
    )


def _with_neighbour(images: Tensor) -> Tensor:
    return images if len(images) > 1 else torch.cat([images, torch.zeros_like(images)])


def _check_repeats(
    drawn: _Drawn, again: _Drawn, tolerance: float, own_draws: Callable[[], str]
) -> None:
    difference = log_prob_distance(drawn.log_probs, again.log_probs)
    if difference > tolerance:
        raise PosteriorError(
            "the model returns different results for the same images and masks (log-probabilities "
            f"differ by {difference:.2g}). {own_draws() or 'Remove whatever else is random in it'}"
        )


def _check_company(
    draw: Callable[[Tensor], _Drawn], probe: Tensor, same_place: float, moved: float
) -> None:
    """Check that an image's prediction stays the same among other images.

    The first and the last image keep their places, so the same kernels compute them. Replacing the
    others reveals a dependence on the images after the first or before the last. Then the first
    image moves to the end of a larger mini-batch.
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
                "an image's prediction depends on the others in its mini-batch: its "
                f"log-probabilities change by {difference:.2g} among other images. Look for "
                "statistics over the mini-batch, such as a BatchNorm without running averages, "
                "and for a dropout that sees rows of several images in turn"
            )


def _check_shapes(
    shapes: list[tuple[int, ...]], others: list[tuple[int, ...]], images: int
) -> None:
    if shapes != others:
        raise PosteriorError(
            f"dropout masks change with the mini-batch (shapes {shapes} for {images} images, "
            f"{others} for {images + 1}); an image's mask must have the same shape in all of them"
        )
