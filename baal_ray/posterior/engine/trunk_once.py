"""Draw K posterior samples with one run of the trunk and K of the tail, in few large passes."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from baal_ray.posterior.dropout.masks import Masks
from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis, find_axis
from baal_ray.posterior.dropout.row_order import find_orders
from baal_ray.posterior.dropout.sites import Site
from baal_ray.posterior.engine.cuda_graph import Recording
from baal_ray.posterior.engine.finish import finish
from baal_ray.posterior.engine.pass_memory import pass_budget, peak_bytes
from baal_ray.posterior.engine.postpone_dropout import postpone_dropout
from baal_ray.posterior.engine.simplify import simplify
from baal_ray.posterior.engine.thinning import ThinnedTail
from baal_ray.posterior.engine.tracing import (
    Cut,
    Part,
    attributes_of,
    computes_in_16_bits,
    cut,
    forget_shapes,
    trace,
)
from baal_ray.posterior.memory import budget
from baal_ray.posterior.outputs import Output

logger = logging.getLogger(__name__)

# Number of draws after which a GPU's work is recorded, so that it is not done for a single
# mini-batch: two hold the trace against the model, one is the first mini-batch.
_UNRECORDED = 3

# Number of thinned samples whose predictions are stacked before they are passed on, because each
# piece that is passed on costs the same, whatever its size.
_THINNED_TOGETHER = 20


class TrunkOnce:
    """A model traced and cut for mini-batches of one shape.

    Its tail runs for as many samples at once as memory allows, or thinned, one sample at a time.

    Attributes:
        together: Number of samples that are drawn and passed on together.
        in_16_bits: Whether it computes in bfloat16 or float16, at least in part.
        sites: The model's dropouts.
        sources: Tensors that the trace reads besides its inputs, the model's own and others.
    """

    _draws = 0  # since the recording was forgotten, if there was one
    _recorded: tuple[Recording, Recording] | None = None

    def __init__(
        self,
        model: nn.Module,
        images_N: Tensor,
        layout: torch.memory_format,
        sites: Sequence[Site],
        samples: int,
        *,
        output: Output,
        shared: bool,
        frozen: bool,
    ) -> None:
        """Trace the model.

        Args:
            model: The model, in evaluation mode.
            images_N: A mini-batch.
            layout: Memory layout of images.
            sites: The model's dropouts.
            samples: Number of samples to draw for such a mini-batch.
            output: The place of the predictions, if the model returns an object.
            shared: Whether all images have the same masks.
            frozen: Whether the model's tensors stay where they are and as they are.

        Raises:
            Exception: If the model cannot be traced. It may be of any type.
        """
        self.sites = sites
        self._layout = layout
        self._device = images_N.device
        self._thinned: ThinnedTail | None = None
        self.together = 1
        self.sources: list[Tensor] = []

        def traced(samples: int) -> Cut:
            graph = trace(model, images_N, layout, sites, samples, not shared, output)
            self.sources += attributes_of(graph)
            self.in_16_bits = computes_in_16_bits(graph)
            simplify(graph, layout)
            postpone_dropout(graph)
            return cut(graph)

        one = traced(1)
        self._trunk, self._tail = one.trunk, one.tail
        self._axes: Sequence[MiniBatchAxis | None] = [None] * len(one.trunk.results)
        # A GPU is faster with all samples in a few large passes than with many small networks.
        if shared and images_N.device.type == "cpu":
            thinned = ThinnedTail(one.tail, len(sites), budget(images_N.device))
            if thinned.worthwhile:
                self._thinned = thinned
                self.together = min(samples, _THINNED_TOGETHER)
        if self._thinned is None and all(site.axis for site in sites):
            most = pass_budget(images_N.device) // max(1, _bytes_a_sample(one))
            self.together = _split_evenly(samples, most)
        if self._thinned is None and self.together > 1:
            several = traced(self.together)
            self._axes = self._find_axes(images_N, several.trunk)
            self._tail = several.tail
        for part in (self._trunk, self._tail):
            finish(part.module)
            forget_shapes(part.constants)
        self._to_record = frozen and self._device.type == "cuda" and self._thinned is None
        self.refresh()

    def draw(
        self, images_N: Tensor, masks_of: Callable[[Sequence[int]], Masks], ks: Sequence[int]
    ) -> Iterator[Tensor]:
        """Yield the model's output, [K', N, …] at a time, for the samples numbered `ks`."""
        images_N = images_N.contiguous(memory_format=self._layout)
        pieces = [
            tuple(ks[start : start + self.together]) for start in range(0, len(ks), self.together)
        ]
        if self._thinned is not None:
            trunk = self._run_trunk(images_N)
            for piece in pieces:
                yield torch.stack([self._draw_one(k, trunk, masks_of((k,))) for k in piece])
            return
        masks_of_pieces = (
            self._masks(masks_of(piece + piece[-1:] * (self.together - len(piece))))
            for piece in pieces
        )
        drawn = self._draw_together(images_N, masks_of_pieces)
        for piece, predictions in zip(pieces, drawn, strict=True):
            yield predictions.view(self.together, -1, *predictions.shape[1:])[: len(piece)]

    def _draw_together(
        self, images_N: Tensor, masks_of_pieces: Iterable[list[Tensor]]
    ) -> Iterator[Tensor]:
        """Yield predictions [K'·N, …] for each piece's masks."""
        self._draws += 1
        tiled: Sequence[Tensor] | None = None
        for masks in masks_of_pieces:
            if tiled is None and self._to_record and self._draws > _UNRECORDED:
                self._record(images_N, masks)
            if self._recorded:
                of_images, of_masks = self._recorded
                if tiled is None:
                    tiled = of_images(images_N)
                (predictions,) = of_masks(*masks)
                yield predictions.clone()
            else:
                if tiled is None:
                    tiled = self._tiled_trunk(images_N)
                (predictions,) = self._tail.module(*tiled, *self._tail_constants, *masks)
                yield predictions

    def _record(self, images_N: Tensor, masks: Sequence[Tensor]) -> None:
        """Record the work for images, and the work for masks that follows it."""
        self._to_record = False
        try:
            with torch.inference_mode(False), torch.no_grad():
                of_images = Recording(self._tiled_trunk, [images_N])

                def tail(*masks: Tensor) -> Sequence[Tensor]:
                    of_masks: Sequence[Tensor] = self._tail.module(
                        *of_images.results, *self._tail_constants, *masks
                    )
                    return of_masks

                self._recorded = of_images, Recording(tail, masks, of_images.pool)
        except RuntimeError as error:  # its kernels are launched one by one, as before
            logger.info("the work for a mini-batch cannot be recorded as a CUDA graph: %s", error)

    def forget_recording(self) -> None:
        """Free the memory that a recording keeps; the work is recorded again if it goes on."""
        if self._recorded is not None:
            self._recorded, self._to_record, self._draws = None, True, 0

    def _tiled_trunk(self, images_N: Tensor) -> list[Tensor]:
        return [
            axis.tile(x, self.together) if axis else x
            for x, axis in zip(self._run_trunk(images_N), self._axes, strict=True)
        ]

    def _draw_one(self, k: int, trunk: Sequence[Tensor], masks: Masks) -> Tensor:
        """Return the output of one sample [N, …], thinned if there is room for its weights."""
        constants, keep = self._tail_constants, self._masks(masks)
        thinned = self._thinned(k, trunk, constants, keep) if self._thinned else None
        if thinned is not None:
            return thinned
        (predictions,) = self._tail.module(*trunk, *constants, *keep)
        whole: Tensor = predictions
        return whole

    def _run_trunk(self, images_N: Tensor) -> list[Tensor]:
        trunk: list[Tensor] = self._trunk.module(images_N, *self._trunk_constants)
        return trunk

    def _masks(self, masks: Masks) -> list[Tensor]:
        return [
            masks.keep(i, site.mask_shape, site.p, self._device)
            for i, site in enumerate(self.sites)
        ]

    def refresh(self) -> None:
        """Compute the tensors that depend on the weights alone, after the weights have changed."""
        self._trunk_constants = _constants(self._trunk)
        self._tail_constants = _constants(self._tail)
        if self._thinned is not None:
            self._thinned.forget()

    def _find_axes(self, images_N: Tensor, several: Part) -> list[MiniBatchAxis | None]:
        """Find the mini-batch axis of each of the trunk's results."""
        images = len(images_N)
        axes = [
            find_axis(one.shape, images, more.shape, images * self.together)
            for one, more in zip(self._trunk.results, several.results, strict=True)
        ]
        self._trunk_constants = _constants(self._trunk)
        return find_orders(axes, self._run_trunk, images_N)


def _constants(part: Part) -> list[Tensor]:
    return [constant.detach() for constant in part.constants()]


def _bytes_a_sample(parts: Cut) -> int:
    return peak_bytes(parts.tail.module) + sum(result.nbytes for result in parts.trunk.results)


def _split_evenly(samples: int, most: int) -> int:
    """Return the number of samples per pass, up to `most`, that makes passes about equal."""
    passes = -(-samples // max(1, min(samples, most)))
    return -(-samples // passes)
