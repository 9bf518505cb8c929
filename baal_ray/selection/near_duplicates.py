"""Picks from a ranking of which no two are nearly the same image to the model."""

import torch
from torch import Tensor


def spread_out(features_N_D: Tensor, k: int, most_alike: float) -> Tensor:
    """Return the first k images of a ranking of which no two are more alike than allowed.

    Images are picked in order of rank. An image is passed over if the cosine similarity of its
    features and those of an earlier pick is above the limit. If that leaves fewer than k picks,
    the first images that were passed over fill the end of the batch.

    Args:
        features_N_D: Features of the images, in order of rank.
        k: Number of images to pick.
        most_alike: Largest cosine similarity allowed, −1 to 1.

    Returns:
        At most k rows: first the images picked, then those that fill the batch, both in order of
        rank.
    """
    directions_N_D = torch.nn.functional.normalize(features_N_D.float(), dim=1)
    passed_over_N = torch.zeros(len(directions_N_D), dtype=torch.bool)
    picks: list[int] = []
    for row in range(len(directions_N_D)):
        if len(picks) == k:
            break
        if not passed_over_N[row]:
            picks.append(row)
            alike_N = directions_N_D @ directions_N_D[row] > most_alike
            alike_N[: row + 1] = False
            passed_over_N |= alike_N
    rest = passed_over_N.nonzero().flatten()[: k - len(picks)]
    return torch.cat([torch.tensor(picks, dtype=torch.int64), rest])
