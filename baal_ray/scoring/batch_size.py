"""The mini-batch size that a device scores fastest with, found by a trial, then fixed for a model.

It is part of the fingerprint, so all scores of one model are computed with the same size.
"""

import logging
from collections.abc import Callable

import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from baal_ray import storage
from baal_ray.checkpoint import read_architecture
from baal_ray.cluster import actor_cpus, runtime_env
from baal_ray.errors import ResourceError
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.workspace.records import Record

logger = logging.getLogger(__name__)

_SIZES = (16, 32, 64, 128, 256, 512, 1024)
# The least speedup that makes a larger mini-batch worth its memory, and the work lost in a kill.
_WORTH = 1.03
# Seconds per mini-batch from which no larger ones are tried.
_LONG = 2.0


class BatchSizeTrial(Record):
    """`batch-size-….json` of a checkpoint: the result of a trial on one kind of device.

    Attributes:
        batch_size: The mini-batch size that was chosen.
        images_per_second: The rate of each size that was tried.
    """

    batch_size: int
    images_per_second: dict[str, float]


def with_batch_size(job: ScoringJob, scores: str) -> ScoringJob:
    """Return the job with a mini-batch size: as configured, or found by a trial.

    A trial takes seconds of a scoring actor's share of the cluster. Its result is kept with the
    checkpoint, for this K and precision. If several trials race, the first result counts. If the
    result is lost, the size is that of the scores that this model has already.

    Args:
        job: Model and settings.
        scores: Folder under which each fingerprint has its own.

    Raises:
        BaalRayError: As `PoolScorer` does, if the checkpoint cannot be used.
        ResourceError: If the process that tries is killed each time.
    """
    uri, gpus = _uri(job), job.resources.scoring_gpus
    if job.config.batch_size is None and not storage.exists(uri):
        size = _size_of_scores(job, scores)
        if size is not None:
            return _sized(job, size)
        image_size = read_architecture(job.checkpoint).model.image_size
        task = ray.remote(
            num_cpus=actor_cpus(job.resources),
            num_gpus=gpus,
            runtime_env=runtime_env(gpus, image_size),
        )(_try)
        try:
            rates: dict[int, float] = ray.get(task.remote(job))
        except (WorkerCrashedError, OutOfMemoryError) as error:
            raise ResourceError(
                "the process that tries mini-batch sizes is killed each time; it must survive. "
                "Most likely the memory of its node is too small: set scoring.batch_size to a "
                f"small number, such as {_SIZES[0]}, so that none is tried, or enlarge the nodes"
            ) from error
        trial = BatchSizeTrial(
            batch_size=fastest(rates),
            images_per_second={str(size): rate for size, rate in rates.items()},
        )
        storage.create_if_absent(uri, trial.to_json())
    return with_known_batch_size(job) or job


def with_known_batch_size(job: ScoringJob) -> ScoringJob | None:
    """Return the job with a mini-batch size, without a trial; None if no size is known yet."""
    if job.config.batch_size is not None:
        return job
    uri = _uri(job)
    if not storage.exists(uri):
        return None
    found = BatchSizeTrial.read(uri, "Delete it: the next run finds the mini-batch size again.")
    logger.info("mini-batches have %d images, the size found for this model", found.batch_size)
    return _sized(job, found.batch_size)


def _sized(job: ScoringJob, size: int) -> ScoringJob:
    return job.with_config(job.config.model_copy(update={"batch_size": size}))


def _size_of_scores(job: ScoringJob, scores: str) -> int | None:
    """Return the mini-batch size of scores by this job; None if there are none."""
    folders = ((size, _sized(job, size).folder(scores)) for size in _SIZES)
    return next((size for size, folder in folders if storage.exists(folder)), None)


def try_sizes(seconds_of: Callable[[int], float | None]) -> dict[int, float]:
    """Return images per second by mini-batch size, up to the last size worth trying.

    No larger size is tried if memory has run out, or if larger ones bring nothing.

    Args:
        seconds_of: Function from a number of images to the seconds they take, or None if there is
            no memory for them.
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
    """Return the smallest size that no larger one clearly beats; without rates, the smallest."""
    enough = max(rates.values(), default=0) / _WORTH
    return next((size for size, rate in sorted(rates.items()) if rate >= enough), _SIZES[0])


def _try(job: ScoringJob) -> dict[int, float]:
    smallest = job.config.model_copy(update={"batch_size": _SIZES[0]})
    return try_sizes(PoolScorer(job.with_config(smallest)).seconds_of)


def _uri(job: ScoringJob) -> str:
    config, device = job.config, "gpu" if job.on_gpu else "cpu"
    name = f"batch-size-{device}-{config.precision}-{config.samples}-{config.masks}.json"
    return storage.join(job.checkpoint, name)
