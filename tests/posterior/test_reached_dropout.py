"""Tests of dropouts that a forward pass does not reach."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout


class Model(nn.Module):
    """A network with a dropout, and another one that a function may use."""

    def __init__(self, before: Callable[["Model", Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.other = before, nn.Dropout(0.4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x_N: Tensor) -> Tensor:
        """Predict."""
        predictions: Tensor = self.head(self.drop(self.before(self, x_N)))
        return predictions


@torch.library.custom_op("baal_ray_tests::kernel", mutates_args=())
def kernel(x_N: Tensor, p: float) -> Tensor:
    """Apply dropout where no mask can reach it, as some kernels of attention do."""
    with torch._C.DisableTorchFunction():
        return F.dropout(x_N.clone(), p)


def unused(model: Model, x_N: Tensor) -> Tensor:
    return x_N


def in_a_kernel(model: Model, x_N: Tensor) -> Tensor:
    fused: Tensor = kernel(x_N, model.other.p if model.training else 0.0)
    return fused


def test_a_dropout_without_any_use_is_no_fault() -> None:
    torch.manual_seed(0)
    posterior, x_N = MCDropout(Model(unused), samples=3), torch.randn(5, 8)
    assert [site.p for site in posterior.sites(x_N)] == [0.5]
    expected = torch.stack([posterior.sample(k)(x_N).detach() for k in range(3)], dim=1)
    torch.testing.assert_close(posterior.log_probs(x_N), expected, rtol=0, atol=1e-5)


def test_one_whose_rate_goes_into_a_kernel_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(PosteriorError, match=r"dropout is not reached at other, .* Set its p to"):
        MCDropout(Model(in_a_kernel), samples=3).log_probs(torch.randn(5, 8))
