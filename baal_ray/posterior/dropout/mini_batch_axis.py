"""Where the mini-batch lies in a tensor, which is not always its first axis alone.

Sequence-first networks have it second; windows of a picture, attention heads and crops are counted
along with the images, an image's together (outer) or those of all images in turn (inner).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MiniBatchAxis:
    """An axis of N·L entries, L of them for each image.

    Attributes:
        axis: which.
        rows: L.
        outer: whether an image's L entries are together.
    """

    axis: int = 0
    rows: int = 1
    outer: bool = True

    def unfold(self, x: Tensor, samples: int = 1) -> Tensor:
        """A view of x as [K samples, N images, …, L, …]; samples go round slower than images."""
        images = x.shape[self.axis] // (samples * self.rows)
        sizes = (samples, images, self.rows) if self.outer else (self.rows, samples, images)
        parted = x.reshape(*x.shape[: self.axis], *sizes, *x.shape[self.axis + 1 :])
        first = self.axis if self.outer else self.axis + 1
        return parted.movedim((first, first + 1), (0, 1))

    def fold(self, x: Tensor) -> Tensor:
        """What `unfold` took apart."""
        first = self.axis if self.outer else self.axis + 1
        return x.movedim((0, 1), (first, first + 1)).flatten(self.axis, self.axis + 2)

    def tile(self, x: Tensor, samples: int) -> Tensor:
        """The same N images for each of K samples: N·L entries become K·N·L."""
        if samples == 1:
            return x
        if self.outer:  # as cat keeps the memory format
            return torch.cat([x] * samples, dim=self.axis)
        one = self.unfold(x)
        return self.fold(one.expand(samples, *one.shape[1:]))


def find_axis(
    shape: Sequence[int], images: int, other_shape: Sequence[int], other_images: int
) -> MiniBatchAxis | None:
    """The axis that grows with the mini-batch; None if nothing does.

    Args:
        shape: of a tensor in a mini-batch of `images`.
        images: their number.
        other_shape: of the same tensor in another mini-batch.
        other_images: their number.

    Raises:
        ValueError: several axes do, or not in proportion.
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


def find_order(axis: MiniBatchAxis, x: Tensor, with_another_last: Tensor) -> MiniBatchAxis:
    """Whether an image's rows are together, seen by what changes with the last image.

    Args:
        axis: as `find_axis` gives it.
        x: the tensor for a mini-batch.
        with_another_last: the tensor for the same mini-batch with another last image.

    Raises:
        ValueError: more than that image's rows changed, or what changed does not tell.
    """
    if axis.rows == 1:
        return axis
    changed = (x != with_another_last) & ~(x.isnan() & with_another_last.isnan())
    orders = [MiniBatchAxis(axis.axis, axis.rows, outer) for outer in (True, False)]
    possible = [order for order in orders if not order.unfold(changed)[0, :-1].any()]
    if len(possible) == 1:
        return possible[0]
    # A guess that is right for this mini-batch, by chance, would be wrong for another.
    fault = "does not tell which rows are whose, as another image hardly changes it"
    raise ValueError(
        f"{list(x.shape)}: axis {axis.axis} {fault if possible else 'mixes up images'}"
    )
