"""The samples of Monte Carlo dropout: the model under one set of dropout masks each."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.interception import MaskedDropout
from baal_ray.posterior.dropout.masks import MaskCache, Masks, PerItemMasks, SharedMasks
from baal_ray.posterior.dropout.sites import Site
from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.evaluation_mode import evaluation_mode, has_own_modes
from baal_ray.posterior.mini_batch import MiniBatch
from baal_ray.posterior.outputs import Output


@dataclass(frozen=True)
class MaskedModel:
    """A model with the masks of its dropouts (`baal_ray.posterior.samples.Samples`).

    Attributes:
        model: The model.
        sites: Its dropouts, in the order of the forward pass.
        seed: Seed of the masks.
        masks: "shared" or "per_item".
        output: The kind and the place of its predictions.
        stochastic_depth: Whether blocks are left out at random as in training.
        frozen: Whether the model stays unchanged.
        cache: Cache of shared masks.
    """

    model: nn.Module
    sites: tuple[Site, ...]
    seed: int
    masks: str
    output: Output
    stochastic_depth: bool
    frozen: bool
    cache: MaskCache

    @property
    def settings(self) -> tuple[Hashable, ...]:
        """Everything that a trace depends on, except the model and the mini-batch."""
        return self.seed, self.masks, self.output, self.stochastic_depth

    def evaluation(self) -> AbstractContextManager[None]:
        """Return a context in which the model is in evaluation mode."""
        return evaluation_mode(self.model, stochastic_depth=self.stochastic_depth)

    def masks_of(self, batch: MiniBatch) -> Callable[[Sequence[int]], Masks]:
        """Return a function from sample numbers to their masks.

        Raises:
            PosteriorError: If masks are per item, and the images have no ids.
        """
        if self.masks == "shared":
            return lambda ks: SharedMasks(self.seed, ks, self.cache)
        ids = batch.ids
        if ids is None:
            raise PosteriorError(
                f"masks='per_item' needs an id for each of the {len(batch)} images; ids given: "
                "none"
            )
        return lambda ks: PerItemMasks(self.seed, ks, ids)

    def run(self, k: int, batch: MiniBatch) -> Tensor:
        """Run the model itself under the masks of sample k; return log-probabilities [N, C]."""
        masks, axes = self.masks_of(batch)((k,)), [site.axis for site in self.sites]
        with self.evaluation(), MaskedDropout(masks, len(batch), axes):
            returned = self.model(batch.images_N.clone())  # in case it overwrites them
        return self.output.log_probs_of(returned)

    def trace(self, batch: MiniBatch, layout: torch.memory_format, count: int) -> TrunkOnce:
        """Trace the model for `count` samples of mini-batches of this shape.

        Raises:
            Exception: If the model cannot be traced. It may be of any type.
        """
        return TrunkOnce(
            self.model,
            batch.images_N,
            layout,
            self.sites,
            count,
            output=self.output,
            shared=self.masks == "shared",
            frozen=self.frozen,
        )

    def as_traced(self) -> AbstractContextManager[object]:
        """Return a context in which the model's tensors are as they were when it was traced."""
        # Evaluation mode takes a millisecond, which most models need not spend.
        return self.evaluation() if has_own_modes(self.model) else nullcontext()

    def draw(self, trace: TrunkOnce, batch: MiniBatch, ks: Sequence[int]) -> Iterator[Tensor]:
        """Yield log-probabilities [K', N, C] in order of `ks` by the traced model."""
        for predictions in trace.draw(batch.images_N, self.masks_of(batch), ks):
            yield self.output.log_probs_of(predictions)
