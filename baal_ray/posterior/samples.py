"""The methods of a kind of posterior by which its samples are traced, cached and checked."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.mini_batch import MiniBatch


class Samples(Protocol):
    """The samples of a posterior, which are numbered from 0.

    Sample k may differ from the others in its dropout masks, its weights, or both. `run` defines
    it, and the other methods are a faster way to draw the same.
    """

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        ...

    @property
    def settings(self) -> tuple[Hashable, ...]:
        """Everything that `trace` depends on, except the model and the mini-batch."""
        ...

    def evaluation(self) -> AbstractContextManager[None]:
        """Return a context in which the model is in evaluation mode, as samples need it."""
        ...

    def run(self, k: int, batch: MiniBatch) -> Tensor:
        """Run the model itself as sample k, and return its log-probabilities [N, C]."""
        ...

    def trace(self, batch: MiniBatch, layout: torch.memory_format, count: int) -> TrunkOnce:
        """Trace the model for `count` samples of mini-batches of this shape.

        Raises:
            Exception: If the model cannot be traced. It may be of any type.
        """
        ...

    def draw(self, trace: TrunkOnce, batch: MiniBatch, ks: Sequence[int]) -> Iterator[Tensor]:
        """Yield log-probabilities [K', N, C] in order of `ks` by the traced model."""
        ...
