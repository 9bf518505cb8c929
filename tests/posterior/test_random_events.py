"""Tests of how random numbers that a model draws itself are reported."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.random_events import own_draws


class Homemade(nn.Module):
    """A module that does something at random in every mode."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x_N: Tensor) -> Tensor:
        """Change the tensor."""
        return self.change(x_N)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "a random mask itself (rand_like)": lambda x: x * (torch.rand_like(x) > 0.3) / 0.7,
    "a random mask itself (rand)": lambda x: x * (torch.rand(x.shape) > 0.3),
    "a random mask itself (bernoulli)": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "a random mask itself (bernoulli_)": lambda x: (
        x * x.clone().bernoulli_(torch.full_like(x, 0.7))
    ),
    "a random mask itself (uniform_)": lambda x: x * (x.clone().uniform_() > 0.3),
    "Gaussian noise itself (randn_like)": lambda x: x * (1 + 0.3 * torch.randn_like(x)),
    "Gaussian noise itself (normal_)": lambda x: x + x.clone().normal_(),
    "random numbers itself (gumbel_softmax)": lambda x: x + F.gumbel_softmax(x),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_own_random_numbers_are_told_as_what_they_are(what: str, rate: float) -> None:
    """A model with another dropout gives different results, one without seems to have none."""
    model = nn.Sequential(nn.Dropout(rate), Homemade(CHANGES[what]), nn.Linear(6, 3)).eval()
    told = "no dropout that can be intercepted" if rate == 0 else "different results"
    with pytest.raises(PosteriorError) as refused:
        MCDropout(model, samples=2).log_probs(torch.randn(4, 6))
    assert told in str(refused.value)
    assert f"1 (Homemade) draws {what}" in str(refused.value)


def test_dropout_is_not_among_them() -> None:
    model = nn.Sequential(
        nn.Dropout(0.5),
        Homemade(lambda x: x * torch.ones_like(x).bernoulli_(0.7)),
        nn.Linear(6, 3),
    ).eval()
    assert own_draws(model, torch.randn(4, 6)) == ""


def test_the_dropout_that_stands_for_gaussian_noise_has_its_mean_and_variance() -> None:
    """A factor of mean 1 and variance v, and dropout with p = v / (1 + v), as the remedy says."""
    variance = 0.09
    p = variance / (1 + variance)
    torch.manual_seed(0)
    factor = F.dropout(torch.ones(1_000_000), p)
    assert factor.mean().item() == pytest.approx(1, abs=0.002)
    assert factor.var().item() == pytest.approx(variance, rel=0.02)
