"""Tests of how stochastic depth is recognised."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.stochastic_depth import is_stochastic_depth


class SkipBranch(nn.Module):
    """Stochastic depth of the user's own, which draws as timm does, or as transformers does."""

    def __init__(self, p: float = 0.5, scaled: bool = True, how: str = "bernoulli_") -> None:
        super().__init__()
        self.p, self.scaled, self.how = p, scaled, how

    def forward(self, x_N: Tensor) -> Tensor:
        """Leave out whole images in training mode."""
        if self.p == 0 or not self.training:
            return x_N
        keep_N = x_N.new_empty((len(x_N),) + (1,) * (x_N.ndim - 1))
        if self.how == "bernoulli_":
            keep_N.bernoulli_(1 - self.p)
        else:
            keep_N = (torch.rand(keep_N.shape) < 1 - self.p).float()
        return x_N * (keep_N / (1 - self.p) if self.scaled else keep_N)


class DropPath(SkipBranch):
    """The class of a library, by its name."""


class Doubles(nn.Module):
    """A module that behaves differently in training, but is not random."""

    def forward(self, x_N: Tensor) -> Tensor:
        """Double in training mode, and halve otherwise."""
        return x_N * 2 if self.training else x_N / 2


class CannotBeCopied(SkipBranch):
    """A module with an attribute that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class NoisyScale(nn.Module):
    """A module that multiplies each image by Gaussian noise in training mode."""

    def forward(self, x_N: Tensor) -> Tensor:
        """Multiply."""
        return x_N * torch.randn(len(x_N), 1, 1, 1) if self.training else x_N


class Counts(SkipBranch):
    """A module that counts its calls."""

    calls = 0

    def forward(self, x_N: Tensor) -> Tensor:
        """Count a call."""
        self.calls += 1
        return super().forward(x_N)


@pytest.mark.parametrize(
    "module",
    [
        StochasticDepth(0.2, "row"),
        StochasticDepth(0.2, "batch"),
        DropPath(0.0),
        *(SkipBranch(p) for p in (0.02, 0.5, 0.99)),
        SkipBranch(0.3, scaled=False),
        SkipBranch(0.3, how="rand"),
    ],
)
def test_stochastic_depth_is_recognised_by_name_or_behaviour(module: nn.Module) -> None:
    torch.manual_seed(0)
    assert is_stochastic_depth(module)


@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.ReLU(),
        nn.Identity(),
        type("OwnDropout", (nn.Dropout,), {})(0.5),
        type("OwnDropout2d", (nn.Dropout2d,), {})(0.5),
        type("Sequence", (nn.Sequential,), {})(SkipBranch()),
        type("Fails", (nn.Module,), {})(),
        SkipBranch(0.0),
        CannotBeCopied(),
        Doubles(),
        NoisyScale(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_nothing_else_is(module: nn.Module) -> None:
    torch.manual_seed(0)
    assert not is_stochastic_depth(module)


def test_trying_a_module_changes_neither_it_nor_random_states() -> None:
    module, before = Counts().eval(), torch.get_rng_state()
    assert is_stochastic_depth(module)
    assert not module.calls
    assert not module.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_is_tried_again_when_its_rate_has_changed() -> None:
    module = SkipBranch(0.0)
    assert not is_stochastic_depth(module)
    module.p = 0.3
    assert is_stochastic_depth(module)


class Residual(nn.Module):
    """A network with a residual branch that a module of the user's own may leave out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.branch, self.skip = nn.Linear(6, 6), SkipBranch(**settings)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(6, 3)

    def forward(self, x_N: Tensor) -> Tensor:
        """Predict."""
        predictions: Tensor = self.head(self.drop(x_N + self.skip(self.branch(x_N))))
        return predictions


def test_homemade_stochastic_depth_is_sampled_only_on_request() -> None:
    x_N = torch.randn(4, 6)
    assert len(MCDropout(Residual(), samples=2).sites(x_N)) == 1
    assert [
        site.p for site in MCDropout(Residual(), samples=2, stochastic_depth=True).sites(x_N)
    ] == [
        0.5,
        0.3,
    ]


def test_a_mask_that_cannot_be_caught_is_refused_by_name() -> None:
    posterior = MCDropout(Residual(how="rand"), samples=2, stochastic_depth=True)
    told = (
        r"different results .* skip \(SkipBranch\) draws a random mask itself \(rand\).*bernoulli_"
    )
    with pytest.raises(PosteriorError, match=told):
        posterior.log_probs(torch.randn(4, 6))
