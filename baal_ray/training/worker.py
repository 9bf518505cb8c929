"""The work of each worker of a fit: a share of every mini-batch, and of the evaluation."""

import io
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from baal_ray import storage
from baal_ray.checkpoint import FitSummary, save_checkpoint
from baal_ray.config import RoundConfig
from baal_ray.errors import StorageError
from baal_ray.image_formats import NAMES
from baal_ray.model import build_classifier
from baal_ray.posterior import MCDropout
from baal_ray.training.evaluation import class_counts, evaluation_sums, metrics, no_images
from baal_ray.training.examples import LEFT_OUT, Examples, load_share
from baal_ray.training.optimisation import (
    make_augmentation,
    make_class_weights,
    make_optimizer,
    make_schedule,
    mini_batches,
    passes_per_epoch,
    summed_loss,
)
from baal_ray.workspace import fits_uri
from baal_ray.workspace.records import ClassCounts, FitRecord

logger = logging.getLogger(__name__)

_EVALUATED_AT_A_TIME = 256
_QUIET_SECONDS = 10.0
# Seconds of work that a kill may cost besides the epoch that it interrupts. Writing the state of a
# large model after every short epoch could take longer than the epochs.
_SECONDS_BETWEEN_STATES = 10.0
_SHA256_LENGTH = 64


@dataclass(frozen=True)
class FitJob:
    """The fit as every worker receives it.

    Attributes:
        config: Configuration of the round.
        name: Name of the fit, a hash of everything it depends on.
        training: Images to fit.
        evaluation: Images to evaluate on.
    """

    config: RoundConfig
    name: str
    training: Examples
    evaluation: Examples

    @property
    def record(self) -> str:
        """URI of the record of the finished fit. Without it the fit is unfinished."""
        return storage.join(fits_uri(self.config.workspace), self.name, "fit.json")

    @property
    def state(self) -> str:
        """URI of the state after the last epoch that was kept, while the fit is unfinished.

        The file holds the sha256 of the rest, in hexadecimal, and then the output of `torch.save`.
        """
        return storage.join(fits_uri(self.config.workspace), self.name, "state.pt")


def train_worker(settings: dict[str, FitJob]) -> str | None:
    """Run the fit in one worker of Ray Train.

    Returns:
        A description of numbers that are not finite, which end the fit on all workers. It is no
        error, because Ray Train would try that again in vain.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # no line of paths per epoch
    worker = _Worker(settings["job"])
    worker.restore()
    while not worker.finished:
        worker.run_epoch()
        worker.log()
        if fault := worker.fault():
            return fault
        worker.keep()
    worker.publish()
    return None


class _Worker:
    """A model in training, and this worker's share of the images."""

    def __init__(self, job: FitJob) -> None:
        context = ray.train.get_context()
        self._rank, self._workers = context.get_world_rank(), context.get_world_size()
        self._job, self._config = job, job.config
        self._device = ray.train.torch.get_device()
        self._images_N, self._labels_N = self._load(job.training)
        self._evaluation = self._load(job.evaluation)
        self._fitted = self._decoded(self._labels_N, "labelled")
        self._decoded(self._evaluation[1], "evaluation")
        self._augment = make_augmentation(job.config.training.augmentations)
        everyones_N = torch.tensor(list(job.training.class_of.values()))
        self._weights_C = make_class_weights(everyones_N, job.config.training).to(self._device)
        torch.manual_seed(job.config.seed)
        self._classifier = build_classifier(job.config.model, len(job.config.classes))
        self._model = ray.train.torch.prepare_model(self._classifier)
        self._posterior = MCDropout(
            self._classifier,
            job.config.training.evaluation_samples,
            job.config.seed,
            output=job.config.model.output,
            stochastic_depth=job.config.scoring.stochastic_depth,
        )
        self._optimizer = make_optimizer(self._model, job.config.training)
        self._schedule = make_schedule(self._optimizer, job.config.training)
        self._history: list[dict[str, float]] = []
        self._by_class: ClassCounts | None = None
        self._logged_at = 0.0
        self._kept_at = -math.inf

    @property
    def finished(self) -> bool:
        return len(self._history) >= self._config.training.epochs

    def restore(self) -> None:
        """Continue after the last epoch that was kept, if this fit was started before."""
        state = self._kept_state()
        if state is None:
            return
        self._classifier.load_state_dict(state["classifier"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._history = state["history"]
        self._by_class = ClassCounts.model_validate(state["by_class"])

    def _kept_state(self) -> dict[str, Any] | None:
        """Return the state on disk, the same for all workers, or None if there is none to use."""
        data = [b""]
        # One worker reads, so that all agree even if a lost node is still writing.
        if self._rank == 0 and storage.exists(self._job.state):
            data = [storage.read(self._job.state)]
        if self._workers > 1:
            torch.distributed.broadcast_object_list(data, device=self._device)
        sha256, saved = data[0][:_SHA256_LENGTH], data[0][_SHA256_LENGTH:]
        if sha256 != storage.sha256(saved).encode():
            if data[0]:
                logger.warning("%s is damaged, so the fit starts again", self._job.state)
            return None
        state: dict[str, Any] = torch.load(
            io.BytesIO(saved), weights_only=True, map_location=self._device
        )
        return state

    def run_epoch(self) -> None:
        """Fit on every image, the same number of times, then evaluate."""
        epoch = len(self._history)
        # Seeded per epoch, so that a fit that continues draws what it would have drawn.
        torch.manual_seed(self._config.seed + 1_000_003 * epoch + self._rank)
        self._model.train()
        images, training = len(self._job.training.class_of), self._config.training
        batches = mini_batches(images, training, self._rank, self._workers)
        loss = sum(self._step(rows, images) for rows, images in batches)
        self._schedule.step()
        evaluated = self._evaluate()
        sums = torch.cat([evaluated.new_tensor([loss]), evaluated])
        if self._workers > 1:
            torch.distributed.all_reduce(sums)
        fitted = self._fitted * passes_per_epoch(images, training, self._workers)
        mean_loss, sums = sums[0].item() / fitted, sums[1:].cpu()
        self._history.append({"epoch": epoch + 1, "train_loss": mean_loss, **metrics(sums)})
        self._by_class = class_counts(sums)

    def log(self) -> None:
        """Log one line per epoch, but at most one in `_QUIET_SECONDS`, except at the end."""
        if self._rank:
            return
        if self.finished or time.monotonic() > self._logged_at + _QUIET_SECONDS:
            self._logged_at = time.monotonic()
            figures = ", ".join(f"{name} {value:.4g}" for name, value in self._history[-1].items())
            logger.info("fit of %d epochs: %s", self._config.training.epochs, figures)

    def fault(self) -> str | None:
        """Describe a figure or weight that is not finite; None if all are. Workers agree on it."""
        figures = self._history[-1]
        for name, value in figures.items():
            if not math.isfinite(value):
                return f"{name} is {value} after epoch {figures['epoch']}"
        for name, weights in self._classifier.named_parameters():
            if not weights.isfinite().all():
                return f"{name} has a weight that is not finite after epoch {figures['epoch']}"
        return None

    def keep(self) -> None:
        """Write the state to disk now and then, so that a killed fit continues from here."""
        if self._rank or time.monotonic() < self._kept_at + _SECONDS_BETWEEN_STATES:
            return
        state = {
            "classifier": self._classifier.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": self._history,
            "by_class": self._by_class.model_dump() if self._by_class else None,
        }
        file = io.BytesIO()
        torch.save(state, file)
        saved = file.getvalue()
        storage.publish(self._job.state, storage.sha256(saved).encode() + saved)
        self._kept_at = time.monotonic()

    def publish(self) -> None:
        """Write the checkpoint, then the record that names it, and delete the state."""
        if self._rank:
            return
        labels = self._fitted
        sha256 = save_checkpoint(
            self._config.workspace,
            self._classifier,
            self._config.model,
            self._config.classes,
            FitSummary(name=self._job.name, labels=labels, metrics=self._history[-1]),
        )
        record = FitRecord(
            checkpoint=sha256, labels=labels, history=self._history, by_class=self._by_class
        )
        storage.create_if_absent(self._job.record, record.to_json())
        storage.delete(self._job.state)

    def _load(self, examples: Examples) -> tuple[Tensor, Tensor]:
        return load_share(
            examples,
            self._rank,
            self._workers,
            self._config.model,
            self._config.scoring.max_pixels,
        )

    def _decoded(self, labels_N: Tensor, which: str) -> int:
        """Return the number of images that are not left out, over all workers.

        Raises:
            StorageError: If there are images and all are left out.
        """
        counts = torch.tensor([len(labels_N), int((labels_N != LEFT_OUT).sum())])
        counts = counts.to(self._device)
        if self._workers > 1:
            torch.distributed.all_reduce(counts)
        images, decoded = map(int, counts.tolist())
        if images and not decoded:
            raise StorageError(
                f"none of the {images} {which} images can be decoded, for the reasons in the "
                f"warnings above; at least one must be. Check that they are {NAMES}, and that "
                "scoring.max_pixels allows their size"
            )
        return decoded

    def _step(self, rows: Tensor, images: int) -> float:
        """Make an optimizer step over this worker's rows of a mini-batch. Return their loss."""
        # An image that is left out still counts in `images`, so that all workers agree on it.
        rows = rows[self._labels_N[rows] != LEFT_OUT]
        # DDP waits for every worker, so one without rows takes part with a weight of zero.
        weight = 1.0 if len(rows) else 0.0
        rows = rows if len(rows) else torch.tensor([0])
        inputs = self._augment(self._images_N[rows]).to(self._device)
        labels = self._labels_N[rows].clamp(min=0).to(self._device)
        predictions = self._model(inputs)
        loss = (
            summed_loss(predictions, labels, self._weights_C, self._config.model.output) * weight
        )
        self._optimizer.zero_grad()
        # DDP averages over workers. This turns the average into the mean over the mini-batch.
        (loss * self._workers / images).backward()
        self._optimizer.step()
        return float(loss.item())

    def _evaluate(self) -> Tensor:
        images_N, labels_N = self._evaluation
        sums = no_images(self._device, len(self._config.classes))
        decoded = (labels_N != LEFT_OUT).nonzero().flatten()
        for start in range(0, len(decoded), _EVALUATED_AT_A_TIME):
            rows = decoded[start : start + _EVALUATED_AT_A_TIME]
            predictions = self._posterior.predict(images_N[rows].to(self._device))
            sums += evaluation_sums(predictions, labels_N[rows].to(self._device))
        return sums
