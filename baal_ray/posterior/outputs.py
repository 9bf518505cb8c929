"""Read a model's output as it is declared: logits or log-probabilities, never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError

KINDS = ("logits", "log_probs")


@dataclass(frozen=True)
class Output:
    """The kind of output that a model is declared to return, and its place.

    Attributes:
        kind: "logits" or "log_probs".
        field: Name of the field that has the predictions if the model returns an object, or the
            place in a tuple. None for a field that is named as the kind.

    Raises:
        PosteriorError: If the kind or the type of the field is another.
    """

    kind: str = "logits"
    field: str | int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PosteriorError(f"output is {self.kind!r}; it must be {' or '.join(KINDS)}")
        if isinstance(self.field, bool) or not isinstance(self.field, str | int | None):
            raise PosteriorError(
                f"output_field is {self.field!r}; it must be the name of a field, its place in a "
                "tuple, or None"
            )

    def predictions_in(self, returned: object) -> Tensor:
        """Return the predictions [N, C] in whatever a model returns, as `prediction_of` does."""
        return prediction_of(returned, self.kind if self.field is None else self.field)

    def log_probs_of(self, returned: object) -> Tensor:
        """Return log-probabilities [N, C], float32 or wider, from whatever a model returns.

        Raises:
            PosteriorError: If there is no tensor of predictions.
        """
        predictions = self.predictions_in(returned)
        predictions = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
        return predictions.log_softmax(dim=-1) if self.kind == "logits" else predictions

    def check(self, predictions: Tensor, images: int) -> None:
        """Check the model's predictions for a few images against its declaration.

        Raises:
            PosteriorError: If the shape is not [images, 2 classes or more], or the output is not
                what was declared.
        """
        _check_shape(list(predictions.shape), images)
        predictions = predictions.double()
        if self.kind == "log_probs" and not _sum_to_one(predictions.exp()):
            raise PosteriorError(
                "the model is declared to return log_probs, but their exponentials sum to "
                f"{predictions.exp().sum(dim=1)[0].item():.4g} instead of 1; declare output: "
                "logits"
            )
        if self.kind == "logits" and (predictions >= 0).all() and _sum_to_one(predictions):
            raise PosteriorError(
                "the model is declared to return logits, but they are probabilities: none is "
                "negative and each image's values sum to 1. Remove its softmax, or return "
                "log_softmax and declare output: log_probs"
            )


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
        "output_field to the field's name or place, or return the tensor from forward()"
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


def _check_shape(shape: list[int], images: int) -> None:
    if len(shape) != 2 or shape[0] != images:
        raise PosteriorError(
            f"the model returns shape {shape} for {images} images; it must be [images, classes]"
        )
    if shape[1] < 2:
        raise PosteriorError(
            f"the model returns shape {shape}, one value per image; it must return at least two "
            "classes, so give a binary classifier two outputs"
        )


def _sum_to_one(probs_N_C: Tensor) -> bool:
    """Return whether each row sums to 1 within 1e-2, for 16-bit floats; rows of NaN pass."""
    return not ((probs_N_C.sum(dim=1) - 1).abs() > 1e-2).any()
