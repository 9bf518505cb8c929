"""Pick from a ranking so that no two picks are nearly the same image to the model."""

import torch
from torch import Tensor


def spread_out(features_N_D: Tensor, k: int, most_alike: float) -> Tensor:
    """The first k images of a ranking of which no two are more alike than allowed.

    In order of rank each image is picked unless the cosine similarity of its features and those of
    an earlier pick is larger. Where that leaves fewer than k, the first of those passed over fill
    the batch up, at its end.

    Args:
        features_N_D: of the images, in order of rank.
        k: how many to pick.
        most_alike: cosine similarity, −1 to 1.

    Returns:
        Their rows, at most k, those picked first in order of rank.
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
