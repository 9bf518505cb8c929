"""The quality of averaged predictions on labelled images, overall and for each class.

Everything is a sum over images, so each worker can take a share and the sums add up.
"""

import torch
from torch import Tensor

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.workspace.records import ClassCounts

BINS = 15
_TOTALS = 2 + 3 * BINS


def evaluation_sums(predictions: PredictiveStatistics, labels_N: Tensor) -> Tensor:
    """Return the sums over N images that `metrics` and `class_counts` need.

    Args:
        predictions: Predictions for N images.
        labels_N: Class indices of the images.

    Returns:
        A float64 vector of 2 + 3 · `BINS` + 3 · C sums over the images: the number of correct
        ones, the negative log-likelihood (nats), then the number of images, the confidence and
        the number of correct images in each bin of confidence, then the number of images, of
        predictions and of correct images of each class. Vectors of disjoint images add up. A
        prediction that is NaN counts as wrong, is of no class, and makes the likelihood and the
        confidence NaN.
    """
    mean_N_C = predictions.mean_probs().double()
    confidence_N, predicted_N = mean_N_C.max(dim=1)
    correct_N = ((predicted_N == labels_N) & ~confidence_N.isnan()).double()
    likelihood_N = mean_N_C.gather(1, labels_N.long().unsqueeze(1)).squeeze(1)
    # A label with probability 0 in float32 costs 87 nats. Infinity would hide all other images.
    smallest = torch.finfo(torch.float32).tiny
    bin_N = (confidence_N.nan_to_num() * BINS).long().clamp(max=BINS - 1)
    by_bin = torch.zeros(3, BINS, dtype=torch.float64, device=mean_N_C.device)
    by_bin.index_add_(1, bin_N, torch.stack([torch.ones_like(correct_N), confidence_N, correct_N]))
    totals = torch.stack([correct_N.sum(), -likelihood_N.clamp(min=smallest).log().sum()])
    by_class = torch.zeros(3, mean_N_C.shape[1], dtype=torch.float64, device=mean_N_C.device)
    by_class[0].index_add_(0, labels_N.long(), torch.ones_like(correct_N))
    by_class[1].index_add_(0, predicted_N, (~confidence_N.isnan()).double())
    by_class[2].index_add_(0, labels_N.long(), correct_N)
    return torch.cat([totals, by_bin.flatten(), by_class.flatten()])


def no_images(device: torch.device, classes: int) -> Tensor:
    """Return the sums over no images, for a number of classes."""
    return torch.zeros(_TOTALS + 3 * classes, dtype=torch.float64, device=device)


def metrics(sums: Tensor) -> dict[str, float]:
    """Compute accuracy, negative log-likelihood and expected calibration error from the sums.

    The calibration error is Σ_b n_b/N · |accuracy_b − confidence_b| over `BINS` bins of equal
    width (Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3).

    Returns:
        `accuracy`, `nll` (nats), `ece` and `images`, or nothing if there were no images.
    """
    correct, nll = sums[:2].tolist()
    images_B, confidence_B, correct_B = sums[2:_TOTALS].view(3, BINS)
    images = images_B.sum().item()
    if not images:
        return {}
    ece = (correct_B - confidence_B).abs().sum().item() / images
    return {"accuracy": correct / images, "nll": nll / images, "ece": ece, "images": images}


def class_counts(sums: Tensor) -> ClassCounts:
    """Return the counts of each class from the sums. Its recall and precision follow from them."""
    images, predicted, correct = sums[_TOTALS:].long().view(3, -1).tolist()
    return ClassCounts(images=images, predicted=predicted, correct=correct)
