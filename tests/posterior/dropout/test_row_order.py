"""Tests of which rows of a tensor belong to which image."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baal_ray.posterior import MCDropout
from baal_ray.posterior.dropout.row_order import unlike


@pytest.mark.parametrize(
    "images",
    [
        torch.tensor([[0, 255], [3, 4]], dtype=torch.uint8),
        torch.full((2, 2), 7, dtype=torch.uint8),
        torch.tensor([[-1.0, 2.0], [0.5, float("nan")]]),
        torch.zeros(2, 2, dtype=torch.bfloat16),
    ],
)
def test_other_images_are_like_these_in_type_and_range(images):
    others = unlike(images)
    assert (others.shape, others.dtype) == (images.shape, images.dtype)
    assert others.isfinite().all()
    assert (others != images).any(dim=1).all()
    finite = images.nan_to_num()
    if finite.min() != finite.max():
        assert finite.min() <= others.min()
        assert others.max() <= finite.max()


class Windows(nn.Module):
    """Windows of a picture, behind a residual branch that starts at zero, as with ReZero."""

    def __init__(self, outer):
        super().__init__()
        self.outer = outer
        self.conv, self.gate = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(()))
        self.place = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.hidden, self.head = nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, images_N):
        x = self.place + self.gate * self.conv(images_N.float() / 255)
        windows = F.unfold(x, 2, stride=2).transpose(1, 2)
        if not self.outer:
            windows = windows.transpose(0, 1)
        rows = self.hidden(F.dropout(windows.flatten(0, 1), 0.2)).relu()
        return self.head(rows.view(*windows.shape[:2], 16).mean(dim=1 if self.outer else 0))


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_branch_that_a_weight_of_zero_switches_off_still_shows_the_order(outer, dtype):
    torch.manual_seed(0)
    model = Windows(outer).eval()
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8).to(dtype)
    posterior = MCDropout(model, 3)
    (site,) = posterior.sites(images)
    assert site.axis.outer == outer
    nn.init.ones_(model.gate)
    again = torch.stack([posterior.sample(k)(images).detach() for k in range(3)], dim=1)
    torch.testing.assert_close(posterior.log_probs(images), again, rtol=0, atol=1e-5)
