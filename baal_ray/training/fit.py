"""The labelled set → a checkpoint, with Ray Train."""

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
from baal_ray.storage.lock import alone
from baal_ray.training.examples import Examples, evaluation_examples, hold_out, labelled_examples
from baal_ray.training.worker import FitJob, train_worker
from baal_ray.workspace import fits_uri
from baal_ray.workspace.records import FitRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    Attributes:
        checkpoint: the sha256 that its checkpoint is named by.
        labels: how many labelled images there were.
        history: of each epoch, `epoch` and `train_loss`, and on the evaluation set `accuracy`,
            `nll` and `ece`.
        reused: whether an earlier round had fitted just this already.
    """

    checkpoint: str
    labels: int
    history: list[dict[str, float]]
    reused: bool


def fit_model(config: RoundConfig, labelled: pa.Table) -> Fit:
    """Fit the model on the labelled rows of a manifest, or find that this was done before.

    A fit is named by a hash of everything it depends on: model, training settings, seed, classes
    and labels. The same name is never fitted twice, and one that was killed goes on from its last
    epoch.

    Args:
        config: of the round.
        labelled: `Manifest.labelled()`, at least one row.

    Returns:
        The fit, whose checkpoint is in the workspace.

    Raises:
        TrainingError: the workers fail, more often than `training.max_failures` allows.
        LabelError: a label is outside the classes.
    """
    job = _job(config, labelled)
    with alone(job.record):  # two rounds with the same labels share a fit
        reused = storage.exists(job.record)
        if not reused:
            _train(job)
    return _read(job, reused)


def find_fit(config: RoundConfig, labelled: pa.Table) -> Fit | None:
    """The fit that `fit_model` would find done before; None if it would fit. Nothing is written.

    Args:
        config: as for `fit_model`.
        labelled: as for `fit_model`.

    Raises:
        LabelError: as for `fit_model`.
    """
    job = _job(config, labelled)
    return _read(job, reused=True) if storage.exists(job.record) else None


def _read(job: FitJob, reused: bool) -> Fit:
    found = FitRecord.read(job.record, "Delete it: the next run fits again.")
    return Fit(found.checkpoint, found.labels, found.history, reused)


def _job(config: RoundConfig, labelled: pa.Table) -> FitJob:
    examples = labelled_examples(config.workspace, labelled, config.classes)
    if config.training.evaluation_set is not None:
        evaluation = evaluation_examples(config.training.evaluation_set, config.classes)
        return FitJob(config, _name(config, examples), examples, evaluation)
    training, held_out = hold_out(examples, config.training.held_out, config.seed)
    logger.warning(
        "training.evaluation_set is not set: %d of %d labelled images are held out instead. "
        "Acquired images are not drawn at random, so the figures on them are biased; give a fixed "
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
        "stochastic_depth": config.scoring.stochastic_depth,  # of the evaluation after each epoch
        "labels": sorted(examples.class_of.items()),
    }
    return storage.sha256(json.dumps(depends_on, sort_keys=True).encode())[:32]


def _train(job: FitJob) -> None:
    resources = job.config.resources
    # More workers than images would leave some with nothing to do.
    workers = min(resources.training_workers, len(job.training.class_of))
    # How often the controller looks whether workers have ended; every 2 seconds by default.
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
            # Below, it writes pages: a traceback, too, whenever the cluster is slow to answer.
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
