"""Read what a model returns as it is declared: logits or log-probabilities, never guessed."""

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError

OUTPUTS = ("logits", "log_probs")


def log_probs_of(predictions: object, output: str) -> Tensor:
    """Log-probabilities [N, C], float32 or wider, from what the model returned.

    Raises:
        PosteriorError: it returned something else than a tensor.
    """
    if not isinstance(predictions, Tensor):
        raise PosteriorError(
            f"the model returns a {type(predictions).__name__}; it must return one tensor "
            "[images, classes] in evaluation mode"
        )
    predictions = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    return predictions.log_softmax(dim=-1) if output == "logits" else predictions


def check_output(predictions: Tensor, images: int, output: str) -> None:
    """Hold what the model returned for a few images against its declaration.

    Raises:
        PosteriorError: its shape is not [images, 2 classes or more], or it is not what was
            declared.
    """
    shape = list(predictions.shape)
    if len(shape) != 2 or shape[0] != images:
        raise PosteriorError(
            f"the model returns shape {shape} for {images} images; it must be [images, classes]"
        )
    if shape[1] < 2:
        raise PosteriorError(
            f"the model returns shape {shape}, one value an image; it must be two classes or "
            "more, so give a binary classifier two outputs"
        )
    predictions = predictions.double()
    if output == "log_probs" and not _sum_to_one(predictions.exp()):
        raise PosteriorError(
            "the model is declared to return log_probs, but their exponentials sum to "
            f"{predictions.exp().sum(dim=1)[0].item():.4g} instead of 1; declare output: logits"
        )
    if output == "logits" and (predictions >= 0).all() and _sum_to_one(predictions):
        raise PosteriorError(
            "the model is declared to return logits, but they are probabilities: none is negative "
            "and each image's sum to 1. Leave out its softmax, or return log_softmax and declare "
            "output: log_probs"
        )


def _sum_to_one(probs_N_C: Tensor) -> bool:
    """Whether each row does, less rows of NaN; loosely, as they may come from 16-bit floats."""
    return not ((probs_N_C.sum(dim=1) - 1).abs() > 1e-2).any()
