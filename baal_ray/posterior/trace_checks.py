"""Hold predictions of a traced model against those of the model itself.

The first mini-batch is compared as a whole. A forward() may depend on something that a trace does
not see, such as the values of images, so a few images of later mini-batches are compared as well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baal_ray.errors import PosteriorError, TraceError
from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.guards import largest, log_prob_distance, rounding_on
from baal_ray.posterior.mini_batch import MiniBatch
from baal_ray.posterior.model_changes import unchanged
from baal_ray.posterior.samples import Samples

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


def run_whole(samples: Samples, k: int, batch: MiniBatch) -> Tensor:
    """Run the model itself as sample k, leave it unchanged, and return log-probabilities."""
    with unchanged(samples.model, batch.images_N.device):
        return samples.run(k, batch)


def hold_against_model(
    samples: Samples, trace: TrunkOnce, batch: MiniBatch, first_N_C: Tensor
) -> None:
    """Draw samples by the traced model, twice, and compare them with the model itself.

    Of the samples drawn together, the first is compared on every image, the last on a few.

    Args:
        samples: The samples of a posterior.
        trace: The traced model.
        batch: A mini-batch.
        first_N_C: Log-probabilities of sample 0 by the model itself.

    Raises:
        PosteriorError: If they differ.
    """
    ks, few = range(trace.together), spread(len(batch))
    plain_N_C = torch.cat([first_N_C, run_whole(samples, ks[-1], batch.at(few))])
    rounding = rounding_on(first_N_C.device, in_16_bits=trace.in_16_bits)
    for _ in range(2):
        with torch.autocast(first_N_C.device.type, enabled=False):
            traced_K_N_C = torch.cat(list(samples.draw(trace, batch, ks)))
        compare(torch.cat([traced_K_N_C[0], traced_K_N_C[-1, few]]), plain_N_C, rounding)


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

    @classmethod
    def of(cls, samples: Samples, k: int, batch: MiniBatch, *, in_16_bits: bool) -> "Few":
        """Run the model itself as sample k on a few images of a mini-batch."""
        places = spread(len(batch))
        log_probs_N_C = run_whole(samples, k, batch.at(places))
        rounding = rounding_on(log_probs_N_C.device, in_16_bits=in_16_bits)
        return cls([batch.name(place) for place in places], places, log_probs_N_C, rounding)

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
