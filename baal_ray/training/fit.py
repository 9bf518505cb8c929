"""The fit of a model on the labelled set with Ray Train, which ends in a checkpoint."""

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from baal_ray import storage
from baal_ray.checkpoint import encoded_weights, save_checkpoint, weights_uri
from baal_ray.cluster import runtime_env
from baal_ray.config import RoundConfig
from baal_ray.errors import LostFileError, TrainingError
from baal_ray.model import trained_classifier
from baal_ray.storage.lock import exclusive
from baal_ray.training.evaluation_images import EvaluationImages, refuse_labelled
from baal_ray.training.examples import Examples, evaluation_examples, hold_out, labelled_examples
from baal_ray.training.killers import find_killer
from baal_ray.training.worker import FitJob, train_worker
from baal_ray.workspace import checkpoint_uri, fits_uri
from baal_ray.workspace.records import ClassCounts, FitRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A finished fit, or a model that was given instead.

    Attributes:
        checkpoint: The sha256 that names the checkpoint.
        labels: Number of labelled images that the model was fitted on; 0 for a given model.
        history: Metrics of each epoch: `epoch` and `train_loss`, and on the evaluation set
            `accuracy`, `nll` and `ece`. There are none for a given model.
        by_class: Counts of each class on the evaluation set after the last epoch.
        reused: Whether an earlier round already made exactly this fit.
    """

    checkpoint: str
    labels: int
    history: list[dict[str, float]]
    by_class: ClassCounts | None
    reused: bool

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last epoch."""
        return self.history[-1] if self.history else {}


def fit_model(config: RoundConfig, labelled: pa.Table) -> Fit:
    """Fit the model on the labelled rows of a manifest, or find that this was done before.

    If `training.epochs` is 0, the model is that of `model.weights` as it is, and needs no labels.

    A fit is named by a hash of everything it depends on: model, training settings, seed, classes
    and labels. The same name is never fitted twice. A fit that was killed continues from the last
    epoch on disk.

    Args:
        config: Configuration of the round.
        labelled: Rows of `Manifest.labelled()`, at least one if there is a fit.

    Returns:
        The fit, whose checkpoint is in the workspace.

    Raises:
        TrainingError: If the workers fail more often than `training.max_failures` allows, or if
            the loss, a metric or a weight is no longer finite.
        LabelError: If a label is not one of the classes, or a labelled image is also in the
            evaluation set. No worker has started then.
    """
    if not config.training.epochs:
        given = trained_classifier(config.model, len(config.classes))
        sha256 = save_checkpoint(config.workspace, given, config.model, config.classes)
        return Fit(sha256, labels=0, history=[], by_class=None, reused=False)
    job = _job(config, labelled)
    with exclusive(job.record):  # two rounds with the same labels share a fit
        done = _done(job)
        if done is not None:
            return done
        if storage.exists(job.record):  # it is damaged, or names a checkpoint that is gone
            storage.delete(job.record)
        _check(job)
        _train(job)
    return _read(job, reused=False)


def find_fit(config: RoundConfig, labelled: pa.Table) -> Fit | None:
    """Return the fit that `fit_model` would reuse, or None if it would fit. Nothing is written.

    Args:
        config: Configuration, as for `fit_model`.
        labelled: Labelled rows, as for `fit_model`.

    Raises:
        LabelError: As for `fit_model`.
    """
    if not config.training.epochs:
        given = trained_classifier(config.model, len(config.classes))
        sha256 = storage.sha256(encoded_weights(given, config.model, config.classes))
        return Fit(sha256, labels=0, history=[], by_class=None, reused=False)
    job = _job(config, labelled)
    done = _done(job)
    if done is None:
        _check(job)
    return done


def _done(job: FitJob) -> Fit | None:
    """Return the fit if it was made before and its checkpoint is there."""
    with suppress(LostFileError):
        done = _read(job, reused=True)
        if storage.exists(weights_uri(checkpoint_uri(job.config.workspace, done.checkpoint))):
            return done
    return None


def _read(job: FitJob, reused: bool) -> Fit:
    found = FitRecord.read(job.record, "The next run repeats the fit.")
    return Fit(found.checkpoint, found.labels, found.history, found.by_class, reused)


def _job(config: RoundConfig, labelled: pa.Table) -> FitJob:
    examples = labelled_examples(config.workspace, labelled, config.classes)
    if config.training.evaluation_set is not None:
        evaluation = evaluation_examples(
            config.training.evaluation_set, config.classes, integer_ids=config.pool.integer_ids
        )
        return FitJob(config, _name(config, examples), examples, evaluation)
    training, held_out = hold_out(examples, config.training.held_out, config.seed)
    logger.warning(
        "training.evaluation_set is not set: %d of %d labelled images are held out instead. "
        "Acquired images are not drawn at random, so metrics on them are biased; set a fixed "
        "evaluation set to compare rounds",
        len(held_out.class_of),
        len(examples.class_of),
    )
    return FitJob(config, _name(config, examples, held_out), training, held_out)


def _check(job: FitJob) -> None:
    """Refuse labelled images that are also in the evaluation set."""
    uri = job.config.training.evaluation_set
    if uri is not None:
        refuse_labelled(EvaluationImages.of(job.evaluation), job.training, uri)


def _name(config: RoundConfig, examples: Examples, held_out: Examples | None = None) -> str:
    depends_on = {
        "model": config.model.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude={"max_failures"}),
        "classes": config.classes,
        "seed": config.seed,
        "stochastic_depth": config.scoring.stochastic_depth,  # affects the evaluation
        "labels": sorted(examples.class_of.items()),
    }
    if held_out is not None:
        depends_on["held_out"] = sorted(held_out.class_of)
    return storage.sha256(json.dumps(depends_on, sort_keys=True).encode())[:32]


def _train(job: FitJob) -> None:
    resources = job.config.resources
    # More workers than images would leave some workers with nothing to do.
    workers = min(resources.training_workers, len(job.training.class_of))
    # Interval at which the controller checks whether workers have ended; 2 seconds by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    fs, path = storage.arrow_filesystem(fits_uri(job.config.workspace))
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]  # typed as Train V1
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
        fault = trainer.fit().return_value  # type: ignore[attr-defined]  # typed as Train V1
    except TrainingFailedError as error:
        raise _lost(error) or TrainingError(_reason(error) + _blame(job, error)) from error
    if fault:
        rate = job.config.training.learning_rate
        raise TrainingError(
            f"the fit failed: {fault}; all its numbers must be finite. Lower "
            f"training.learning_rate, which is {rate:g}. If that does not help, check "
            "the model for a 16-bit computation that overflows, and model.weights for numbers "
            "that are not finite"
        )


def _lost(error: TrainingFailedError) -> LostFileError | None:
    """Return the error of a worker that met a file that is lost."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    causes = (getattr(failure, "_base_exc", failure) for failure in failures)
    return next((cause for cause in causes if isinstance(cause, LostFileError)), None)


def _blame(job: FitJob, error: TrainingFailedError) -> str:
    """Return what can be said of the images if a worker was killed, to follow the reason."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    if not any(isinstance(failure, WorkerHealthCheckFailedError) for failure in failures):
        return ""
    logger.warning("a worker of the fit was killed: looking for an image that does it")
    resources = job.config.resources
    task = ray.remote(num_cpus=resources.training_cpus, num_gpus=resources.training_gpus)
    killer = ray.get(task(find_killer).remote(job))
    return killer or (
        ". No single image kills the process. Most likely the memory of its node is too small: "
        "lower training.batch_size, or enlarge the nodes"
    )


def _reason(error: TrainingFailedError) -> str:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, failure = min(error.worker_failures.items())
        return f"the fit failed in worker {rank}: {failure}"
    return f"the fit failed: {error}"
