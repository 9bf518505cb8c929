"""Tests of mini-batches whose type the model does not take."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3))
    ).eval()


def images(dtype: torch.dtype) -> Tensor:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return pixels.to(dtype)


WAYS: dict[str, Callable[[MCDropout, Tensor], object]] = {
    "log_probs": lambda posterior, images_N: posterior.log_probs(images_N),
    "statistics": lambda posterior, images_N: posterior.statistics(images_N),
    "sample": lambda posterior, images_N: posterior.sample(0)(images_N),
    "check": lambda posterior, images_N: posterior.check(images_N),
}


@pytest.mark.parametrize("draw", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("used", [False, True])
def test_the_types_of_images_and_weights_are_named(
    draw: Callable[[MCDropout, Tensor], object], dtype: torch.dtype, used: bool
) -> None:
    posterior = MCDropout(convolutions(), samples=2, traced=False)
    if used:  # it has been right for other mini-batches
        posterior.log_probs(images(torch.float32))
    told = rf"has dtype {dtype}, on which .* weights. Convert it with images_N.to\(torch.float32\)"
    with pytest.raises(PosteriorError, match=told):
        draw(posterior, images(dtype))


def test_a_model_that_converts_its_images_takes_any_type() -> None:
    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutions()

        def forward(self, images_N: Tensor) -> Tensor:
            predictions: Tensor = self.net(images_N.float() / 255)
            return predictions

    posterior = MCDropout(Converting(), samples=2)
    expected = posterior.log_probs(images(torch.uint8))
    torch.testing.assert_close(posterior.log_probs(images(torch.float64)), expected)


def test_another_fault_is_not_blamed_on_the_type() -> None:
    images_N = torch.zeros(4, 3, 9, 9, dtype=torch.float64)  # of a wrong size, too
    with pytest.raises(RuntimeError, match=r"type|shape"):
        MCDropout(convolutions(), samples=2).log_probs(images_N)
