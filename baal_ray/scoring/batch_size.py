"""The mini-batch size that a device scores fastest with, found by trying, then fixed for a model.

It is a part of the fingerprint of scores, so all of one model's are of the same.
"""

import logging
from collections.abc import Callable

import ray

from baal_ray import storage
from baal_ray.checkpoint import describe
from baal_ray.cluster import actor_cpus, runtime_env
from baal_ray.config import ResourcesConfig, ScoringConfig
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.workspace.records import Record

logger = logging.getLogger(__name__)

_SIZES = (16, 32, 64, 128, 256, 512, 1024)
# A larger mini-batch is worth its memory, and the work that a kill costs, for so much more speed.
_WORTH = 1.03
# No larger ones are tried once one takes so many seconds.
_LONG = 2.0


class BatchSizeTrial(Record):
    """`batch-size-….json` of a checkpoint: the result of a trial on one kind of device.

    Attributes:
        batch_size: The mini-batch size that was chosen.
        images_per_second: The rate of each size that was tried.
    """

    batch_size: int
    images_per_second: dict[str, float]


def with_batch_size(
    config: ScoringConfig, checkpoint: str, resources: ResourcesConfig, seed: int
) -> ScoringConfig:
    """The settings with a mini-batch size: theirs, or that of an earlier trial, or of one now.

    A trial takes seconds of a scoring actor's share of the cluster. What it found is kept with the
    checkpoint, for these samples and this precision, and of racing trials the first one counts.

    Args:
        config: how to score.
        checkpoint: a checkpoint folder.
        resources: what a scoring actor asks for.
        seed: of the masks.

    Raises:
        BaalRayError: as `PoolScorer` does: the checkpoint cannot be used.
    """
    uri = _uri(config, checkpoint, resources)
    if config.batch_size is None and not storage.exists(uri):
        task = ray.remote(
            num_cpus=actor_cpus(resources),
            num_gpus=resources.scoring_gpus,
            runtime_env=runtime_env(resources.scoring_gpus, describe(checkpoint).model.image_size),
        )(_try)
        rates: dict[int, float] = ray.get(
            task.remote(checkpoint, config, seed, resources.scoring_gpus > 0)
        )
        trial = BatchSizeTrial(
            batch_size=fastest(rates),
            images_per_second={str(size): rate for size, rate in rates.items()},
        )
        storage.create_if_absent(uri, trial.to_json())
    return with_known_batch_size(config, checkpoint, resources) or config


def with_known_batch_size(
    config: ScoringConfig, checkpoint: str, resources: ResourcesConfig
) -> ScoringConfig | None:
    """The same without a trial; None if there was none for this model."""
    if config.batch_size is not None:
        return config
    uri = _uri(config, checkpoint, resources)
    if not storage.exists(uri):
        return None
    found = BatchSizeTrial.read(uri, "Delete it: the mini-batch size is found again.")
    logger.info("mini-batches of %d images, as found for this model", found.batch_size)
    return config.model_copy(update={"batch_size": found.batch_size})


def try_sizes(seconds_of: Callable[[int], float | None]) -> dict[int, float]:
    """Images a second by mini-batch size, as far as there is memory and hope for more.

    Args:
        seconds_of: how long so many images take; None when there is no memory for them.
    """
    rates: dict[int, float] = {}
    for size in _SIZES:
        seconds = seconds_of(size)
        if seconds is None:
            break
        rates[size] = size / seconds
        without_gain = [rate for s, rate in rates.items() if s > fastest(rates)]
        if seconds >= _LONG or len(without_gain) == 2:
            break
    return rates


def fastest(rates: dict[int, float]) -> int:
    """The smallest size that no larger one is much faster than; the smallest if none was tried."""
    enough = max(rates.values(), default=0) / _WORTH
    return next((size for size, rate in sorted(rates.items()) if rate >= enough), _SIZES[0])


def _try(checkpoint: str, config: ScoringConfig, seed: int, on_gpu: bool) -> dict[int, float]:
    smallest = config.model_copy(update={"batch_size": _SIZES[0]})
    return try_sizes(PoolScorer(checkpoint, smallest, seed, on_gpu).seconds_of)


def _uri(config: ScoringConfig, checkpoint: str, resources: ResourcesConfig) -> str:
    device = "gpu" if resources.scoring_gpus else "cpu"
    name = f"batch-size-{device}-{config.precision}-{config.samples}-{config.masks}.json"
    return storage.join(checkpoint, name)
