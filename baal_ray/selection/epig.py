"""EPIG: the information that an image's label gives about the predictions that matter.

BALD rewards information about all weights, including those that matter only for images that nobody
will ask about. EPIG is the mutual information between an image's label and that of a target image,
averaged over targets like those the model will be used on.

References:
    Bickford Smith et al. 2023, Prediction-Oriented Bayesian Active Learning,
    https://arxiv.org/abs/2304.08151, eq. 6 and 9.
"""

import torch
from torch import Tensor

# Bytes of joint predictions in memory at once.
_CHUNK_BYTES = 2**26


def epig(log_probs_N_K_C: Tensor, target_log_probs_M_K_C: Tensor) -> Tensor:
    """Return the expected predictive information gain of N images about M targets.

    It is the mean over targets of I(y; y*) = H(y) + H(y*) − H(y, y*), where the joint prediction
    is p(y, y*) = mean_k p_k(y) p_k(y*).

    Args:
        log_probs_N_K_C: Log-probabilities of N images under K posterior samples.
        target_log_probs_M_K_C: Log-probabilities of M targets under the same samples.

    Returns:
        N values in nats, at least 0, float64.

    Raises:
        ValueError: If there are no targets, or if K or C differ.
    """
    targets, *shape = target_log_probs_M_K_C.shape
    if not targets or list(log_probs_N_K_C.shape[1:]) != shape:
        raise ValueError(
            f"log_probs_N_K_C has shape {list(log_probs_N_K_C.shape)}, target_log_probs_M_K_C "
            f"{[targets, *shape]}; there must be targets, with the same K and C"
        )
    samples, classes = shape
    probs_N_K_C = log_probs_N_K_C.double().exp()
    target_probs_M_K_C = target_log_probs_M_K_C.double().exp()
    entropy_N = torch.special.entr(probs_N_K_C.mean(dim=1)).sum(dim=1)
    target_entropy = torch.special.entr(target_probs_M_K_C.mean(dim=1)).sum(dim=1).mean()
    pairs = max(1, _CHUNK_BYTES // (8 * classes**2))
    targets_at_once = min(targets, pairs)
    at_once = max(1, pairs // targets_at_once)
    joint_entropy_N = entropy_N.new_zeros(len(entropy_N))
    for some_M_K_C in torch.split(target_probs_M_K_C, targets_at_once):
        some_K_MC = some_M_K_C.transpose(0, 1).flatten(1)
        for start in range(0, len(entropy_N), at_once):
            some_N_C_K = probs_N_K_C[start : start + at_once].transpose(1, 2)
            joint_N_C_MC = some_N_C_K @ some_K_MC / samples
            entropies_N = torch.special.entr(joint_N_C_MC).sum(dim=(1, 2))
            joint_entropy_N[start : start + at_once] += entropies_N / targets
    return torch.clamp(entropy_N + target_entropy - joint_entropy_N, min=0)
