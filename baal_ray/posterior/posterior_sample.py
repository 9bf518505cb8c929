"""One posterior sample as a plain module, the reference for faster ways of drawing."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from baal_ray.posterior.arguments import check_images
from baal_ray.posterior.mini_batch import MiniBatch


class PosteriorSample(nn.Module):
    """The k-th posterior sample as a plain module: images [N, …] → log-probabilities [N, C].

    It is the reference that faster ways of drawing are compared with: the model itself, run once
    under its masks, with everything else in evaluation mode. The model's own modes are restored
    afterwards.
    """

    def __init__(self, model: nn.Module, k: int, predict: Callable[[MiniBatch], Tensor]) -> None:
        """Keep the model and the function that runs it once.

        Args:
            model: The model.
            k: Number of the sample, from 0.
            predict: Function from two or more images to log-probabilities [N, C].
        """
        super().__init__()
        self.model = model
        self.k = k
        self._predict = predict

    def forward(self, images_N: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Return log-probabilities [N, C], float32 or wider; per-item masks need `ids`."""
        check_images(images_N)
        batch = MiniBatch(images_N, ids)
        return self._predict(batch) if len(batch) > 1 else self._predict(batch.twice())[:1]
