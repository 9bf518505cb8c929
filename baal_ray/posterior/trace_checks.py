"""Hold predictions of a traced model against those of the model itself.

The first mini-batch is compared as a whole. A forward() may depend on something that a trace does
not see, such as the values of images, so a few images of later mini-batches are compared as well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError, TraceError
from baal_ray.posterior.guards import largest, log_prob_distance

# Number of images of a later mini-batch, evenly spread.
_FEW = 8
# The second mini-batch is compared, and every thousandth. With 256 images in each, this costs
# 3e-5 passes per image.
_EVERY = 1000


def is_due(mini_batch: int) -> bool:
    """Return whether a few images of a mini-batch, numbered from 1, are to be compared."""
    return mini_batch == 2 or mini_batch % _EVERY == 0


def spread(images: int) -> list[int]:
    """Return the places of the few images of a mini-batch."""
    return sorted({i * (images - 1) // (_FEW - 1) for i in range(_FEW)})


def compare(traced_N_C: Tensor, plain_N_C: Tensor, rounding: float) -> None:
    """Compare log-probabilities.

    Args:
        traced_N_C: Log-probabilities by the traced model.
        plain_N_C: Log-probabilities by the model itself.
        rounding: The difference allowed, as a share of the largest log-probability.

    Raises:
        PosteriorError: If they differ.
    """
    allowed = rounding * largest(plain_N_C)
    difference = log_prob_distance(traced_N_C, plain_N_C)
    if difference > allowed or not torch.equal(traced_N_C.isnan(), plain_N_C.isnan()):
        raise PosteriorError(
            f"its log-probabilities change by {difference:.2g} when traced; at most {allowed:.2g} "
            "is allowed"
        )


@dataclass(frozen=True)
class Few:
    """Predictions of the model itself for a few images of a mini-batch.

    Attributes:
        names: Names of the images, for a message.
        places: Their places in the mini-batch.
        log_probs_N_C: Their log-probabilities.
        rounding: The difference allowed, as a share of the largest log-probability.
    """

    names: list[str]
    places: list[int]
    log_probs_N_C: Tensor
    rounding: float

    def compare(self, traced_N_C: Tensor) -> None:
        """Compare them with the log-probabilities of the mini-batch by the traced model.

        Raises:
            TraceError: If an image's differ.
        """
        few_N_C = traced_N_C[self.places]
        allowed = self.rounding * largest(self.log_probs_N_C)
        for name, traced_C, plain_C in zip(self.names, few_N_C, self.log_probs_N_C, strict=True):
            try:
                compare(traced_C, plain_C, allowed / largest(plain_C))
            except PosteriorError as error:
                raise TraceError(
                    f"the model gives a wrong prediction for {name} when traced: {error}. Its "
                    "forward() depends on something that a trace does not see, such as the "
                    "values of images, or on an object that has changed since, after which "
                    "refresh() must be called. So earlier predictions may be wrong too"
                ) from error
