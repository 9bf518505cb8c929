"""Tests of the axis of the mini-batch at each dropout."""

import torch
import torch.nn.functional as F
from torch import nn

from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis
from baal_ray.posterior.dropout.sites import find_axes


class Places(nn.Module):
    """A model that drops out images, steps, rows of several images, and weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 6))

    def forward(self, x_N_D):
        x = F.linear(F.dropout(x_N_D, 0.5), F.dropout(self.weight, 0.5))
        F.dropout(x.reshape(-1, 3, 2).transpose(0, 1), 0.5)
        F.dropout(x.reshape(-1, 2), 0.5)
        F.dropout(torch.cat([x, x]), 0.5)
        return x


def test_it_is_found_along_any_axis_and_in_weights_there_is_none():
    images = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    assert find_axes(Places().eval(), images) == (
        MiniBatchAxis(0),
        None,
        MiniBatchAxis(1),
        MiniBatchAxis(0, rows=3),
        MiniBatchAxis(0, rows=2, outer=False),
    )
