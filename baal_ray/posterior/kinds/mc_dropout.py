"""Monte Carlo dropout: a posterior sample is the network under one set of dropout masks.

Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142: keeping dropout on at prediction time
draws from an approximate posterior over the weights.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.errors import PosteriorError, TraceError
from baal_ray.posterior.arguments import check_first, check_images, check_model, whole_number
from baal_ray.posterior.choice import Choice
from baal_ray.posterior.dropout.masks import MaskCache
from baal_ray.posterior.dropout.sites import Site
from baal_ray.posterior.evaluation_mode import evaluation_mode
from baal_ray.posterior.guards import PROBE, check_posterior
from baal_ray.posterior.kinds.masked_model import MaskedModel
from baal_ray.posterior.mini_batch import MiniBatch
from baal_ray.posterior.outputs import Output
from baal_ray.posterior.posterior_sample import PosteriorSample
from baal_ray.posterior.preparations import Preparations
from baal_ray.posterior.stochastic_depth import is_stochastic_depth
from baal_ray.posterior.trace_checks import Few, run_whole

MASKS = ("shared", "per_item")


class MCDropout:
    """A posterior by Monte Carlo dropout, which draws K samples of a model with dropout.

    The first call checks the model on a few images. It refuses a model whose samples would all be
    the same, incomplete or dependent on an image's neighbours (`baal_ray.posterior.guards`). Then
    the model is traced, so that the part that no dropout touches runs once for all samples
    (`posterior.engine.trunk_once`). The first mini-batch is compared with the model itself, and so
    are eight images of the second one and of every thousandth after it. A model that cannot be
    traced runs K times, and a warning says so.

    Several threads must not use it at once, because a model in training mode is put in evaluation
    mode meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int = 20,
        seed: int = 0,
        masks: str = "shared",
        output: str = "logits",
        *,
        output_field: str | int | None = None,
        stochastic_depth: bool = False,
        frozen: bool = False,
        traced: bool = True,
    ) -> None:
        """Prepare to draw. Nothing runs yet.

        Args:
            model: Any module, mini-batch of images → [N, C], or an object that has this tensor in
                a field, such as transformers' `ModelOutput`. Dropout in all its forms is caught,
                as module or function, whatever its `training` flag says.
            samples: Number of samples, K, at least 1.
            seed: Seed of the masks. If K grows, the samples drawn before stay the same.
            masks: "shared" for one set of masks per sample for all images, or "per_item" for masks
                that also depend on the image's id.
            output: The kind of output that the model returns, "logits" or "log_probs". It is
                declared, never guessed.
            output_field: Name of the field that has the predictions, if the model returns a
                dictionary or another object, or the place in a tuple. By default, the field is
                named as `output`.
            stochastic_depth: Whether the blocks that torchvision's `StochasticDepth`, timm's
                `DropPath` or a module that behaves like them leaves out in training are left out
                at random here too.
            frozen: Whether the model stays unchanged from the first call on. Otherwise a copy of
                its weights is kept. Each call first compares them, and so waits for all the work
                that a GPU has pending. `refresh` says which changes are noticed.
            traced: Whether the model is traced. Otherwise it runs whole for each sample.

        Raises:
            PosteriorError: If an argument is of another type, or out of its range.
        """
        check_model(model)
        if masks not in MASKS:
            raise PosteriorError(f"masks is {masks!r}; it must be {' or '.join(MASKS)}")
        Output(output, output_field)  # checks them
        self.model = model
        self.samples = whole_number("samples", samples, least=1)
        self.seed = whole_number("seed", seed)
        self.masks = masks
        self.output = output
        self.output_field = output_field
        self.stochastic_depth = stochastic_depth
        self.frozen = frozen
        self.traced = traced
        self._prepare()

    def _prepare(self) -> None:
        self._kept = Preparations(self.model)
        self._choice = Choice()
        self._cache = MaskCache()

    def refresh(self) -> None:
        """Forget the model as it was, after a change that is not noticed.

        Noticed are changes of parameters, buffers and other tensors that the model reads, of its
        modules and hooks, and of its modules' attributes that are numbers, strings, or lists,
        tuples and dictionaries of these. Nothing is noticed if the posterior is frozen. The next
        call checks and traces the model again.
        """
        self._kept = Preparations(self.model)

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings. Preparations are made again where they are needed."""
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def sample(self, k: int) -> PosteriorSample:
        """Return the k-th posterior sample, from 0, as a plain module. k may exceed `samples`."""
        k = whole_number("k", k, least=0)
        return PosteriorSample(self.model, k, partial(self._run, k))

    def _run(self, k: int, batch: MiniBatch) -> Tensor:
        return self._samples(batch).run(k, batch)

    def check(self, images_N: Tensor) -> None:
        """Run the model on a few images, and refuse it if it cannot be sampled correctly.

        Raises:
            PosteriorError: If a check of `baal_ray.posterior.guards.check_posterior` fails.
        """
        self.sites(images_N)

    @torch.no_grad()
    def sites(self, images_N: Tensor) -> tuple[Site, ...]:
        """Return the model's dropouts, in the order of the forward pass.

        Raises:
            PosteriorError: If the model cannot be sampled correctly, as for `check`.
        """
        check_images(images_N)
        kind = (images_N.shape[1:], images_N.dtype, images_N.device, self.masks)
        probe = images_N[:PROBE]
        # A frozen model need not even be put in evaluation mode, which takes a millisecond.
        if self.frozen and (known := self._kept.known_sites(kind)):
            return known
        with evaluation_mode(self.model, stochastic_depth=self.stochastic_depth):
            self._kept.notice_changes(frozen=self.frozen)
            return self._kept.sites(kind, probe, find=lambda: self._check(probe))

    def _check(self, probe: Tensor) -> tuple[Site, ...]:
        if self.stochastic_depth and not any(map(is_stochastic_depth, self.model.modules())):
            raise PosteriorError(
                "stochastic_depth is set, but the model has no module that skips a block "
                "for random images in training, as torchvision's StochasticDepth and timm's "
                "DropPath do; unset it"
            )
        sites = check_posterior(self.model, probe, Output(self.output, self.output_field))
        if self.masks == "per_item" and not all(site.axis for site in sites):
            raise PosteriorError(
                "a dropout of the model gets a tensor that belongs to no image, such as "
                "weights, so it cannot have masks per image; use masks='shared'"
            )
        return sites

    def _samples(self, batch: MiniBatch) -> MaskedModel:
        """Return the model with its masks, after it has been checked."""
        return MaskedModel(
            self.model,
            self.sites(batch.images_N),
            seed=self.seed,
            masks=self.masks,
            output=Output(self.output, self.output_field),
            stochastic_depth=self.stochastic_depth,
            frozen=self.frozen,
            cache=self._cache,
        )

    def log_probs(
        self,
        images_N: Tensor,
        ids: Sequence[str] | None = None,
        *,
        first_N_K_C: Tensor | None = None,
    ) -> Tensor:
        """Return every prediction, log_probs_N_K_C, float32 or wider. This is for small sets.

        Args:
            images_N: A mini-batch, as the model takes it, on the model's device.
            ids: Ids of the images, needed if masks are per item.
            first_N_K_C: Log-probabilities of the first samples, if they have been drawn before.
                Only the others are drawn now.

        Raises:
            PosteriorError: If the model cannot be sampled correctly.
            TraceError: If the traced model no longer agrees with the model itself. What was drawn
                before may be wrong too. From then on, the model runs whole (`traced` is False).
        """
        check_first(first_N_K_C, images_N)
        pieces = [] if first_N_K_C is None else [first_N_K_C.transpose(0, 1)]
        self._draw(MiniBatch(images_N, ids), sum(map(len, pieces)), pieces.append)
        return torch.cat(pieces).transpose(0, 1)

    def predict(
        self,
        images_N: Tensor,
        ids: Sequence[str] | None = None,
        *,
        first_N_K_C: Tensor | None = None,
    ) -> PredictiveStatistics:
        """Return statistics of all K samples, summed as the samples are drawn.

        Args:
            images_N: A mini-batch, as for `log_probs`.
            ids: Ids of the images, as for `log_probs`.
            first_N_K_C: Log-probabilities of the first samples, as for `log_probs`.

        Raises:
            PosteriorError: If the model cannot be sampled correctly.
            TraceError: As for `log_probs`.
        """
        check_first(first_N_K_C, images_N)
        statistics = PredictiveStatistics()
        if first_N_K_C is not None:
            statistics.add(first_N_K_C.transpose(0, 1))
        self._draw(MiniBatch(images_N, ids), statistics.samples, statistics.add)
        return statistics

    def statistics(self, images_N: Tensor, ids: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return each score column and `predicted` by name, [N]; arguments as for `log_probs`."""
        return self.predict(images_N, ids).columns()

    @torch.no_grad()
    def _draw(self, batch: MiniBatch, start: int, take: Callable[[Tensor], None]) -> None:
        """Pass predictions [K', N, C] to `take`, in order of k from `start` on, K' at a time."""
        if len(batch) == 1:
            self._draw(batch.twice(), start, lambda log_probs_K_N_C: take(log_probs_K_N_C[:, :1]))
            return
        samples, ks = self._samples(batch), range(start, self.samples)
        if not ks:
            return
        trace = self._choice.trace(samples, self._kept, batch, len(ks)) if self.traced else None
        if trace is None:
            with samples.evaluation():
                for k in ks:
                    take(run_whole(samples, k, batch).unsqueeze(0))
            return
        few = None
        if self._kept.traces.is_due(trace):
            few = Few.of(samples, ks[0], batch, in_16_bits=trace.in_16_bits)
        uncast = torch.autocast(batch.images_N.device.type, enabled=False)
        with samples.as_traced(), uncast:
            for log_probs_K_N_C in samples.draw(trace, batch, ks):
                if few is not None:
                    self._compare(few, log_probs_K_N_C[0])
                    few = None
                take(log_probs_K_N_C)

    def _compare(self, few: Few, traced_N_C: Tensor) -> None:
        try:
            few.compare(traced_N_C)
        except TraceError:
            self.traced = False
            self._kept.traces.clear()
            raise
