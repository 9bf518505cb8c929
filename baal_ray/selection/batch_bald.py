"""BatchBALD: the images whose labels together are most informative.

The k best images by BALD are often alike, so their labels give the same information k times.
BatchBALD is the information that all labels of a batch give about the weights together,
I(y_1, …, y_k; w). It greedily takes the image that adds most to it:

    I(y_n; w | y_1 … y_b) = E_{y_1 … y_b} [ BALD of image n under p(w | y_1 … y_b) ]

With K posterior samples, p(w | labels) is a weight per sample. So this is weighted BALD, averaged
over the possible labels of the batch: over all combinations while there are few, later over a
sample of them.

References:
    Kirsch et al. 2019, https://arxiv.org/abs/1906.08158, eq. 6 to 12.
"""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Bytes of joint predictions in memory at once.
_CHUNK_BYTES = 2**26

# The share of ln K, the most information that labels can give about K samples, beyond which gains
# are rounding errors.
_NEARLY = 0.999


@dataclass(frozen=True)
class Batch:
    """A batch in the order in which it was picked.

    Attributes:
        picks_B: Indices of the images.
        gains_B: Information that each image added, in nats.
    """

    picks_B: Tensor
    gains_B: Tensor


def batch_bald(
    log_probs_N_K_C: Tensor, k: int, *, configurations: int = 10_000, seed: int = 0
) -> Batch:
    """Pick k images greedily by BatchBALD.

    Args:
        log_probs_N_K_C: Log-probabilities of N images under the same K posterior samples.
        k: Number of images to pick, at most N.
        configurations: Most combinations of labels to average over. If there are no more, all are
            taken, which is exact. Otherwise this number of them is drawn.
        seed: Seed of the combinations that are drawn.

    Returns:
        The images in the order of picking. If the labels of fewer than k images tell all samples
        apart, the rest are the best by BALD.

    Raises:
        ValueError: If k is not in 1…N.
    """
    images, samples, _ = log_probs_N_K_C.shape
    if not 1 <= k <= images:
        raise ValueError(f"k is {k}; it must be in 1…{images}, because there are {images} images")
    labels = _Labels(samples, configurations, torch.Generator().manual_seed(seed))
    probs_N_K_C = log_probs_N_K_C.double().exp()
    entropy_N_K = torch.special.entr(probs_N_K_C).sum(dim=2)
    bald_N = labels.expected_bald(probs_N_K_C, entropy_N_K)
    gain_N = bald_N.clone()
    picks: list[int] = []
    gains: list[float] = []
    while len(picks) < k and sum(gains) <= _NEARLY * math.log(samples):
        if picks:
            labels.add(probs_N_K_C[picks[-1]])
            gain_N = labels.expected_bald(probs_N_K_C, entropy_N_K)
        gain_N[picks] = -math.inf
        picks.append(int(gain_N.argmax()))
        gains.append(float(gain_N[picks[-1]]))
    rest = k - len(picks)
    if rest:
        logger.warning(
            "the labels of %d images tell all %d posterior samples apart (ln K = %.2f nats), so "
            "the other %d picks are the best by BALD. Draw more samples, or pick fewer images",
            len(picks),
            samples,
            math.log(samples),
            rest,
        )
        bald_N[picks] = -math.inf
        picks += bald_N.topk(rest).indices.tolist()
        gains += [0.0] * rest
    return Batch(torch.tensor(picks), torch.tensor(gains))


class _Labels:
    """The possible label combinations of a batch, and how each would weight the samples.

    Attributes:
        probs_S: Probability of each combination of labels.
        weights_S_K: p(posterior sample | labels) for each combination.
    """

    def __init__(self, samples: int, most: int, generator: torch.Generator) -> None:
        self.probs_S = torch.ones(1, dtype=torch.float64)
        self.weights_S_K = torch.full((1, samples), 1 / samples, dtype=torch.float64)
        self._most = most
        self._generator = generator
        self._all = True  # whether all combinations are here, each with its probability

    def add(self, probs_K_C: Tensor) -> None:
        """Add an image to the batch."""
        predictive_S_C = self.weights_S_K @ probs_K_C
        if self._all and predictive_S_C.numel() <= self._most:
            label_S = torch.arange(probs_K_C.shape[1]).repeat(len(self.probs_S))
            before_S = torch.arange(len(self.probs_S)).repeat_interleave(probs_K_C.shape[1])
            self.probs_S = (self.probs_S.unsqueeze(1) * predictive_S_C).flatten()
        else:
            before_S = self._drawn()
            label_S = torch.multinomial(
                predictive_S_C[before_S], 1, generator=self._generator
            ).squeeze(1)
            self.probs_S = torch.full((self._most,), 1 / self._most, dtype=torch.float64)
        weights_S_K = self.weights_S_K[before_S] * probs_K_C.t()[label_S]
        # Labels that no sample gives have probability 0, so their weights do not matter.
        self.weights_S_K = weights_S_K / weights_S_K.sum(dim=1, keepdim=True).clamp(min=1e-300)

    def _drawn(self) -> Tensor:
        """Return the combinations to continue with: as many as allowed, drawn once, then kept."""
        if not self._all:
            return torch.arange(self._most)
        self._all = False
        return torch.multinomial(
            self.probs_S, self._most, replacement=True, generator=self._generator
        )

    def expected_bald(self, probs_N_K_C: Tensor, entropy_N_K: Tensor) -> Tensor:
        """Return BALD of each image [N] given the labels, averaged over their combinations."""
        combinations, classes = len(self.probs_S), probs_N_K_C.shape[2]
        at_once = max(1, _CHUNK_BYTES // (8 * combinations * classes))
        entropy_N = torch.zeros(len(probs_N_K_C), dtype=torch.float64)
        for start in range(0, len(probs_N_K_C), at_once):
            predictive_N_S_C = self.weights_S_K @ probs_N_K_C[start : start + at_once]
            entropies_N_S = torch.special.entr(predictive_N_S_C).sum(dim=2)
            entropy_N[start : start + at_once] = entropies_N_S @ self.probs_S
        return (entropy_N - entropy_N_K @ (self.probs_S @ self.weights_S_K)).clamp(min=0)
