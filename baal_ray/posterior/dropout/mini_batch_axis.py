"""The axis of a tensor that holds the mini-batch, which is not always simply the first.

Sequence-first networks have it second. Windows of a picture, attention heads and crops share an
axis with the images. Either each image's entries lie together (outer), or the entries of all
images take turns (inner).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MiniBatchAxis:
    """An axis of N·L entries, L of them for each image.

    Attributes:
        axis: Index of the axis.
        rows: Number of entries per image, L.
        outer: Whether an image's L entries lie together.
    """

    axis: int = 0
    rows: int = 1
    outer: bool = True

    def unfold(self, x: Tensor, samples: int = 1) -> Tensor:
        """Return a view of x as [K samples, N images, …, L, …].

        Along the axis, images vary faster than samples.
        """
        images = x.shape[self.axis] // (samples * self.rows)
        sizes = (samples, images, self.rows) if self.outer else (self.rows, samples, images)
        parted = x.reshape(*x.shape[: self.axis], *sizes, *x.shape[self.axis + 1 :])
        first = self.axis if self.outer else self.axis + 1
        return parted.movedim((first, first + 1), (0, 1))

    def fold(self, x: Tensor) -> Tensor:
        """Undo `unfold`."""
        first = self.axis if self.outer else self.axis + 1
        return x.movedim((0, 1), (first, first + 1)).flatten(self.axis, self.axis + 2)

    def tile(self, x: Tensor, samples: int) -> Tensor:
        """Repeat the N images for each of K samples, so that N·L entries become K·N·L."""
        if samples == 1:
            return x
        if self.outer:  # because cat keeps the memory format
            return torch.cat([x] * samples, dim=self.axis)
        one = self.unfold(x)
        return self.fold(one.expand(samples, *one.shape[1:]))


def find_axis(
    shape: Sequence[int], images: int, other_shape: Sequence[int], other_images: int
) -> MiniBatchAxis | None:
    """Return the axis that grows with the mini-batch, or None if no axis does.

    Args:
        shape: Shape of a tensor in one mini-batch.
        images: Number of images in that mini-batch.
        other_shape: Shape of the same tensor in another mini-batch.
        other_images: Number of images in the other mini-batch.

    Raises:
        ValueError: If several axes grow, or one grows but not in proportion.
    """
    sizes = zip(shape, other_shape, strict=True)
    axes = [axis for axis, (size, other_size) in enumerate(sizes) if size != other_size]
    if not axes:
        return None
    axis = axes[0]
    if len(axes) > 1 or shape[axis] * other_images != other_shape[axis] * images:
        raise ValueError(
            f"{list(shape)} for {images} images, {list(other_shape)} for {other_images}: one axis "
            "must grow with the mini-batch, in proportion"
        )
    return MiniBatchAxis(axis, shape[axis] // images)


def find_order(axis: MiniBatchAxis, x: Tensor, with_another_last: Tensor) -> MiniBatchAxis | None:
    """Find out whether an image's rows lie together, from what changes with the last image.

    Args:
        axis: The axis as `find_axis` returns it, with several rows per image.
        x: The tensor for a mini-batch.
        with_another_last: The tensor for the same mini-batch with a different last image.

    Returns:
        The axis with `outer` set, or None if the change fits both orders.

    Raises:
        ValueError: If more than that image's rows changed.
    """
    changed = (x != with_another_last) & ~(x.isnan() & with_another_last.isnan())
    orders = [MiniBatchAxis(axis.axis, axis.rows, outer) for outer in (True, False)]
    possible = [order for order in orders if not order.unfold(changed)[0, :-1].any()]
    if not possible:
        raise ValueError(f"{list(x.shape)}: axis {axis.axis} mixes up images")
    return possible[0] if len(possible) == 1 else None
