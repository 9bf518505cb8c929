"""Monte Carlo dropout: a posterior sample is the network under one set of dropout masks.

Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142: keeping dropout on at prediction time
draws from an approximate posterior over the weights.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.errors import PosteriorError, TraceError
from baal_ray.posterior.arguments import (
    check_first,
    check_images,
    check_model,
    check_tensors,
    whole_number,
)
from baal_ray.posterior.dropout.interception import MaskedDropout
from baal_ray.posterior.dropout.masks import MaskCache, Masks, PerItemMasks, SharedMasks
from baal_ray.posterior.dropout.sites import Site
from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.evaluation_mode import evaluation_mode
from baal_ray.posterior.guards import PROBE, check_posterior, rounding_of
from baal_ray.posterior.memory import budget, is_out_of_memory
from baal_ray.posterior.model_changes import ModelChanges, unchanged
from baal_ray.posterior.outputs import OUTPUTS, log_probs_of, prediction_of
from baal_ray.posterior.posterior_sample import PosteriorSample
from baal_ray.posterior.stochastic_depth import is_stochastic_depth
from baal_ray.posterior.trace_checks import Few, compare, spread
from baal_ray.posterior.traces import Traces

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
        stochastic_depth: bool = False,
        frozen: bool = False,
        traced: bool = True,
    ) -> None:
        """Prepare to draw. Nothing runs yet.

        Args:
            model: Any module, mini-batch of images → [N, C], or an object that has this tensor in
                a field named as `output`, such as transformers' `ModelOutput`. Dropout in all its
                forms is caught, as module or function, whatever its `training` flag says.
            samples: Number of samples, K, at least 1.
            seed: Seed of the masks. If K grows, the samples drawn before stay the same.
            masks: "shared" for one set of masks per sample for all images, or "per_item" for masks
                that also depend on the image's id.
            output: The kind of output that the model returns, "logits" or "log_probs". It is
                declared, never guessed.
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
        _check_choice("masks", masks, masks in MASKS, " or ".join(MASKS))
        _check_choice("output", output, output in OUTPUTS, " or ".join(OUTPUTS))
        self.model = model
        self.samples = whole_number("samples", samples, least=1)
        self.seed = whole_number("seed", seed)
        self.masks = masks
        self.output = output
        self.stochastic_depth = stochastic_depth
        self.frozen = frozen
        self.traced = traced
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self._changes = ModelChanges(self.model)
        self._sites: dict[Any, tuple[Site, ...]] = {}
        self._cache: MaskCache | None = None
        self._traces = Traces()

    def refresh(self) -> None:
        """Forget the model as it was, after a change that is not noticed.

        Noticed are changes of parameters, buffers and other tensors that the model reads, of its
        modules and hooks, and of its modules' attributes that are numbers, strings, or lists,
        tuples and dictionaries of these. Nothing is noticed if the posterior is frozen. The next
        call checks and traces the model again.
        """
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings. Preparations are made again where they are needed."""
        settings = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return {**settings, "_warned": self._warned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def sample(self, k: int) -> PosteriorSample:
        """Return the k-th posterior sample, from 0, as a plain module. k may exceed `samples`."""
        k = whole_number("k", k, least=0)
        return PosteriorSample(self.model, k, partial(self._log_probs_under, k))

    def _log_probs_under(self, k: int, images_N: Tensor, ids: Sequence[str] | None) -> Tensor:
        self.check(images_N)
        predictions = self._predict_under(self._masks_of(images_N, ids)((k,)), images_N)
        return log_probs_of(predictions, self.output)

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
        with self._evaluation():
            self._notice_changes()
            if self._kind_of(images_N) not in self._sites:
                self._check_stochastic_depth()
                with unchanged(self.model, images_N.device):
                    sites = check_posterior(self.model, images_N, self.output)
                if self.masks == "per_item" and not all(site.axis for site in sites):
                    raise PosteriorError(
                        "a dropout of the model gets a tensor that belongs to no image, such as "
                        "weights, so it cannot have masks per image; use masks='shared'"
                    )
                self._sites[self._kind_of(images_N)] = sites
                if not self.frozen:
                    probe = images_N[:PROBE].clone()
                    self._changes.ignore_changes_by(lambda: self.model(probe), probe.device)
            return self._sites[self._kind_of(images_N)]

    def _kind_of(self, images_N: Tensor) -> Any:
        return images_N.shape[1:], self.masks

    def _check_stochastic_depth(self) -> None:
        if self.stochastic_depth and not any(map(is_stochastic_depth, self.model.modules())):
            raise PosteriorError(
                "stochastic_depth is set, but the model has no module that leaves out whole "
                "images at random in training, as torchvision's StochasticDepth and timm's "
                "DropPath do; unset it"
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
        self._draw(images_N, ids, sum(map(len, pieces)), pieces.append)
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
        self._draw(images_N, ids, statistics.samples, statistics.add)
        return statistics

    def statistics(self, images_N: Tensor, ids: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return each score column and `predicted` by name, [N]; arguments as for `log_probs`."""
        return self.predict(images_N, ids).columns()

    def _predict_under(self, masks: Masks, images_N: Tensor) -> Tensor:
        """Return the output of the model itself, which is checked, under one sample's masks."""
        axes = [site.axis for site in self._sites[self._kind_of(images_N)]]
        with self._evaluation(), MaskedDropout(masks, len(images_N), axes):
            return self._call(images_N.clone())  # in case it overwrites them

    def _call(self, images_N: Tensor) -> Tensor:
        return prediction_of(self.model(images_N), self.output)

    def _masks_of(
        self, images_N: Tensor, ids: Sequence[str] | None
    ) -> Callable[[Sequence[int]], Masks]:
        """Return a function from sample numbers to their masks; arguments as for `log_probs`."""
        if self.masks == "shared":
            cache = self._cache = self._cache or MaskCache(budget(images_N.device))
            return lambda ks: SharedMasks(self.seed, ks, cache)
        if ids is None or len(ids) != len(images_N):
            given = "none" if ids is None else len(ids)
            raise PosteriorError(
                f"masks='per_item' needs an id for each of the {len(images_N)} images; ids given: "
                f"{given}"
            )
        return lambda ks: PerItemMasks(self.seed, ks, ids)

    def _evaluation(self) -> AbstractContextManager[None]:
        return evaluation_mode(self.model, stochastic_depth=self.stochastic_depth)

    @torch.no_grad()
    def _draw(
        self,
        images_N: Tensor,
        ids: Sequence[str] | None,
        start: int,
        take: Callable[[Tensor], None],
    ) -> None:
        """Pass predictions [K', N, C] to `take`, in order of k from `start` on, K' at a time."""
        check_images(images_N)
        if len(images_N) == 1:  # one image cannot show whether its rows lie together
            two, twice = torch.cat([images_N] * 2), None if ids is None else [*ids, *ids]
            self._draw(two, twice, start, lambda log_probs_K_N_C: take(log_probs_K_N_C[:, :1]))
            return
        masks_of = self._masks_of(images_N, ids)
        ks = range(start, self.samples)
        if not ks:
            return
        # With its trace at hand, a frozen model need not even be put in evaluation mode, which
        # takes a millisecond.
        prepared = self._traces.last(self._key(images_N, len(ks))) if self.frozen else None
        if prepared is None:
            self.check(images_N)
            with self._evaluation():
                prepared = self._prepare(images_N, ids, len(ks))
                if prepared is None:
                    with unchanged(self.model, images_N.device):
                        for k in ks:
                            predictions = self._predict_under(masks_of((k,)), images_N)
                            take(log_probs_of(predictions, self.output).unsqueeze(0))
                    return
        few = None
        if self._traces.is_due(prepared):
            few = self._run_few(prepared, ks[0], images_N, ids)
        with torch.autocast(images_N.device.type, enabled=False):
            for predictions in prepared.draw(images_N, masks_of, ks):
                log_probs_K_N_C = log_probs_of(predictions, self.output)
                if few is not None:
                    self._hold_few(few, log_probs_K_N_C[0])
                    few = None
                take(log_probs_K_N_C)

    def _hold_few(self, few: Few, traced_N_C: Tensor) -> None:
        try:
            few.compare(traced_N_C)
        except TraceError:
            self.traced = False
            self._traces.clear()
            raise

    def _run_few(
        self, prepared: TrunkOnce, k: int, images_N: Tensor, ids: Sequence[str] | None
    ) -> Few:
        """Run the model itself on a few images of a mini-batch."""
        places = spread(len(images_N))
        few_ids = None if ids is None else [ids[i] for i in places]
        with self._evaluation():
            output_N_C = self._run_whole(k, images_N[places], few_ids)
        return Few(
            [f"image {place} of a mini-batch" for place in places]
            if few_ids is None
            else [f"image {image_id!r}" for image_id in few_ids],
            places,
            log_probs_of(output_N_C, self.output),
            rounding_of(output_N_C, in_16_bits=prepared.in_16_bits),
        )

    def _notice_changes(self) -> None:
        """Forget the findings about the model if it has changed since."""
        if self.frozen and self._changes.seen:
            return
        check_tensors(self.model)
        change = self._changes.notice(tensors=not self.frozen)
        if change != "nothing":
            self._sites.clear()
        if change == "structure":
            self._traces.clear()
        elif change == "numbers":
            self._traces.weights_have_changed()

    def _key(self, images_N: Tensor, samples: int) -> tuple[Any, ...]:
        """Return everything that a trace depends on, but the model."""
        device = images_N.device.type
        return (
            images_N.shape,
            images_N.dtype,
            images_N.device,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            *(samples, self.seed, self.masks, self.output, self.stochastic_depth),
        )

    def _prepare(
        self, images_N: Tensor, ids: Sequence[str] | None, samples: int
    ) -> TrunkOnce | None:
        """Return the fast way to draw `samples` samples, or None if the model must run whole."""
        if not self.traced:
            return None
        return self._traces.of(
            self._key(images_N, samples),
            make=lambda: self._trace(images_N, ids, samples),
            still_right=lambda trace: self._still_right(trace, images_N, ids),
        )

    def _still_right(
        self, prepared: TrunkOnce, images_N: Tensor, ids: Sequence[str] | None
    ) -> bool:
        """Compute the weights of a trace again, and return whether it agrees with the model."""
        try:
            prepared.refresh()
            first_N_C = self._run_whole(0, images_N, ids)
            self._hold_against_model(prepared, images_N, ids, first_N_C)
        except PosteriorError:
            return False
        return True

    # Tracing would refuse tensors that are made in the caller's inference mode.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _trace(
        self, images_N: Tensor, ids: Sequence[str] | None, samples: int
    ) -> TrunkOnce | None:
        # A model that caches tensors by shape fills its cache in this run, not in the trace.
        first_N_C = self._run_whole(0, images_N, ids)
        # Convolutions run faster on channels last.
        layouts = [torch.channels_last] if images_N.ndim == 4 else []
        for layout in (*layouts, torch.contiguous_format):
            try:
                with unchanged(self.model, images_N.device):
                    prepared = TrunkOnce(
                        self.model,
                        images_N,
                        layout,
                        self._sites[self._kind_of(images_N)],
                        samples,
                        output=self.output,
                        shared=self.masks == "shared",
                        frozen=self.frozen,
                    )
                self._hold_against_model(prepared, images_N, ids, first_N_C)
            except Exception as error:  # a model's code may raise any error when traced
                if is_out_of_memory(error):
                    raise
                reason = error
            else:
                if not self.frozen:
                    self._changes.watch(prepared.sources)
                return prepared
        if not self._warned:
            _warn(samples, reason)
            self._warned = True
        return None

    def _run_whole(self, k: int, images_N: Tensor, ids: Sequence[str] | None) -> Tensor:
        """Return the output of the model itself for one sample, and leave the model unchanged."""
        with unchanged(self.model, images_N.device):
            return self._predict_under(self._masks_of(images_N, ids)((k,)), images_N)

    def _hold_against_model(
        self,
        prepared: TrunkOnce,
        images_N: Tensor,
        ids: Sequence[str] | None,
        first_N_C: Tensor,
    ) -> None:
        """Draw samples the fast way, twice, and compare them with the model itself.

        Of the samples drawn together, the first is compared on every image, the last on a few.

        Raises:
            PosteriorError: If they differ.
        """
        masks_of, ks = self._masks_of(images_N, ids), range(prepared.together)
        few = spread(len(images_N))
        few_ids = None if ids is None else [ids[i] for i in few]
        last_N_C = self._run_whole(ks[-1], images_N[few], few_ids)
        plain_N_C = log_probs_of(torch.cat([first_N_C, last_N_C]), self.output)
        rounding = rounding_of(first_N_C, in_16_bits=prepared.in_16_bits)
        for _ in range(2):
            with torch.autocast(images_N.device.type, enabled=False):
                fast = torch.cat(list(prepared.draw(images_N, masks_of, ks)))
            fast_N_C = log_probs_of(torch.cat([fast[0], fast[-1, few]]), self.output)
            compare(fast_N_C, plain_N_C, rounding)


def _check_choice(name: str, value: object, right: bool, rule: str) -> None:
    if not right:
        raise PosteriorError(f"{name} is {value!r}; it must be {rule}")


def _warn(samples: int, reason: Exception) -> None:
    lines = str(reason).strip().splitlines() or ["no reason given"]
    if "INTERNAL ASSERT" in lines[0]:  # which asks to report a bug to PyTorch
        lines = ["PyTorch cannot trace one of its operations"]
    warnings.warn(
        f"the model cannot be traced, so it runs whole for each of the {samples} posterior "
        f"samples: {samples} forward passes per image, although only the part after the first "
        f"dropout has to be repeated. {type(reason).__name__}: {lines[0]}",
        RuntimeWarning,
        stacklevel=2,
    )
