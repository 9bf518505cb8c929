"""Read a model's output as it is declared: logits or log-probabilities, never guessed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError

OUTPUTS = ("logits", "log_probs")


def prediction_of(returned: object, field: str | int) -> Tensor:
    """Return the prediction [N, C] in whatever a model returns.

    Args:
        returned: A tensor, which is the prediction itself, or an object that has it in a field: a
            dictionary, a dataclass such as transformers' `ModelOutput`, or a tuple.
        field: Name of the field, or its place in a tuple.

    Raises:
        PosteriorError: If there is no such field, or it is not a tensor.
    """
    if isinstance(returned, Tensor):
        return returned
    fields = _fields(returned)
    prediction = fields.get(field)
    if isinstance(prediction, Tensor):
        return prediction
    found = ", ".join(f"{name!r} ({_kind(value)})" for name, value in fields.items())
    raise PosteriorError(
        f"the model returns a {type(returned).__name__} whose fields are {found or 'none'}; it "
        f"must return one tensor [images, classes], or have it in the field {field!r}. Set "
        "model.output_field to the field's name or place, or return the tensor from forward()"
    )


def _fields(returned: object) -> dict[str | int, object]:
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple | list):
        names = getattr(returned, "_fields", ())  # those of a named tuple
        return {**dict(zip(names, returned, strict=False)), **dict(enumerate(returned))}
    return dict(getattr(returned, "__dict__", {}))


def _kind(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def log_probs_of(returned: object, output: str) -> Tensor:
    """Return log-probabilities [N, C], float32 or wider, from whatever a model returns.

    Args:
        returned: A tensor, or an object that has it in a field named as `output`.
        output: The kind of output, "logits" or "log_probs".

    Raises:
        PosteriorError: If there is no such tensor.
    """
    predictions = prediction_of(returned, output)
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
