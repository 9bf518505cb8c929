"""The parts of a fit, which Ray Train's workers and an experiment's process share."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baal_ray.config import AugmentationConfig, ModelConfig, TrainingConfig


def fit(
    classifier: nn.Module,
    images_N: Tensor,
    labels_N: Tensor,
    model: ModelConfig,
    training: TrainingConfig,
) -> None:
    """Fit a classifier in this process and leave it in evaluation mode.

    Args:
        classifier: Classifier with its initial weights, on its device.
        images_N: Images, uint8 [N, 3, H, W].
        labels_N: Class indices of the images.
        model: Configuration of the model, which says what the classifier returns.
        training: Settings of the fit.
    """
    device = next(classifier.parameters()).device
    optimizer = make_optimizer(classifier, training)
    schedule = make_schedule(optimizer, training)
    augment = make_augmentation(training.augmentations)
    weights_C = make_class_weights(labels_N, training).to(device)
    classifier.train()
    for _ in range(training.epochs):
        for rows, images in mini_batches(len(images_N), training, 0, 1):
            predictions = classifier(augment(images_N[rows]).to(device))
            labels = labels_N[rows].to(device)
            loss = summed_loss(predictions, labels, weights_C, model.output) / images
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    classifier.eval()


def summed_loss(
    predictions_N_C: Tensor, labels_N: Tensor, weights_C: Tensor, output: str
) -> Tensor:
    """Return the summed negative log-likelihood of labels, each times the weight of its class.

    Args:
        predictions_N_C: Logits or log-probabilities.
        labels_N: Class indices.
        weights_C: Weights of classes 0 to the largest label at least.
        output: The kind of predictions, "logits" or "log_probs".
    """
    loss_of = F.cross_entropy if output == "logits" else F.nll_loss
    losses_N = loss_of(predictions_N_C, labels_N, reduction="none")
    return (losses_N * weights_C[labels_N]).sum()


def make_class_weights(labels_N: Tensor, config: TrainingConfig) -> Tensor:
    """Return a weight for each class up to the largest label, whose mean over images is 1.

    Balanced, it is N / (C · n_c) for the n_c images of a class and the C classes that have any
    (King and Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan.a004868, as scikit-learn has
    it), so that all classes have the same sum of weights.

    Args:
        labels_N: Class indices of the whole training set.
        config: Settings of the fit.
    """
    counts_C = torch.bincount(labels_N)
    if config.class_weights is None:
        return torch.ones(len(counts_C))
    return len(labels_N) / ((counts_C > 0).sum() * counts_C.clamp(min=1))


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig
) -> torch.optim.lr_scheduler.CosineAnnealingLR:
    """Make a schedule that lowers the learning rate to 0 along a cosine, one step per epoch."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)


def steps_per_pass(images: int, config: TrainingConfig, workers: int = 1) -> int:
    """Return the number of optimisation steps in one pass over the training set.

    It is the number that one worker alone would make, unless the largest share of a worker has
    fewer images than that.

    Args:
        images: Number of images in the whole training set, at least one.
        config: Settings of the fit.
        workers: Number of workers.
    """
    return min(math.ceil(images / config.batch_size), math.ceil(images / workers))


def passes_per_epoch(images: int, config: TrainingConfig, workers: int = 1) -> int:
    """Return the number of passes per epoch, the smallest that leads to `min_steps` in all.

    Args:
        images: Number of images in the whole training set, at least one.
        config: Settings of the fit, with at least one epoch.
        workers: Number of workers.
    """
    steps = config.epochs * steps_per_pass(images, config, workers)
    return max(1, math.ceil(config.min_steps / steps))


def steps_of_fit(images: int, config: TrainingConfig, workers: int = 1) -> int:
    """Return the number of optimisation steps of a fit; arguments as for `passes_per_epoch`."""
    passes = config.epochs * passes_per_epoch(images, config, workers)
    return passes * steps_per_pass(images, config, workers)


def mini_batches(
    images: int, config: TrainingConfig, rank: int, workers: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield one epoch of a worker's share: whole passes, each in a random order of its own.

    Shares differ by one image at most, and all workers make the same number of steps.

    Args:
        images: Number of images in the whole training set.
        config: Settings of the fit.
        rank: Rank of this worker, whose rows are every `workers`-th image.
        workers: Number of workers.

    Yields:
        This worker's rows of a mini-batch, and the size of the mini-batch over all workers.
    """
    shares = [len(range(r, images, workers)) for r in range(workers)]
    steps = steps_per_pass(images, config, workers)
    for _ in range(passes_per_epoch(images, config, workers)):
        order = torch.randperm(shares[rank])
        for step, rows in enumerate(np.array_split(order.numpy(), steps)):
            everyone = sum(share // steps + (step < share % steps) for share in shares)
            yield torch.from_numpy(rows), everyone


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make an AdamW optimizer, or SGD with momentum 0.9."""
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


def make_augmentation(config: AugmentationConfig) -> Callable[[Tensor], Tensor]:
    """Return a function that randomly augments each image of uint8 [N, 3, H, W] independently."""
    if config == AugmentationConfig():
        return lambda images_N: images_N
    # This import takes 4 seconds, which a fit without augmentation does not spend.
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
    """Return a function that shifts an image by up to `padding` pixels each way, over black."""

    def crop(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
        return F.pad(image, [padding] * 4)[..., top : top + height, left : left + width]

    return crop
