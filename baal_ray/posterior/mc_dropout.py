"""Monte Carlo dropout: a posterior sample is the network under one set of dropout masks.

Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142: keeping dropout on at prediction time
draws from an approximate posterior over the weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout_mode import MaskedDropout
from baal_ray.posterior.guards import check_posterior
from baal_ray.posterior.masks import MaskCache, Masks, PerItemMasks, SharedMasks
from baal_ray.posterior.outputs import OUTPUTS, log_probs_of

MASKS = ("shared", "per_item")


class PosteriorSample(nn.Module):
    """The k-th posterior sample as a plain module: images [N, …] → log-probabilities [N, C].

    It is the reference that faster ways of drawing are held against: the model itself, run once
    under its masks, with everything else in evaluation mode. The model's own modes are put back
    afterwards.
    """

    def __init__(
        self, model: nn.Module, seed: int, k: int, masks: str, output: str, cache: MaskCache
    ) -> None:
        super().__init__()
        self.model = model
        self.seed, self.k, self.masks, self.output = seed, k, masks, output
        self._cache = cache

    def forward(self, images_N: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Log-probabilities [N, C], float32 or wider; `ids` are needed when masks are per item."""
        images = len(images_N)
        with _evaluation(self.model), MaskedDropout(self._masks(images, ids), images):
            predictions = self.model(images_N)
        return log_probs_of(predictions, self.output)

    def _masks(self, images: int, ids: Sequence[str] | None) -> Masks:
        if self.masks == "shared":
            return SharedMasks(self.seed, self.k, self._cache)
        if ids is None or len(ids) != images:
            given = "none" if ids is None else len(ids)
            raise PosteriorError(
                f"masks='per_item' needs an id for each of the {images} images; {given} given"
            )
        return PerItemMasks(self.seed, self.k, ids)


class MCDropout:
    """Draws K posterior samples of a model with dropout.

    The first call looks at a few of its images and refuses a model whose samples would be all the
    same, incomplete or dependent on an image's neighbours (`baal_ray.posterior.guards`). Not for
    several threads at once, as a model in training mode is put in evaluation mode meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int = 20,
        seed: int = 0,
        masks: str = "shared",
        output: str = "logits",
    ) -> None:
        """Prepare to draw; nothing runs yet.

        Args:
            model: any module, mini-batch of images → [N, C]. Dropout in all its forms is caught,
                as module or function, whatever its `training` flag says.
            samples: K, at least 1.
            seed: of the masks; the first K samples of a larger number are the same.
            masks: "shared", one set of masks a sample for all images, or "per_item", keyed by
                image id too.
            output: what the model returns, "logits" or "log_probs". It is declared, never guessed.

        Raises:
            PosteriorError: an argument is out of its range.
        """
        _check_choice("samples", samples, samples >= 1, "at least 1")
        _check_choice("masks", masks, masks in MASKS, " or ".join(MASKS))
        _check_choice("output", output, output in OUTPUTS, " or ".join(OUTPUTS))
        self.model = model
        self.samples = samples
        self.seed = int(seed)
        self.masks = masks
        self.output = output
        self._cache = MaskCache()
        self._checked = False

    def sample(self, k: int) -> PosteriorSample:
        """The k-th posterior sample as a plain module, counted from 0; k may exceed `samples`."""
        return PosteriorSample(self.model, self.seed, int(k), self.masks, self.output, self._cache)

    def check(self, images_N: Tensor) -> None:
        """Look at a few images and refuse a model that cannot be sampled rightly.

        Raises:
            PosteriorError: see `baal_ray.posterior.guards.check_posterior`.
        """
        with torch.no_grad(), _evaluation(self.model):
            check_posterior(self.model, images_N, self.output)
        self._checked = True

    def log_probs(self, images_N: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Every prediction, log_probs_N_K_C, float32 or wider: for small sets.

        Args:
            images_N: a mini-batch, as the model takes it, on the model's device.
            ids: the images' ids, needed when masks are per item.

        Raises:
            PosteriorError: the model cannot be sampled rightly.
        """
        return torch.stack(list(self._draw(images_N, ids)), dim=1)

    def predict(self, images_N: Tensor, ids: Sequence[str] | None = None) -> PredictiveStatistics:
        """The sums over all K samples, streamed; arguments as for `log_probs`."""
        draws = self._draw(images_N, ids)
        statistics = PredictiveStatistics(next(draws))
        for log_probs_N_C in draws:
            statistics.add(log_probs_N_C)
        return statistics

    def statistics(self, images_N: Tensor, ids: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Every score column by name and `predicted`, each [N]; arguments as for `log_probs`."""
        return self.predict(images_N, ids).columns()

    def _draw(self, images_N: Tensor, ids: Sequence[str] | None) -> Iterator[Tensor]:
        """The K predictions log_probs_N_C in order of k."""
        if not self._checked:
            self.check(images_N)
        for k in range(self.samples):
            with torch.no_grad():
                log_probs_N_C = self.sample(k)(images_N, ids)
            yield log_probs_N_C


def _check_choice(name: str, value: object, right: bool, rule: str) -> None:
    if not right:
        raise PosteriorError(f"{name} is {value!r}; it must be {rule}")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; each module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # By train() first, which some modules override to do more: LoRA merges its weights.
        for module, training in modes:
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training
