"""Predictions and models whose uncertainty has a closed form, or is what a peer computes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

# The tensors here are small. Passing them to other threads takes longer than the sums, and many
# times longer if other work has the cores.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Scenario:
    """An image's predictions probs_K_C, and the expected values of its score columns."""

    name: str
    probs_K_C: Tensor
    columns: dict[str, float]

    @property
    def log_probs_N_K_C(self) -> Tensor:
        return self.probs_K_C.log().unsqueeze(0)


SCENARIOS = [
    Scenario(
        "samples agree on a coin's toss",
        torch.full((20, 2), 0.5),
        {
            "bald": 0,
            "predictive_entropy": log(2),
            "expected_entropy": log(2),
            "variation_ratio": 0,
            "mean_std": 0,
            "margin": 0,
            "confidence": 0.5,
        },
    ),
    Scenario(
        "samples are uniform over ten classes",
        torch.full((7, 10), 0.1),
        {"bald": 0, "predictive_entropy": log(10), "expected_entropy": log(10), "margin": 0},
    ),
    Scenario(
        "three samples are each sure of another of five classes: ln K",
        torch.eye(5)[:3],
        {
            "bald": log(3),
            "predictive_entropy": log(3),
            "expected_entropy": 0,
            "variation_ratio": 2 / 3,
            # Each of three classes has probability 1 once and 0 twice.
            "mean_std": 3 * (2 / 9) ** 0.5 / 5,
            "margin": 0,
            "confidence": 1 / 3,
        },
    ),
    Scenario(
        "eight samples are sure, two of each of four classes: ln C",
        torch.eye(4).repeat(2, 1),
        {"bald": log(4), "expected_entropy": 0, "variation_ratio": 3 / 4, "confidence": 1 / 4},
    ),
    Scenario(
        # Mean (5/8, 3/8). H(5/8) = 0.661563; H(1) = 0; H(1/4) = 0.562335.
        "by hand",
        torch.tensor([[1.0, 0.0], [0.25, 0.75]]),
        {
            "bald": 0.661563 - 0.562335 / 2,
            "predictive_entropy": 0.661563,
            "expected_entropy": 0.562335 / 2,
            "variation_ratio": 0.5,
            "mean_std": 0.375,
            "margin": 0.25,
            "confidence": 0.625,
        },
    ),
    Scenario(
        "one sample, one class",
        torch.ones(1, 1),
        {"bald": 0, "predictive_entropy": 0, "mean_std": 0, "margin": 1, "confidence": 1},
    ),
]


def random_log_probs(images: int, samples: int, classes: int, seed: int = 0) -> Tensor:
    """Return predictions in double precision, from sure to unsure, with more or less agreement."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(0.1, 6, images, dtype=torch.float64).view(-1, 1, 1)
    logits = torch.randn(images, samples, classes, generator=generator, dtype=torch.float64)
    return (sharpness * logits).log_softmax(dim=-1)


def dropout_net(p: float = 0.5, seed: int = 0) -> nn.Module:
    """Return a dense network for 8 numbers per image, with two dropouts and three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, 32),
            nn.ReLU(),
            nn.Dropout(p),
            nn.Linear(32, 16),
            nn.ReLU(inplace=True),
            nn.Dropout(p, inplace=True),
            nn.Linear(16, 3),
        )


def inputs(images: int, *shape: int, seed: int = 1) -> Tensor:
    """Return standard normal images [N, *shape], or [N, 8] if no shape is given."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, *(shape or (8,)), generator=generator)


class Model(nn.Module):
    """A module made from a function of itself and its input."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, images_N: Any) -> Any:
        return self.function(self, images_N)
