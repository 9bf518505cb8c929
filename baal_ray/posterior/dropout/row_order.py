"""Which rows of a tensor belong to which image, from what changes with the last image."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis, find_order

Axes = Sequence[MiniBatchAxis | None]
Run = Callable[[Tensor], Sequence[Tensor]]


def find_orders(axes: Axes, run: Run, images_N: Tensor) -> list[MiniBatchAxis | None]:
    """Find out for each tensor whether an image's rows lie together.

    The last image is replaced by noise. Where this changes nothing, as behind a branch that a
    weight of zero switches off, it is replaced by NaN, which no weight hides.

    Args:
        axes: The axis of each tensor as `find_axis` returns it.
        run: Function from images to the tensors.
        images_N: Two images or more.

    Returns:
        The axes with `outer` set.

    Raises:
        ValueError: If a tensor mixes up images, or if neither change shows the order.
    """
    found = list(axes)
    several = {i: axis for i, axis in enumerate(axes) if axis and axis.rows > 1}
    if not several:
        return found
    seen = run(images_N)
    for changed in _with_another_last(run, images_N):
        for i, axis in list(several.items()):
            order = find_order(axis, seen[i], changed[i])
            if order is not None:
                found[i] = order
                del several[i]
        if not several:
            return found
    i, axis = next(iter(several.items()))
    # A guess might be right for this mini-batch by chance, and wrong for another.
    raise ValueError(
        f"{list(seen[i].shape)}: axis {axis.axis} does not show which rows belong to which image, "
        "as another image changes nothing in it"
    )


def unlike(images: Tensor) -> Tensor:
    """Return the same number of other images: noise in the value range of the given ones."""
    finite = images.nan_to_num(posinf=0, neginf=0) if images.is_floating_point() else images
    low, high = finite.min().item(), finite.max().item()
    if low == high:  # one colour
        low, high = (0, 255) if images.dtype == torch.uint8 else (low - 1, high + 1)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    if images.is_floating_point():
        return (low + (high - low) * noise).to(images)
    return (low + noise * (high - low + 1)).floor().clamp(low, high).to(images)


def _with_another_last(run: Run, images_N: Tensor) -> Iterator[Sequence[Tensor]]:
    yield run(torch.cat([images_N[:-1], unlike(images_N)[-1:]]))
    try:
        if images_N.is_floating_point():
            yield run(torch.cat([images_N[:-1], torch.full_like(images_N[-1:], torch.nan)]))
        else:
            with _LastIsNaN(images_N.shape):
                changed = run(images_N)
            yield changed
    except (RuntimeError, ValueError):  # the model does not take NaN
        return


class _LastIsNaN(TorchDispatchMode):
    """A context in which integer images end with NaN as soon as they become real numbers."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shape = shape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if [self._real_images(x) for x in (*args[:1], result)] == [False, True]:
            result[-1] = torch.nan
        return result

    def _real_images(self, x: Any) -> bool | None:
        """Return whether images are real numbers, None for anything but images."""
        is_image = isinstance(x, Tensor) and x.shape == self._shape
        return x.is_floating_point() if is_image else None
