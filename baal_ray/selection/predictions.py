"""Predictions and features of a few images of the pool, computed again."""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from baal_ray.config import RoundConfig
from baal_ray.errors import SelectionError
from baal_ray.ids import IdSet
from baal_ray.pool import PoolListing, read_pool
from baal_ray.pool.listing import places
from baal_ray.posterior.memory import budget
from baal_ray.scoring.actor import ModelActor
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.predictor import PoolFeatures, PoolPredictor
from baal_ray.scoring.stage import release_if_failed, through_actors

# Bytes per log-probability in double precision.
_BYTES = 8


def draw_predictions(
    listing: PoolListing, wanted: pa.Table, checkpoint: str, config: RoundConfig
) -> tuple[pa.Table, Tensor]:
    """Draw the predictions for some images again, with the posterior samples that scored them.

    Args:
        listing: The pool that the images are in.
        wanted: Table with their `id` and `source`.
        checkpoint: Folder of the model.
        config: Configuration of the round.

    Returns:
        The rows of `wanted` whose images can be read, and log_probs_N_K_C of these, float32.
    """
    rows, flat_N = _draw(listing, wanted, checkpoint, config, PoolPredictor, "log_probs")
    return rows, flat_N.reshape(len(rows), config.scoring.last_stage.samples, len(config.classes))


def draw_features(
    listing: PoolListing, wanted: pa.Table, checkpoint: str, config: RoundConfig
) -> tuple[pa.Table, Tensor]:
    """Return features of images (`posterior.head_inputs`); arguments as for `draw_predictions`.

    Returns:
        The rows of `wanted` whose images can be read, and features_N_D of these, float32.
    """
    return _draw(listing, wanted, checkpoint, config, PoolFeatures, "features")


def _draw(
    listing: PoolListing,
    wanted: pa.Table,
    checkpoint: str,
    config: RoundConfig,
    actor: type[ModelActor],
    column: str,
) -> tuple[pa.Table, Tensor]:
    """Return the rows whose images can be read, and an actor's float32 numbers for each."""
    job = ScoringJob.of_round(checkpoint, config).with_config(config.scoring.last_stage)
    found: dict[str, bytes] = {}
    for place in places(listing, wanted):
        missing = IdSet.of(
            image_id for image_id in wanted["id"].to_pylist() if image_id not in found
        )

        def draw(place: PoolListing = place, missing: IdSet = missing) -> dict[str, bytes]:
            made = through_actors(read_pool(place, only=missing), actor, job)
            return {row["id"]: row[column] for row in made.iter_rows()}

        found |= release_if_failed(draw)
        if len(found) == len(wanted):
            break
    rows = wanted.filter(pa.array([image_id in found for image_id in wanted["id"].to_pylist()]))
    flat = np.frombuffer(b"".join(map(found.__getitem__, rows["id"].to_pylist())), np.float32)
    return rows, torch.from_numpy(flat.reshape(len(rows), -1 if len(rows) else 0).copy())


def check_candidates(config: RoundConfig) -> None:
    """Refuse a joint rule with more candidates than this process has memory for.

    Raises:
        SelectionError: If the predictions for them, or for the targets of "epig", are too large.
    """
    selection, samples = config.selection, config.scoring.last_stage.samples
    if not selection.joint:
        return
    images = max(selection.candidate_count, selection.target_images)
    size = _BYTES * images * samples * len(config.classes)
    most = budget(torch.device("cpu"))
    if size > most:
        raise SelectionError(
            f"predictions for {images} candidates with {samples} posterior samples and "
            f"{len(config.classes)} classes take {size / 2**30:.1f} GiB in the driver; at most "
            f"{most / 2**30:.1f} GiB are available. Lower selection.candidates or "
            "selection.target_images"
        )
