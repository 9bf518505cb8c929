"""One posterior sample as a plain module, the reference for faster ways of drawing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from baal_ray.posterior.outputs import log_probs_of

if TYPE_CHECKING:
    from baal_ray.posterior.kinds.mc_dropout import MCDropout


class PosteriorSample(nn.Module):
    """The k-th posterior sample as a plain module: images [N, …] → log-probabilities [N, C].

    It is the reference that faster ways of drawing are compared with: the model itself, run once
    under its masks, with everything else in evaluation mode. The model's own modes are restored
    afterwards.
    """

    def __init__(self, posterior: "MCDropout", k: int) -> None:
        super().__init__()
        self.model = posterior.model
        self.k = k
        self._posterior = posterior

    def forward(self, images_N: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Return log-probabilities [N, C], float32 or wider; per-item masks need `ids`."""
        if len(images_N) == 1:  # as `MCDropout._draw` does, for models that squeeze axes of 1
            two, twice = torch.cat([images_N] * 2), None if ids is None else [*ids, *ids]
            return self.forward(two, twice)[:1]
        masks = self._posterior.masks_of(images_N, ids)((self.k,))
        predictions = self._posterior.predict_under(masks, images_N)
        return log_probs_of(predictions, self._posterior.output)
