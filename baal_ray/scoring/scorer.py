"""The actor that scores mini-batches of images."""

import math
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
from baal_ray.config import ScoringConfig
from baal_ray.posterior.memory import is_out_of_memory
from baal_ray.score_names import SCORE_COLUMNS, SMALL_IS_INFORMATIVE, STABILITY_COLUMNS
from baal_ray.scoring.actor import Columns, ModelActor
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.kept_samples import FirstSamples, KeptLogProbs, LogProbs
from baal_ray.scoring.prometheus import DeviceTime, ScoringMetrics
from baal_ray.workspace.table_schemas import SCORES

#: The `error` of an image for which the model returns NaN or infinity.
NOT_FINITE = (
    "the model's output is not finite. If scoring.precision is not float32, set it to that. "
    "Otherwise lower training.learning_rate, and fit again"
)

# In each mini-batch, log-probabilities are kept for this many times the share of images that the
# next stage takes, because promising images are not spread evenly.
_KEPT_SHARES = 3


class PoolScorer(ModelActor):
    """An actor that scores mini-batches of images."""

    def __init__(
        self, job: ScoringJob, keep_by: str | None = None, first: KeptLogProbs | None = None
    ) -> None:
        """Load and check the model.

        Args:
            job: Model and settings of the scores.
            keep_by: Score column that decides which images keep their log-probabilities.
            first: Log-probabilities of the first samples, so that only the others are drawn.
        """
        super().__init__(job)
        self._keep_by = keep_by
        self._samples = self._posterior(job.config.samples)
        self._first = FirstSamples(first, self._posterior(first.samples)) if first else None
        self._check(self._samples)
        # Last, because its clock starts here.
        self._metrics = ScoringMetrics(self._sha256, self._device)

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        """Score at most one mini-batch.

        Args:
            rows: `id`, `source`, `image` (uint8 [N, 3, H, W]) and `error` ("" for none), or a
                table with `id` and encoded images, which are decoded on the actor's device.

        Returns:
            N rows of `table_schemas.SCORES`.
        """
        columns = self._decoded(rows)
        scores = self._table(columns, *self._predict(columns))
        self._metrics.count(len(scores), len(scores) - scores["error"].null_count)
        return scores

    def seconds_of(self, images: int) -> float | None:
        """Return the seconds that a number of images take at once; None if there is no memory.

        This is the median of three runs, after one to warm up.
        """
        shape = (images, 3, *self._image_size)
        images_N = torch.randint(0, 256, shape, dtype=torch.uint8)
        ids = [str(number) for number in range(images)]
        times = []
        try:
            for _ in range(4):
                begun = time.perf_counter()
                with self._autocast():
                    columns, _ = self._predict_at_once(images_N.to(self._device), ids)
                columns["bald"].cpu()
                times.append(time.perf_counter() - begun)
        except Exception as error:
            if is_out_of_memory(error):
                return None
            raise
        return median(times[1:])

    def _predict(self, rows: Mapping[str, Any]) -> tuple[Columns, LogProbs | None]:
        """Return the score columns of decoded images, and log_probs_N_K_C if some are kept.

        A GPU copies them in its queue, and they are read once it is done.
        """
        ids = list(rows["id"])
        images_N = self._padded(rows["image"])
        with self._turn, DeviceTime(self._device) as work:
            columns, log_probs_N_K_C = _joined(
                self._in_parts(images_N, ids, self._predict_at_once)
            )
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

    def _predict_at_once(
        self, images_N: Tensor, ids: list[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        first_N_K_C = None
        if self._first:
            first_N_K_C = self._first(images_N, ids, sum(map(bool, ids)))
        if self._keep_by is None:
            predictions = self._samples.predict(images_N, ids, first_N_K_C=first_N_K_C)
            return predictions.columns(), None
        log_probs_N_K_C = self._samples.log_probs(images_N, ids, first_N_K_C=first_N_K_C)
        return PredictiveStatistics.of(log_probs_N_K_C).columns(), log_probs_N_K_C

    def _table(
        self, rows: Mapping[str, Any], statistics: Columns, log_probs_N_K_C: LogProbs | None
    ) -> pa.Table:
        scores = np.stack([statistics[name] for name in SCORE_COLUMNS])
        errors = np.where(
            rows["error"] != "",
            rows["error"],
            np.where(np.isfinite(scores).all(axis=0), "", NOT_FINITE),
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

    def _kept(
        self,
        statistics: Columns,
        failed: npt.NDArray[np.bool_],
        log_probs_N_K_C: LogProbs | None,
    ) -> pa.Array:
        """Return the log-probabilities of promising images as bytes, null for the others."""
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


def _joined(
    parts: list[tuple[dict[str, Tensor], Tensor | None]],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Join the parts of a mini-batch."""
    columns = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
    kept = [log_probs_N_K_C for _, log_probs_N_K_C in parts if log_probs_N_K_C is not None]
    return columns, torch.cat(kept) if kept else None


def kept_share(config: ScoringConfig) -> float:
    """Return the share of a mini-batch whose log-probabilities are kept for the next stage."""
    return min(1.0, _KEPT_SHARES * config.further_stages[0].share)
