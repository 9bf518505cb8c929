"""Actors that return the predictions or the features of images."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from baal_ray.posterior.head_inputs import features
from baal_ray.scoring.actor import Columns, ModelActor
from baal_ray.scoring.job import ScoringJob


class PoolPredictor(ModelActor):
    """An actor that returns the predictions of posterior samples for mini-batches of images."""

    def __init__(self, job: ScoringJob) -> None:
        """Load and check the model."""
        super().__init__(job)
        self._samples = self._posterior(job.config.samples)
        self._check(self._samples)

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        """Return `id` and `log_probs` (float32 [K, C] as bytes) of the images with predictions."""
        rows = self._decoded(rows)
        ids = list(rows["id"])
        with self._turn:
            parts = self._in_parts(self._padded(rows["image"]), ids, self._samples.log_probs)
            log_probs_N_K_C = torch.cat(parts).float().cpu().numpy()[: len(ids)]
        good = (rows["error"] == "") & ~np.isnan(log_probs_N_K_C).any(axis=(1, 2))
        return _as_bytes("log_probs", rows["id"][good], log_probs_N_K_C[good])


class PoolFeatures(ModelActor):
    """An actor that returns the features (`posterior.head_inputs`) of mini-batches of images."""

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        """Return `id` and `features` (float32 [D] as bytes) of images that can be decoded."""
        rows = self._decoded(rows)
        good = rows["error"] == ""
        images_N = torch.as_tensor(rows["image"][good])
        if not len(images_N):
            return _as_bytes("features", [], [])
        with self._turn:
            parts = self._in_parts(images_N, [], self._features)
            features_N_D = torch.cat(parts).cpu().numpy()
        return _as_bytes("features", rows["id"][good], features_N_D)

    def _features(self, images_N: Tensor, ids: list[str]) -> Tensor:
        return features(self._classifier, images_N, self._output)


def _as_bytes(
    name: str, ids: Iterable[str], values_N: Iterable[npt.NDArray[np.float32]]
) -> pa.Table:
    values = pa.array([of.tobytes() for of in values_N], pa.binary())
    return pa.table({"id": pa.array(ids, pa.string()), name: values})
