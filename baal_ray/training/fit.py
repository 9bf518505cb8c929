"""The fit of a model on the labelled set with Ray Train, which ends in a checkpoint."""

import json
import logging
import os
from dataclasses import dataclass

import pyarrow as pa
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from baal_ray import storage
from baal_ray.cluster import runtime_env
from baal_ray.config import RoundConfig
from baal_ray.errors import TrainingError
from baal_ray.storage.lock import exclusive
from baal_ray.training.examples import Examples, evaluation_examples, hold_out, labelled_examples
from baal_ray.training.worker import FitJob, train_worker
from baal_ray.workspace import fits_uri
from baal_ray.workspace.records import ClassCounts, FitRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    Attributes:
        checkpoint: The sha256 that names the checkpoint.
        labels: Number of labelled images that the model was fitted on.
        history: Metrics of each epoch: `epoch` and `train_loss`, and on the evaluation set
            `accuracy`, `nll` and `ece`.
        by_class: Counts of each class on the evaluation set after the last epoch.
        reused: Whether an earlier round already made exactly this fit.
    """

    checkpoint: str
    labels: int
    history: list[dict[str, float]]
    by_class: ClassCounts | None
    reused: bool


def fit_model(config: RoundConfig, labelled: pa.Table) -> Fit:
    """Fit the model on the labelled rows of a manifest, or find that this was done before.

    A fit is named by a hash of everything it depends on: model, training settings, seed, classes
    and labels. The same name is never fitted twice. A fit that was killed continues from the last
    epoch on disk.

    Args:
        config: Configuration of the round.
        labelled: Rows of `Manifest.labelled()`, at least one.

    Returns:
        The fit, whose checkpoint is in the workspace.

    Raises:
        TrainingError: If the workers fail more often than `training.max_failures` allows.
        LabelError: If a label is not one of the classes.
    """
    job = _job(config, labelled)
    with exclusive(job.record):  # two rounds with the same labels share a fit
        reused = storage.exists(job.record)
        if not reused:
            _train(job)
    return _read(job, reused)


def find_fit(config: RoundConfig, labelled: pa.Table) -> Fit | None:
    """Return the fit that `fit_model` would reuse, or None if it would fit. Nothing is written.

    Args:
        config: Configuration, as for `fit_model`.
        labelled: Labelled rows, as for `fit_model`.

    Raises:
        LabelError: If a label is not one of the classes.
    """
    job = _job(config, labelled)
    return _read(job, reused=True) if storage.exists(job.record) else None


def _read(job: FitJob, reused: bool) -> Fit:
    found = FitRecord.read(job.record, "Delete it; the next run repeats the fit.")
    return Fit(found.checkpoint, found.labels, found.history, found.by_class, reused)


def _job(config: RoundConfig, labelled: pa.Table) -> FitJob:
    examples = labelled_examples(config.workspace, labelled, config.classes)
    if config.training.evaluation_set is not None:
        evaluation = evaluation_examples(config.training.evaluation_set, config.classes)
        return FitJob(config, _name(config, examples), examples, evaluation)
    training, held_out = hold_out(examples, config.training.held_out, config.seed)
    logger.warning(
        "training.evaluation_set is not set: %d of %d labelled images are held out instead. "
        "Acquired images are not drawn at random, so metrics on them are biased; set a fixed "
        "evaluation set to compare rounds",
        len(held_out.class_of),
        len(examples.class_of),
    )
    return FitJob(config, _name(config, examples), training, held_out)


def _name(config: RoundConfig, examples: Examples) -> str:
    depends_on = {
        "model": config.model.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude={"max_failures"}),
        "classes": config.classes,
        "seed": config.seed,
        "stochastic_depth": config.scoring.stochastic_depth,  # affects the evaluation
        "labels": sorted(examples.class_of.items()),
    }
    return storage.sha256(json.dumps(depends_on, sort_keys=True).encode())[:32]


def _train(job: FitJob) -> None:
    resources = job.config.resources
    # More workers than images would leave some workers with nothing to do.
    workers = min(resources.training_workers, len(job.training.class_of))
    # Interval at which the controller checks whether workers have ended; 2 seconds by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    fs, path = storage.arrow_filesystem(fits_uri(job.config.workspace))
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=resources.training_gpus > 0,
            resources_per_worker={
                "CPU": resources.training_cpus,
                **({"GPU": resources.training_gpus} if resources.training_gpus else {}),
            },
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # typed as Train V1
            name=job.name,
            storage_path=path,
            storage_filesystem=fs,
            failure_config=ray.train.FailureConfig(max_failures=job.config.training.max_failures),
            worker_runtime_env=runtime_env(resources.training_gpus, job.config.model.image_size),
            # At lower levels Ray Train logs pages, with a traceback whenever the cluster responds
            # slowly.
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(_reason(error)) from error


def _reason(error: TrainingFailedError) -> str:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, failure = min(error.worker_failures.items())
        return f"the fit failed in worker {rank}: {failure}"
    return f"the fit failed: {error}"
