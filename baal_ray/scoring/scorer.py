"""The actor that holds a fitted model and scores mini-batches of images."""

import logging
import math
import threading
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.checkpoint import load_checkpoint
from baal_ray.config import ScoringConfig
from baal_ray.errors import ResourceError
from baal_ray.pool.decoding import columns_with
from baal_ray.posterior import MCDropout
from baal_ray.posterior.head_inputs import features
from baal_ray.posterior.memory import is_out_of_memory
from baal_ray.scoring.gpu_decoding import DeviceDecoder
from baal_ray.scoring.kept_samples import FirstSamples, KeptLogProbs, LogProbs
from baal_ray.scoring.metrics import DeviceTime, ScoringMetrics
from baal_ray.workspace.schema import (
    SCORE_COLUMNS,
    SCORES,
    SMALL_IS_INFORMATIVE,
    STABILITY_COLUMNS,
)

logger = logging.getLogger(__name__)

# Of each mini-batch this many times the share that the next stage will draw on keep their
# log-probabilities, as promising images are not spread evenly.
_KEPT_SHARES = 3

# Images at once when the device has no memory for more; one alone runs as two in `MCDropout`.
_FEWEST = 2

Columns = Mapping[str, npt.NDArray[Any]]


class PoolScorer:
    """Holds a fitted model and gives each mini-batch of images its rows of scores.

    It may be called by several threads at once. The model takes one mini-batch after the other;
    while a GPU works on one, the next is made ready and put in its queue.
    """

    def __init__(
        self,
        checkpoint: str,
        config: ScoringConfig,
        seed: int,
        on_gpu: bool,
        keep_by: str | None = None,
        first: KeptLogProbs | None = None,
    ) -> None:
        """Load and check the model, on the GPU that Ray has given this actor, if any."""
        loaded = load_checkpoint(checkpoint)
        self._config = config
        self._keep_by = keep_by
        self._image_size = loaded.config.image_size
        self._at_once = config.mini_batch
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._precision = getattr(torch, config.precision)
        classifier = loaded.classifier.to(self._device).requires_grad_(False)

        def posterior(samples: int) -> MCDropout:
            return MCDropout(
                classifier,
                samples,
                seed,
                config.masks,
                loaded.config.output,
                stochastic_depth=config.stochastic_depth,
                frozen=True,
            )

        self._posterior = posterior(config.samples)
        self._first = FirstSamples(first, posterior(first.samples)) if first else None
        self._turn = threading.Lock()
        self._decode = (
            DeviceDecoder(self._device, *self._image_size, max_pixels=config.max_pixels)
            if config.decode_on == "gpu"
            else None
        )
        self._check_posterior(seed)
        self._metrics = ScoringMetrics(
            loaded.sha256, self._device
        )  # last, as its clock runs from here

    def _check_posterior(self, seed: int) -> None:
        noise_N = torch.randint(
            *(0, 256, (_FEWEST, 3, *self._image_size)),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(seed),
        )
        try:
            self._posterior.check(noise_N.to(self._device))
        except Exception as error:
            if is_out_of_memory(error):
                raise self._no_memory(error) from error
            raise

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        """Score at most one mini-batch.

        Args:
            rows: `id`, `source`, `image` (uint8 [N, 3, H, W]) and `error` ("" for none); or a
                table with `id` and encoded images, which are decoded on the actor's device.

        Returns:
            N rows of `schema.SCORES`.
        """
        columns = self._decoded(rows)
        scores = self._table(columns, *self._predict(columns))
        self._metrics.count(len(scores), len(scores) - scores["error"].null_count)
        return scores

    def seconds_of(self, images: int) -> float | None:
        """How long so many images take at once, the median of three times; None for no memory."""
        shape = (images, 3, *self._image_size)
        images_N = torch.randint(0, 256, shape, dtype=torch.uint8)
        ids = [str(number) for number in range(images)]
        times = []
        try:
            for _ in range(4):  # the first one prepares
                begun = time.perf_counter()
                columns, _ = self._predict_at_once(images_N, ids)
                columns["bald"].cpu()
                times.append(time.perf_counter() - begun)
        except Exception as error:
            if is_out_of_memory(error):
                return None
            raise
        return median(times[1:])

    def _decoded(self, rows: Columns | pa.Table) -> Mapping[str, Any]:
        if not isinstance(rows, pa.Table):
            return rows
        assert self._decode is not None
        return columns_with(rows, self._decode)

    def _predict(self, rows: Mapping[str, Any]) -> tuple[Columns, LogProbs | None]:
        """The score columns of decoded images; if some are kept, log-probabilities [N, K, C] too.

        They are copied from a GPU in its queue, and read when it is done.
        """
        ids = list(rows["id"])
        images_N = self._padded(rows["image"])
        with self._turn, DeviceTime(self._device) as work:
            columns, log_probs_N_K_C = self._predict_padded(images_N, ids)
            # One transfer for all columns.
            together = torch.stack([column.float() for column in columns.values()])
            together = together.to("cpu", non_blocking=True)
            if log_probs_N_K_C is not None:
                log_probs_N_K_C = log_probs_N_K_C.float().to("cpu", non_blocking=True)
        self._metrics.worked(work.seconds())
        statistics = dict(zip(columns, together.numpy()[:, : len(ids)], strict=True))
        if log_probs_N_K_C is None:
            return statistics, None
        return statistics, log_probs_N_K_C.numpy()[: len(ids)]

    def _padded(self, images_N: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """A mini-batch of its fixed size, so that scores are the same bit for bit."""
        shape = (self._config.mini_batch, *images_N.shape[1:])
        if isinstance(images_N, Tensor):
            padded_N = torch.zeros(shape, dtype=torch.uint8, device=images_N.device)
            padded_N[: len(images_N)] = images_N
        else:
            # Pinned, so that a GPU need not be waited for while it is copied there.
            pinned = self._device.type == "cuda"
            padded_N = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            padded_N.numpy()[: len(images_N)] = images_N
            padded_N[len(images_N) :] = 0
        return padded_N

    def _table(
        self, rows: Mapping[str, Any], statistics: Columns, log_probs_N_K_C: LogProbs | None
    ) -> pa.Table:
        scores = np.stack([statistics[name] for name in SCORE_COLUMNS])
        errors = np.where(
            rows["error"] != "",
            rows["error"],
            np.where(np.isfinite(scores).all(axis=0), "", "the model's output is not finite"),
        )
        failed = errors != ""
        return pa.table(
            {
                "id": rows["id"],
                "source": rows["source"],
                "samples": pa.array(np.full(len(errors), self._config.samples, np.int32)),
                **{
                    name: pa.array(
                        statistics[name],
                        pa.float32(),
                        mask=failed | ~np.isfinite(statistics[name]),
                    )
                    for name in (*SCORE_COLUMNS, *STABILITY_COLUMNS)
                },
                "predicted": pa.array(statistics["predicted"].astype(np.int32), mask=failed),
                "error": pa.array(errors, pa.string(), mask=~failed),
                "log_probs": self._kept(statistics, failed, log_probs_N_K_C),
            }
        ).cast(SCORES)

    def _predict_padded(
        self, images_N: Tensor, ids: list[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The score columns of a mini-batch; its log-probabilities too, if some are kept.

        It is parted where the device has no room for so many images at once.
        """
        padded_ids = [*ids, *[""] * (len(images_N) - len(ids))]
        while True:
            size = self._at_once
            try:
                parts = [
                    self._predict_at_once(
                        images_N[start : start + size], padded_ids[start:][:size]
                    )
                    for start in range(0, len(images_N), size)
                ]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            else:
                return _joined(parts)

    def _predict_at_once(
        self, images_N: Tensor, ids: list[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        images_N = images_N.to(self._device, non_blocking=True)
        with self._autocast():
            first_N_K_C = None
            if self._first:
                first_N_K_C = self._first(images_N, ids, sum(map(bool, ids)))
            if self._keep_by is None:
                predictions = self._posterior.predict(images_N, ids, first_N_K_C=first_N_K_C)
                return predictions.columns(), None
            log_probs_N_K_C = self._posterior.log_probs(images_N, ids, first_N_K_C=first_N_K_C)
            return PredictiveStatistics.of(log_probs_N_K_C).columns(), log_probs_N_K_C

    def _halve(self, error: Exception) -> None:
        """From now on, half as many images at once.

        Raises:
            ResourceError: they are few enough already.
        """
        if self._at_once <= _FEWEST:
            raise self._no_memory(error) from error
        self._at_once //= 2
        logger.warning(
            "the %s has no memory for %d images at once: %d from now on. Set scoring.batch_size "
            "to that for the next round, and no time is lost on trying",
            self._device.type,
            2 * self._at_once,
            self._at_once,
        )

    def _no_memory(self, error: Exception) -> ResourceError:
        return ResourceError(
            f"the {self._device.type} has no memory to score {_FEWEST} images at once: {error}. "
            "Score on a larger device, with scoring.precision bfloat16 or with a smaller model"
        )

    def _kept(
        self,
        statistics: Columns,
        failed: npt.NDArray[np.bool_],
        log_probs_N_K_C: LogProbs | None,
    ) -> pa.Array:
        """The log-probabilities of promising images as bytes, null for the others."""
        kept: list[bytes | None] = [None] * len(failed)
        if log_probs_N_K_C is not None and self._keep_by is not None:
            score = statistics[self._keep_by]
            information = -score if self._keep_by in SMALL_IS_INFORMATIVE else score
            order = np.argsort(np.where(failed, np.inf, -information), kind="stable")
            promising = order[: math.ceil(kept_share(self._config) * len(failed))]
            promising = promising[~failed[promising]]
            for row in promising:
                kept[row] = log_probs_N_K_C[row].tobytes()
        return pa.array(kept, pa.binary())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, self._precision, enabled=self._precision != torch.float32
        )


class PoolPredictor(PoolScorer):
    """Holds a fitted model and gives each mini-batch the predictions of its posterior samples."""

    def __init__(self, checkpoint: str, config: ScoringConfig, seed: int, on_gpu: bool) -> None:
        super().__init__(checkpoint, config, seed, on_gpu, keep_by="bald")

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        """`id` and `log_probs` (float32 [K, C] as bytes) of the images that can be predicted."""
        rows = self._decoded(rows)
        _, log_probs_N_K_C = self._predict(rows)
        assert log_probs_N_K_C is not None
        good = (rows["error"] == "") & ~np.isnan(log_probs_N_K_C).any(axis=(1, 2))
        return pa.table(
            {
                "id": pa.array(rows["id"][good], pa.string()),
                "log_probs": pa.array([of.tobytes() for of in log_probs_N_K_C[good]], pa.binary()),
            }
        )


class PoolFeatures(PoolScorer):
    """Holds a fitted model and gives each mini-batch its features."""

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        """`id` and `features` (float32 [D] as bytes) of the images that can be decoded."""
        rows = self._decoded(rows)
        good = rows["error"] == ""
        with self._turn, self._autocast():
            images_N = torch.as_tensor(rows["image"][good]).to(self._device)
            parts = [
                features(self._posterior.model, some_N, self._posterior.output).cpu().numpy()
                for some_N in torch.split(images_N, self._at_once)
                if len(some_N)
            ]
        found = [of.tobytes() for part_N_D in parts for of in part_N_D]
        return pa.table(
            {
                "id": pa.array(rows["id"][good], pa.string()),
                "features": pa.array(found, pa.binary()),
            }
        )


def _joined(
    parts: list[tuple[dict[str, Tensor], Tensor | None]],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The parts of a mini-batch put together."""
    columns = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
    kept = [log_probs_N_K_C for _, log_probs_N_K_C in parts if log_probs_N_K_C is not None]
    return columns, torch.cat(kept) if kept else None


def kept_share(config: ScoringConfig) -> float:
    """Of a mini-batch's images, those that keep their log-probabilities for a further stage."""
    return min(1.0, _KEPT_SHARES * config.further_stages[0].share)
