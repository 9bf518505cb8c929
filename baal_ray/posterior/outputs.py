"""Read a model's output as it is declared: logits or log-probabilities, never guessed."""

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError

OUTPUTS = ("logits", "log_probs")


def log_probs_of(predictions: object, output: str) -> Tensor:
    """Return log-probabilities [N, C], float32 or wider, from the model's output.

    Raises:
        PosteriorError: If the output is not a tensor.
    """
    if not isinstance(predictions, Tensor):
        raise PosteriorError(
            f"the model returns a {type(predictions).__name__}; it must return one tensor "
            "[images, classes] in evaluation mode"
        )
    predictions = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    return predictions.log_softmax(dim=-1) if output == "logits" else predictions


def check_output(predictions: Tensor, images: int, output: str) -> None:
    """Check the model's output for a few images against its declaration.

    Raises:
        PosteriorError: If the shape is not [images, 2 classes or more], or the output is not what
            was declared.
    """
    shape = list(predictions.shape)
    if len(shape) != 2 or shape[0] != images:
        raise PosteriorError(
            f"the model returns shape {shape} for {images} images; it must be [images, classes]"
        )
    if shape[1] < 2:
        raise PosteriorError(
            f"the model returns shape {shape}, one value per image; it must return at least two "
            "classes, so give a binary classifier two outputs"
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
            "and each image's values sum to 1. Remove its softmax, or return log_softmax and "
            "declare output: log_probs"
        )


def _sum_to_one(probs_N_C: Tensor) -> bool:
    """Return whether each row sums to 1 within 1e-2, for 16-bit floats; rows of NaN pass."""
    return not ((probs_N_C.sum(dim=1) - 1).abs() > 1e-2).any()
