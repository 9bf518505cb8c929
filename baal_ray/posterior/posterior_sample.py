"""One posterior sample as a plain module, which faster ways of drawing are held against."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from baal_ray.posterior.outputs import log_probs_of

if TYPE_CHECKING:
    from baal_ray.posterior.kinds.mc_dropout import MCDropout


class PosteriorSample(nn.Module):
    """The k-th posterior sample as a plain module: images [N, …] → log-probabilities [N, C].

    It is the reference that faster ways of drawing are held against: the model itself, run once
    under its masks, with everything else in evaluation mode. The model's own modes are put back
    afterwards.
    """

    def __init__(self, posterior: "MCDropout", k: int) -> None:
        super().__init__()
        self.model = posterior.model
        self.k = k
        self._posterior = posterior

    def forward(self, images_N: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Log-probabilities [N, C], float32 or wider; `ids` are needed when masks are per item."""
        if len(images_N) == 1:  # as `_draw` does, for a model that squeezes axes of one
            two, twice = torch.cat([images_N] * 2), None if ids is None else [*ids, *ids]
            return self.forward(two, twice)[:1]
        masks = self._posterior.masks_of(images_N, ids)((self.k,))
        predictions = self._posterior.predict_under(masks, images_N)
        return log_probs_of(predictions, self._posterior.output)
