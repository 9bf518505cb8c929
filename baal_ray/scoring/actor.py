"""The actor that holds a fitted model, and runs mini-batches through it in the memory it has."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from baal_ray.checkpoint import load_checkpoint
from baal_ray.deaths import SUSPICIOUS, Starts, deaths, killed, refuse_more_deaths, search
from baal_ray.errors import ResourceError, TraceError
from baal_ray.pool.decoding_task import columns_with, without
from baal_ray.posterior import MCDropout
from baal_ray.posterior.memory import is_out_of_memory
from baal_ray.scoring.gpu_decoding import DeviceDecoder
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.trace_fault import record_trace_fault

logger = logging.getLogger(__name__)

# Fewest images at once. `MCDropout` runs a single image as two.
_FEWEST = 2

Columns = Mapping[str, npt.NDArray[Any]]
Part = TypeVar("Part")


class ModelActor:
    """An actor with a fitted model on its device, which prepares mini-batches for it.

    Several threads may call an actor at once. The model runs one mini-batch after another. While
    a GPU works on one, the next is prepared and put into its queue.
    """

    def __init__(self, job: ScoringJob) -> None:
        """Load the model, onto the GPU that Ray has given this actor, if any.

        Raises:
            ResourceError: If this actor has died in each of its last few starts.
        """
        self._starts = Starts()
        loaded = load_checkpoint(job.checkpoint, model=job.model)
        self._job, self._config = job, job.config
        self._sha256 = loaded.sha256
        self._image_size, self._output = loaded.config.image_size, loaded.config.output
        self._device = torch.device("cuda" if job.on_gpu else "cpu")
        self._precision = getattr(torch, job.config.precision)
        self._classifier = loaded.classifier.to(self._device).requires_grad_(False)
        self._turn = threading.Lock()
        self._at_once = job.config.mini_batch
        self._decode = (
            DeviceDecoder(self._device, *self._image_size, max_pixels=job.config.max_pixels)
            if job.config.decode_on == "gpu"
            else None
        )

    def _posterior(self, samples: int) -> MCDropout:
        return MCDropout(
            self._classifier,
            samples,
            self._job.mask_seed,
            self._config.masks,
            self._output,
            stochastic_depth=self._config.stochastic_depth,
            frozen=True,
            traced=self._job.traced,
        )

    def _check(self, posterior: MCDropout) -> None:
        """Refuse a model that cannot be sampled, by running it on noise."""
        noise_N = torch.randint(
            *(0, 256, (_FEWEST, 3, *self._image_size)),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(self._job.mask_seed),
        )
        try:
            posterior.check(noise_N.to(self._device))
        except Exception as error:
            if is_out_of_memory(error):
                raise self._no_memory(error) from error
            raise

    def _decoded(self, rows: Columns | pa.Table) -> Mapping[str, Any]:
        self._starts.succeeded()
        if deaths() >= SUSPICIOUS:
            rows = self._spared(rows)
        if not isinstance(rows, pa.Table):
            return rows
        assert self._decode is not None
        return columns_with(rows, *self._decode(rows))

    def _spared(self, rows: Columns | pa.Table) -> Columns | pa.Table:
        """Return a mini-batch without the images on which this actor dies.

        If none does it alone, the device or node has no room for all of them at once.

        Raises:
            ResourceError: If the actor has died too often on this mini-batch.
        """
        ids = list(map(str, rows["id"]))
        refuse_more_deaths(f"images such as {ids[0]!r}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        found = search(
            len(ids),
            partial(Rehearsal, self._job),
            lambda group: (_part(rows, group), min(self._at_once, max(_FEWEST, len(group)))),
        )
        if not found.killers and found.fewest < min(self._at_once, len(ids)):
            self._run_at_once(max(_FEWEST, found.fewest))
        if isinstance(rows, pa.Table):
            return without(rows, found.killers)
        spared = {name: values.copy() for name, values in rows.items()}
        for row, count in found.killers.items():
            spared["image"][row], spared["error"][row] = 0, killed(count)
        return spared

    def _padded(self, images_N: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Pad a mini-batch to its fixed size, so that scores are the same bit for bit."""
        shape = (self._config.mini_batch, *images_N.shape[1:])
        if isinstance(images_N, Tensor):
            padded_N = torch.zeros(shape, dtype=torch.uint8, device=images_N.device)
            padded_N[: len(images_N)] = images_N
        else:
            # Pinned, so that the copy to a GPU need not be waited for.
            pinned = self._device.type == "cuda"
            padded_N = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            padded_N.numpy()[: len(images_N)] = images_N
            padded_N[len(images_N) :] = 0
        return padded_N

    def _in_parts(
        self, images_N: Tensor, ids: list[str], run: Callable[[Tensor, list[str]], Part]
    ) -> list[Part]:
        """Run a mini-batch through the model, in parts if the device has no room for all of it.

        Args:
            images_N: Images, uint8 [N, 3, H, W], padded or not.
            ids: Ids of the images; fewer than N if some are padding.
            run: Function of some images on the device and their ids, "" for padding.

        Raises:
            ResourceError: If the device has no room for the fewest images.
            TraceError: If the traced model is found to be wrong. That is recorded.
        """
        padded_ids = [*ids, *[""] * (len(images_N) - len(ids))]
        while True:
            size = self._at_once
            try:
                with self._autocast():
                    return [
                        run(some_N.to(self._device, non_blocking=True), padded_ids[start:][:size])
                        for start in range(0, len(images_N), size)
                        for some_N in [images_N[start : start + size]]
                    ]
            except TraceError as error:
                record_trace_fault(self._job.checkpoint, error)
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)

    def _halve(self, error: Exception) -> None:
        """Run half as many images at once from now on.

        Raises:
            ResourceError: If that would be too few.
        """
        if self._at_once <= _FEWEST:
            raise self._no_memory(error) from error
        self._run_at_once(self._at_once // 2)

    def _run_at_once(self, images: int) -> None:
        logger.warning(
            "the %s does not have enough memory for %d images at once, so it now runs %d at a "
            "time. Set scoring.batch_size to that for the next round, so that no time is lost on "
            "larger ones",
            self._device.type,
            self._at_once,
            images,
        )
        self._at_once = images

    def _no_memory(self, error: Exception) -> ResourceError:
        return ResourceError(
            f"the {self._device.type} does not have enough memory to score {_FEWEST} images at "
            f"once: {error}. Use a larger device, scoring.precision bfloat16, or a smaller model"
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, self._precision, enabled=self._precision != torch.float32
        )


class Rehearsal(ModelActor):
    """The work on mini-batches in a process that may die of it, with nothing to return."""

    def __init__(self, job: ScoringJob) -> None:
        """Load the model."""
        super().__init__(job)
        self._samples = self._posterior(job.config.samples)

    def __call__(self, rows: Columns | pa.Table, at_once: int) -> None:
        """Decode images and draw their samples, some at once."""
        self._at_once = at_once
        images_N = self._decoded(rows)["image"] if len(rows["id"]) else self._no_images()
        self._in_parts(self._padded(images_N), list(rows["id"]), self._samples.log_probs)

    def _no_images(self) -> npt.NDArray[np.uint8]:
        return np.empty((0, 3, *self._image_size), np.uint8)


def _part(rows: Columns | pa.Table, group: Sequence[int]) -> Columns | pa.Table:
    if isinstance(rows, pa.Table):
        return rows.take(pa.array(group, pa.int64()))
    return {name: values[list(group)] for name, values in rows.items()}
