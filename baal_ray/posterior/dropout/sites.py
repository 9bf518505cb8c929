"""Find a model's dropouts, and the mini-batch axis of each dropout's input."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.interception import CaughtDropout, Kind
from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis, find_axis
from baal_ray.posterior.dropout.row_order import find_orders, unlike


@dataclass(frozen=True)
class Site:
    """A dropout of the model.

    Attributes:
        axis: The mini-batch axis of its input, or None if the input is the same for all images.
        mask_shape: Shape of the mask for one image and sample.
        p: Share of units that are dropped.
    """

    axis: MiniBatchAxis | None
    mask_shape: tuple[int, ...]
    p: float


class WatchedDropout(CaughtDropout):
    """A context in which dropouts do nothing but record their inputs.

    Attributes:
        seen: The input of each call site, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def drop(self, x: Tensor, p: float, kind: Kind) -> Tensor:
        """Record x and return it."""
        self.seen.append(x.clone())
        return x


def find_axes(model: nn.Module, probe: Tensor) -> tuple[MiniBatchAxis | None, ...]:
    """Find the mini-batch axis of each dropout's input, None if it is the same for all images.

    The model runs on the probe, on the probe and one more image, and, if an image has several
    rows, on the probe with a different last image.

    Args:
        model: The model, in evaluation mode.
        probe: Two images or more.

    Raises:
        PosteriorError: If images are mixed up in the input of a dropout, or if the number of
            dropouts varies with the number of images.
    """
    other = unlike(probe)[:1]
    seen = _watch(model, probe)
    try:
        in_more = _watch(model, torch.cat([probe, other]))
    except (RuntimeError, ValueError) as error:
        raise PosteriorError(
            f"the model takes {len(probe)} images at a time and fails on {len(probe) + 1}; it "
            f"must take any number: {error}"
        ) from error
    if len(seen) != len(in_more):
        raise PosteriorError(
            f"the model calls dropout {len(seen)} times for {len(probe)} images and "
            f"{len(in_more)} times for {len(probe) + 1}; the number must always be the same"
        )
    axes = [_axis(x, more, len(probe)) for x, more in zip(seen, in_more, strict=True)]
    try:
        return tuple(find_orders(axes, partial(_watch, model), probe))
    except ValueError as error:
        raise PosteriorError(
            f"a dropout gets a tensor of shape {error}; keep each image's rows together"
        ) from None


def _watch(model: nn.Module, images: Tensor) -> list[Tensor]:
    watched = WatchedDropout()
    with watched:
        model(images.clone())
    return watched.seen


def _axis(x: Tensor, in_more: Tensor, images: int) -> MiniBatchAxis | None:
    try:
        return find_axis(x.shape, images, in_more.shape, images + 1)
    except ValueError as error:
        raise PosteriorError(f"a dropout gets a tensor of shape {error}") from None
