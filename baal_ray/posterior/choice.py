"""Choose between the traced model, where it agrees with the model itself, and the model itself."""

import warnings
from typing import Any

import torch

from baal_ray.errors import PosteriorError
from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.memory import is_out_of_memory
from baal_ray.posterior.mini_batch import MiniBatch
from baal_ray.posterior.model_changes import unchanged
from baal_ray.posterior.preparations import Preparations
from baal_ray.posterior.samples import Samples
from baal_ray.posterior.trace_checks import hold_against_model, run_whole


def key_of(samples: Samples, batch: MiniBatch, count: int) -> tuple[Any, ...]:
    """Return everything that a trace for `count` samples depends on, except the model."""
    images_N = batch.images_N
    device = images_N.device.type
    return (
        images_N.shape,
        images_N.dtype,
        images_N.device,
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        count,
        *samples.settings,
    )


class Choice:
    """The choice between the traced model and the model itself.

    If a model cannot be traced, a warning says so once.
    """

    def __init__(self) -> None:
        self._warned = False

    def trace(
        self, samples: Samples, kept: Preparations, batch: MiniBatch, count: int
    ) -> TrunkOnce | None:
        """Return the trace to draw `count` samples by, or None if the model must run whole.

        Args:
            samples: The samples of a posterior.
            kept: What is kept about its model, which has noticed changes up to now.
            batch: A mini-batch.
            count: Number of samples to draw.
        """
        key = key_of(samples, batch, count)
        if last := kept.traces.last(key):
            return last
        with samples.evaluation():
            return kept.traces.of(
                key,
                make=lambda: self._make(samples, kept, batch, count),
                still_right=lambda trace: _still_right(samples, trace, batch),
            )

    # Tracing would refuse tensors that are made in the caller's inference mode.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _make(
        self, samples: Samples, kept: Preparations, batch: MiniBatch, count: int
    ) -> TrunkOnce | None:
        # A model that caches tensors by shape fills its cache in this run, not in the trace.
        first_N_C = run_whole(samples, 0, batch)
        # Convolutions run faster on channels last.
        layouts = [torch.channels_last] if batch.images_N.ndim == 4 else []
        for layout in (*layouts, torch.contiguous_format):
            try:
                with unchanged(samples.model, batch.images_N.device):
                    trace = samples.trace(batch, layout, count)
                hold_against_model(samples, trace, batch, first_N_C)
            except Exception as error:  # a model's code may raise any error when traced
                if is_out_of_memory(error):
                    raise
                reason = error
            else:
                kept.watch(trace.sources)
                return trace
        if not self._warned:
            _warn(count, reason)
            self._warned = True
        return None


def _still_right(samples: Samples, trace: TrunkOnce, batch: MiniBatch) -> bool:
    """Compute the weights of a trace again, and return whether it agrees with the model."""
    try:
        trace.refresh()
        hold_against_model(samples, trace, batch, run_whole(samples, 0, batch))
    except PosteriorError:
        return False
    return True


def _warn(count: int, reason: Exception) -> None:
    lines = str(reason).strip().splitlines() or ["no reason given"]
    if "INTERNAL ASSERT" in lines[0]:  # which asks to report a bug to PyTorch
        lines = ["PyTorch cannot trace one of its operations"]
    warnings.warn(
        f"the model cannot be traced, so it runs whole for each of the {count} posterior "
        f"samples: {count} forward passes per image, although only the part after the first "
        f"dropout has to be repeated. {type(reason).__name__}: {lines[0]}",
        RuntimeWarning,
        stacklevel=2,
    )
