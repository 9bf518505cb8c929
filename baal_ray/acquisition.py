"""Acquisition functions: the uncertainty of K posterior predictions, summed as they arrive.

All entropies are in nats. They use p ln p = 0 at p = 0, so a class that is ruled out adds nothing
and causes no NaN. A NaN anywhere in an image's predictions makes all statistics of that image NaN,
and affects no other image.

References:
    BALD: Houlsby et al. 2011, https://arxiv.org/abs/1112.5745, eq. 2; Gal et al. 2017,
    https://arxiv.org/abs/1703.02910, which also has the predictive entropy, variation ratio and
    mean standard deviation by these names (section 3).
"""

import torch
from torch import Tensor

from baal_ray.score_names import BALD_WITHOUT, GROUPS, SCORE_COLUMNS


class PredictiveStatistics:
    """Sums over posterior samples, from which every score column is computed.

    The sums take O(N·C) memory, whatever K is, and are the same bit for bit in whatever pieces the
    samples arrive. They are sums of deviations from the first sample.
    If they were taken about zero, samples that agree would have a `mean_std` of 3e-4 and a `bald`
    of 1e-6 instead of 0, from rounding in float32.

    The samples are dealt to `GROUPS` groups in turn. Each group has its own sums, so that BALD can
    be computed without any one of them.

    Attributes:
        samples: Number of samples added so far, K.
    """

    def __init__(self) -> None:
        self.samples = 0

    @classmethod
    def of(cls, log_probs_N_K_C: Tensor) -> "PredictiveStatistics":
        """Return the statistics of all samples at once.

        Raises:
            TypeError: If it is not a dense tensor.
            ValueError: If the shape is not [N, K ≥ 1, C ≥ 1].
        """
        if not isinstance(log_probs_N_K_C, Tensor) or log_probs_N_K_C.layout != torch.strided:
            raise TypeError(
                f"log_probs_N_K_C is a {_kind(log_probs_N_K_C)}; it must be a dense torch.Tensor. "
                "Make one with torch.as_tensor or to_dense()"
            )
        if log_probs_N_K_C.ndim != 3 or 0 in log_probs_N_K_C.shape[1:]:
            raise ValueError(
                f"log_probs_N_K_C has shape {list(log_probs_N_K_C.shape)}; it must be "
                "[N images, K >= 1 posterior samples, C >= 1 classes]"
            )
        statistics = cls()
        statistics.add(log_probs_N_K_C.transpose(0, 1))
        return statistics

    def add(self, log_probs_K_N_C: Tensor) -> None:
        """Add the log-probabilities of K more posterior samples."""
        while len(log_probs_K_N_C):
            # At most one sample for each group: few calls, and the same sums in whatever pieces
            # the samples arrive.
            left = GROUPS - self.samples % GROUPS
            probs_K_N_C = _probs(log_probs_K_N_C[:left])
            if self.samples == 0:
                self._begin(probs_K_N_C[0])
            self._add(probs_K_N_C)
            log_probs_K_N_C = log_probs_K_N_C[left:]

    def _begin(self, first_N_C: Tensor) -> None:
        self._first_N_C = first_N_C
        self._first_entropy_N = _entropy(first_N_C)
        self._deviation_sum_G_N_C = first_N_C.new_zeros(GROUPS, *first_N_C.shape)
        self._squared_deviation_sum_G_N_C = torch.zeros_like(self._deviation_sum_G_N_C)
        self._entropy_deviation_sum_G_N = first_N_C.new_zeros(GROUPS, len(first_N_C))
        self._votes_N_C = torch.zeros_like(first_N_C)

    def _add(self, probs_K_N_C: Tensor) -> None:
        start = self.samples % GROUPS
        groups = slice(start, start + len(probs_K_N_C))
        deviation_K_N_C = probs_K_N_C - self._first_N_C
        entropy_K_N = _entropy(probs_K_N_C)
        self._deviation_sum_G_N_C[groups] += deviation_K_N_C
        self._squared_deviation_sum_G_N_C[groups] += deviation_K_N_C.square()
        self._entropy_deviation_sum_G_N[groups] += entropy_K_N - self._first_entropy_N
        # NaN is kept, because argmax would count it as a vote like any other.
        vote_K_N = torch.ones_like(entropy_K_N).where(entropy_K_N.isfinite(), torch.nan)
        predicted_K_N = probs_K_N_C.argmax(dim=2)
        self._votes_N_C.scatter_add_(1, predicted_K_N.T, vote_K_N.T)
        self.samples += len(probs_K_N_C)

    def mean_probs(self) -> Tensor:
        """Return the Monte Carlo averaged class probabilities [N, C]."""
        return self._mean(self._deviation_sum_G_N_C.sum(dim=0), self.samples)

    def _mean(self, deviation_sum_N_C: Tensor, samples: int) -> Tensor:
        # Rounding can push a mean just below 0, where its entropy would be −∞.
        return (self._first_N_C + deviation_sum_N_C / samples).clamp(min=0)

    def predictive_entropy(self) -> Tensor:
        """Return H(mean_k p_k), the entropy of the averaged prediction [N]."""
        return _entropy(self.mean_probs())

    def expected_entropy(self) -> Tensor:
        """Return mean_k H(p_k), the average entropy of the single samples [N]."""
        return self._mean_entropy(self._entropy_deviation_sum_G_N.sum(dim=0), self.samples)

    def bald(self) -> Tensor:
        """Return H(mean_k p_k) − mean_k H(p_k), at least 0: the samples' disagreement [N]."""
        return (self.predictive_entropy() - self.expected_entropy()).clamp(min=0)

    def _mean_entropy(self, deviation_sum_N: Tensor, samples: int) -> Tensor:
        return self._first_entropy_N + deviation_sum_N / samples

    def bald_without(self) -> list[Tensor]:
        """Return BALD without each group of samples in turn, at least 0, each [N].

        It is NaN for a group that holds no sample, and for one that holds all but one or none of
        the others: a single sample cannot disagree with itself.
        """
        return [bald_N.clamp(min=0) for bald_N in self._bald_without()]

    def _bald_without(self) -> list[Tensor]:
        deviation_sum_N_C = self._deviation_sum_G_N_C.sum(dim=0)
        entropy_sum_N = self._entropy_deviation_sum_G_N.sum(dim=0)
        without = []
        for group in range(GROUPS):
            left = self.samples - len(range(group, self.samples, GROUPS))
            if left < 2 or left == self.samples:
                without.append(torch.full_like(entropy_sum_N, torch.nan))
                continue
            mean_N_C = self._mean(deviation_sum_N_C - self._deviation_sum_G_N_C[group], left)
            expected_N = self._mean_entropy(
                entropy_sum_N - self._entropy_deviation_sum_G_N[group], left
            )
            without.append(_entropy(mean_N_C) - expected_N)
        return without

    def bald_std_error(self) -> Tensor:
        """Return the Monte Carlo standard error of `bald` [N]; NaN for K < 3.

        It estimates how far `bald` is likely to be from that of K other samples, by the grouped
        jackknife √((G − 1)/G Σ_g (B_g − mean B)²), where B_g leaves out group g (Efron 1982, The
        Jackknife, the Bootstrap and Other Resampling Plans, chapter 2).
        """
        groups = min(GROUPS, self.samples)
        without_G_N = torch.stack(self._bald_without()[:groups])
        return ((groups - 1) * without_G_N.var(dim=0, correction=0)).sqrt()

    def variation_ratio(self) -> Tensor:
        """Return the share of samples that do not vote for the commonest class [N]."""
        return 1 - self._votes_N_C.amax(dim=1) / self.samples

    def mean_std(self) -> Tensor:
        """Return (1/C) Σ_c √(E[p_c²] − E[p_c]²), the class-averaged spread of the samples [N]."""
        mean_N_C = self._deviation_sum_G_N_C.sum(dim=0) / self.samples
        squared_N_C = self._squared_deviation_sum_G_N_C.sum(dim=0) / self.samples
        variance_N_C = squared_N_C - mean_N_C.square()
        return variance_N_C.clamp(min=0).sqrt().mean(dim=1)

    def margin(self) -> Tensor:
        """Return the largest averaged probability minus the second [N]; small is informative."""
        mean_N_C = self.mean_probs()
        if mean_N_C.shape[1] == 1:
            return mean_N_C[:, 0]
        first_N, second_N = mean_N_C.topk(2, dim=1).values.unbind(dim=1)
        return first_N - second_N

    def confidence(self) -> Tensor:
        """Return the averaged probability of the predicted class [N]; small is informative."""
        return self.mean_probs().amax(dim=1)

    def predicted(self) -> Tensor:
        """Return the class with the highest averaged probability [N], int64."""
        return self.mean_probs().argmax(dim=1)

    def columns(self) -> dict[str, Tensor]:
        """Return every score column by name, each [N]."""
        return {
            **{name: getattr(self, name)() for name in SCORE_COLUMNS},
            "bald_std_error": self.bald_std_error(),
            "predicted": self.predicted(),
            **dict(zip(BALD_WITHOUT, self.bald_without(), strict=True)),
        }


def bald(log_probs_N_K_C: Tensor) -> Tensor:
    """Return BALD, the mutual information between an image's label and the weights.

    It is H(mean_k p_k) − mean_k H(p_k), Houlsby et al. 2011, eq. 2.

    Args:
        log_probs_N_K_C: Log-probabilities of N images under K posterior samples over C classes,
            in any float type.

    Returns:
        N values in nats, in float32 or the input's type if that is wider.

    Raises:
        TypeError: If it is not a dense tensor.
        ValueError: If the shape is not [N, K, C].
    """
    return PredictiveStatistics.of(log_probs_N_K_C).bald()


def predictive_entropy(log_probs_N_K_C: Tensor) -> Tensor:
    """Return H(mean_k p_k), the entropy of the averaged prediction.

    Arguments and units are those of `bald`.
    """
    return PredictiveStatistics.of(log_probs_N_K_C).predictive_entropy()


def expected_entropy(log_probs_N_K_C: Tensor) -> Tensor:
    """Return mean_k H(p_k), the average entropy of the single samples.

    Arguments and units are those of `bald`.
    """
    return PredictiveStatistics.of(log_probs_N_K_C).expected_entropy()


def variation_ratio(log_probs_N_K_C: Tensor) -> Tensor:
    """Return the share of samples not voting for the commonest class; arguments as for `bald`."""
    return PredictiveStatistics.of(log_probs_N_K_C).variation_ratio()


def mean_std(log_probs_N_K_C: Tensor) -> Tensor:
    """Return (1/C) Σ_c √(E[p_c²] − E[p_c]²) over the samples; arguments as for `bald`."""
    return PredictiveStatistics.of(log_probs_N_K_C).mean_std()


def margin(log_probs_N_K_C: Tensor) -> Tensor:
    """Return the largest averaged probability minus the second; arguments as for `bald`.

    A small margin is informative.
    """
    return PredictiveStatistics.of(log_probs_N_K_C).margin()


def confidence(log_probs_N_K_C: Tensor) -> Tensor:
    """Return the largest averaged probability; arguments as for `bald`.

    A small confidence is informative.
    """
    return PredictiveStatistics.of(log_probs_N_K_C).confidence()


def _kind(value: object) -> str:
    return (
        f"tensor of layout {value.layout}" if isinstance(value, Tensor) else type(value).__name__
    )


def _probs(log_probs: Tensor) -> Tensor:
    return log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).exp()


def _entropy(probs: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(dim=-1)
