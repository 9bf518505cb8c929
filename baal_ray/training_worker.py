"""What each worker of a fit does: its share of every mini-batch, and of the evaluation."""

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from baal_ray import storage
from baal_ray.config import AugmentationConfig, RoundConfig, TrainingConfig
from baal_ray.errors import StorageError
from baal_ray.evaluation import evaluation_sums, metrics, no_images
from baal_ray.labelled_set import LEFT_OUT, Examples, load_share
from baal_ray.model import build_classifier, save_checkpoint
from baal_ray.posterior import MCDropout
from baal_ray.workspace import fits_uri

logger = logging.getLogger(__name__)

_EVALUATED_AT_A_TIME = 256
_QUIET_SECONDS = 10.0
_STATE = "state.pt"


@dataclass(frozen=True)
class FitJob:
    """What every worker is told.

    Attributes:
        config: of the round.
        name: of the fit, a hash of what it depends on.
        training: images to fit.
        evaluation: images to measure on.
    """

    config: RoundConfig
    name: str
    training: Examples
    evaluation: Examples

    @property
    def record(self) -> str:
        """Where the finished fit is written down; without it the fit is unfinished."""
        return storage.join(fits_uri(self.config.workspace), self.name, "fit.json")


def train_worker(settings: dict[str, FitJob]) -> None:
    """The function that Ray Train runs in each worker."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    worker = _Worker(settings["job"])
    worker.restore()
    while not worker.finished:
        worker.run_epoch()
        worker.report()
    worker.publish()


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
        self._augment = _augmentation(job.config.training.augmentations)
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
        self._optimizer = _optimizer(self._model, job.config.training)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, job.config.training.epochs
        )
        self._history: list[dict[str, float]] = []
        self._logged_at = 0.0

    @property
    def finished(self) -> bool:
        return len(self._history) >= self._config.training.epochs

    def restore(self) -> None:
        """Take up the last epoch's state, if this fit was begun before."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / _STATE, weights_only=True, map_location=self._device)
        self._classifier.load_state_dict(state["classifier"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._history = state["history"]

    def run_epoch(self) -> None:
        """Fit on every image once, then measure."""
        epoch = len(self._history)
        # By epoch, so that a fit taken up again draws what it would have drawn.
        torch.manual_seed(self._config.seed + 1_000_003 * epoch + self._rank)
        self._model.train()
        batches = mini_batches(
            len(self._job.training.class_of),
            self._config.training.batch_size,
            self._rank,
            self._workers,
        )
        loss = sum(self._step(rows, images) for rows, images in batches)
        self._schedule.step()
        sums = self._evaluate()
        loss_and_sums = torch.cat([sums.new_tensor([loss]), sums])
        if self._workers > 1:
            torch.distributed.all_reduce(loss_and_sums)
        mean_loss = loss_and_sums[0].item() / self._fitted
        self._history.append(
            {"epoch": epoch + 1, "train_loss": mean_loss, **metrics(loss_and_sums[1:].cpu())}
        )

    def report(self) -> None:
        """Hand the epoch to Ray Train, which keeps it in case a worker is lost."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self._rank == 0:
                self._log_epoch()
                state = {
                    "classifier": self._classifier.state_dict(),
                    "optimizer": self._optimizer.state_dict(),
                    "schedule": self._schedule.state_dict(),
                    "history": self._history,
                }
                torch.save(state, Path(folder) / _STATE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(self._history[-1], checkpoint=checkpoint)

    def _log_epoch(self) -> None:
        """One line an epoch, but none in the seconds after the last."""
        if self.finished or time.monotonic() > self._logged_at + _QUIET_SECONDS:
            self._logged_at = time.monotonic()
            figures = ", ".join(f"{name} {value:.4g}" for name, value in self._history[-1].items())
            logger.info("fit, of %d epochs: %s", self._config.training.epochs, figures)

    def publish(self) -> None:
        """Write the checkpoint, then the record that names it."""
        if self._rank:
            return
        labels = self._fitted
        sha256 = save_checkpoint(
            self._config.workspace,
            self._classifier,
            self._config.model,
            self._config.classes,
            {"name": self._job.name, "labels": labels, "metrics": self._history[-1]},
        )
        record = {"checkpoint": sha256, "labels": labels, "history": self._history}
        storage.create_if_absent(self._job.record, json.dumps(record, indent=2).encode())

    def _load(self, examples: Examples) -> tuple[Tensor, Tensor]:
        return load_share(
            examples,
            self._rank,
            self._workers,
            self._config.model,
            self._config.scoring.max_pixels,
        )

    def _decoded(self, labels_N: Tensor, which: str) -> int:
        """How many images are not left out, over all workers.

        Raises:
            StorageError: there are images, and every one is left out.
        """
        counts = torch.tensor([len(labels_N), int((labels_N != LEFT_OUT).sum())])
        counts = counts.to(self._device)
        if self._workers > 1:
            torch.distributed.all_reduce(counts)
        images, decoded = map(int, counts.tolist())
        if images and not decoded:
            raise StorageError(
                f"none of the {images} {which} images can be decoded, as warnings say above; at "
                "least one must. See that they are JPEG, PNG or WebP, and that "
                "scoring.max_pixels allows their size"
            )
        return decoded

    def _step(self, rows: Tensor, images: int) -> float:
        """One optimizer step over this worker's rows of a mini-batch; gives their summed loss."""
        # An image that is left out still counts in `images`, so that all workers agree on it.
        rows = rows[self._labels_N[rows] != LEFT_OUT]
        # DDP waits for every worker, so one without rows takes part with a weight of nothing.
        weight = 1.0 if len(rows) else 0.0
        rows = rows if len(rows) else torch.tensor([0])
        inputs = self._augment(self._images_N[rows]).to(self._device)
        predictions = self._model(inputs)
        loss_of = F.cross_entropy if self._config.model.output == "logits" else F.nll_loss
        labels = self._labels_N[rows].clamp(min=0).to(self._device)
        loss = loss_of(predictions, labels, reduction="sum") * weight
        self._optimizer.zero_grad()
        # DDP averages over workers; this makes it the mean over the mini-batch's images.
        (loss * self._workers / images).backward()
        self._optimizer.step()
        return float(loss.item())

    def _evaluate(self) -> Tensor:
        images_N, labels_N = self._evaluation
        sums = no_images(self._device)
        decoded = (labels_N != LEFT_OUT).nonzero().flatten()
        for start in range(0, len(decoded), _EVALUATED_AT_A_TIME):
            rows = decoded[start : start + _EVALUATED_AT_A_TIME]
            predictions = self._posterior.predict(images_N[rows].to(self._device))
            sums += evaluation_sums(predictions, labels_N[rows].to(self._device))
        return sums


def mini_batches(
    images: int, batch_size: int, rank: int, workers: int
) -> Iterator[tuple[Tensor, int]]:
    """One epoch of a worker's share, in random order, every row once.

    Shares differ by one image at most, and each worker makes the same number of steps: as many as
    one worker would make alone, unless that leaves too few images for a step.

    Args:
        images: in the whole training set.
        batch_size: of a mini-batch, over all workers.
        rank: of this worker, whose rows are every `workers`-th image.
        workers: how many there are.

    Yields:
        This worker's rows of a mini-batch, and how many images it has over all workers.
    """
    shares = [len(range(r, images, workers)) for r in range(workers)]
    steps = min(math.ceil(images / batch_size), shares[0])
    order = torch.randperm(shares[rank])
    for step, rows in enumerate(np.array_split(order.numpy(), steps)):
        everyone = sum(share // steps + (step < share % steps) for share in shares)
        yield torch.from_numpy(rows), everyone


def _optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            config.learning_rate,
            momentum=0.9,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )


def _augmentation(config: AugmentationConfig) -> Callable[[Tensor], Tensor]:
    """uint8 images [N, 3, H, W] → the same, each changed at random by itself."""
    if config == AugmentationConfig():
        return lambda images_N: images_N
    # 4 seconds, which a fit without augmentation is spared.
    from torchvision.transforms import v2

    changes = [
        *([v2.RandomHorizontalFlip()] if config.horizontal_flip else []),
        *([v2.RandomVerticalFlip()] if config.vertical_flip else []),
        *([v2.RandomRotation(config.rotation)] if config.rotation else []),
        *([_padded_crop(config.crop_padding)] if config.crop_padding else []),
        *([v2.ColorJitter(*[config.color_jitter] * 3)] if config.color_jitter else []),
    ]
    change = v2.Compose(changes)
    return lambda images_N: torch.stack([change(image) for image in images_N])


def _padded_crop(padding: int) -> Callable[[Tensor], Tensor]:
    """Shift an image by up to `padding` pixels each way, black where nothing is."""

    def crop(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
        return F.pad(image, [padding] * 4)[..., top : top + height, left : left + width]

    return crop
