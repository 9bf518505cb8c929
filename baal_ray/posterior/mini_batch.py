"""A mini-batch of images, with their ids if there are any."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError


@dataclass(frozen=True)
class MiniBatch:
    """Images that run through a model together.

    Attributes:
        images_N: Images [N, …], as the model takes them.
        ids: Their ids, needed if masks are per item.

    Raises:
        PosteriorError: If there are more or fewer ids than images.
    """

    images_N: Tensor
    ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.ids is not None and len(self.ids) != len(self):
            raise PosteriorError(
                f"the mini-batch needs an id for each of the {len(self)} images, or none at all; "
                f"ids given: {len(self.ids)}"
            )

    def __len__(self) -> int:
        return len(self.images_N)

    def at(self, places: Sequence[int]) -> "MiniBatch":
        """Return the images at some places."""
        return MiniBatch(
            self.images_N[places], None if self.ids is None else [self.ids[i] for i in places]
        )

    def twice(self) -> "MiniBatch":
        """Return the images, followed by the same images.

        A single image is run as two. So it is for models that squeeze axes of 1, and because one
        image cannot show whether its rows lie together.
        """
        return MiniBatch(
            torch.cat([self.images_N] * 2), None if self.ids is None else [*self.ids, *self.ids]
        )

    def name(self, place: int) -> str:
        """Return the name of an image, for a message."""
        if self.ids is None:
            return f"image {place} of a mini-batch"
        return f"image {self.ids[place]!r}"
