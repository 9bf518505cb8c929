"""Tests that thinned samples equal masked ones, with only the multiplications that masks leave."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from baal_ray.posterior import MCDropout
from baal_ray.posterior.dropout.masks import SharedMasks
from baal_ray.posterior.engine import thinning
from scenarios import inputs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Residual(nn.Module):
    """A residual network in which two operations use the output of a dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.drop = nn.Linear(8, 64), nn.Dropout(0.5)
        self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x):
        x = self.drop(self.first(x))
        return self.head(self.drop(x + self.second(x)))


def dense(*between):
    return nn.Sequential(
        *(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64)),
        *(*between, nn.Dropout(0.5), nn.Linear(64, 3)),
    )


def convolutions(*after):
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.5)),
        *(nn.Conv2d(8, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout2d(0.5)),
        *(*after, nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)),
    )


FLAT, PICTURES = (8,), (3, 8, 8)
HALF = 1 / 2

# Shape of an image, network, and share of the tail's multiplications that is left.
THINNED = {
    "chain": (FLAT, dense(nn.ReLU()), (64 * 64 / 4 + 64 * 3 / 2) / (64 * 64 + 64 * 3)),
    "past GELU": (FLAT, dense(nn.GELU()), (64 * 64 / 4 + 64 * 3 / 2) / (64 * 64 + 64 * 3)),
    "sigmoid before": (FLAT, dense(nn.Sigmoid()), (64 * 64 / 4 + 64 * 3 / 2) / (64 * 67)),
    "softmax before": (FLAT, dense(nn.Softmax(1)), HALF),
    "relu after": (
        FLAT,
        nn.Sequential(
            *(nn.Linear(8, 64), nn.Dropout(0.5), nn.ReLU6(), nn.Linear(64, 64, bias=False)),
            *(nn.Dropout(0.25), nn.Tanh(), nn.Linear(64, 3)),
        ),
        (64 * 64 * 0.5 * 0.75 + 64 * 3 * 0.75) / (64 * 67),
    ),
    "channels": (
        PICTURES,
        convolutions(nn.MaxPool2d(2)),
        (8 * 32 * 9 * 64 / 4 + 512 * 16 / 4 + 16 * 3 / 2) / (8 * 32 * 9 * 64 + 512 * 16 + 16 * 3),
    ),
}


@pytest.mark.parametrize(("shape", "model", "share"), THINNED.values(), ids=THINNED.keys())
def test_thinned_samples_are_the_masked_ones(shape, model, share):
    model, images_N = model.train(), inputs(6, *shape)
    model(images_N)  # the lazy layer's size; averages for the batch norm
    posterior = MCDropout(model, 5)
    fast = posterior.log_probs(images_N)
    plain = torch.stack([posterior.sample(k)(images_N).detach() for k in range(5)], dim=1)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    (prepared,) = posterior._kept.traces._by_key.values()
    assert prepared._thinned.share == pytest.approx(share)


def count(posterior, images_N):
    posterior.log_probs(images_N)
    with FlopCounterMode(display=False) as counter:
        posterior.log_probs(images_N)
    return counter.get_total_flops()


def test_half_the_channels_are_a_quarter_of_the_work():
    # The work is the trunk once, and 100 samples of a tail of which about a quarter is left.
    model, images_N = convolutions(nn.MaxPool2d(2)), inputs(6, *PICTURES)
    model(images_N)
    tail = 8 * 32 * 9 * 64 + 512 * 16 + 16 * 3
    trunk = 3 * 8 * 9 * 64
    per_image = count(MCDropout(model, 100), images_N) / 2 / 6
    assert per_image - trunk == pytest.approx(100 * tail / 4, rel=0.05)


NOT_THINNED = {
    "residual": (FLAT, Residual()),
    "a shift after": (FLAT, nn.Sequential(nn.Dropout(0.5), nn.Sigmoid(), nn.Linear(8, 3))),
    "a clamp away from 0": (
        FLAT,
        nn.Sequential(nn.Dropout(0.5), nn.Hardtanh(0.1, 1.0), nn.Linear(8, 3)),
    ),
    "another mask at each position": (
        PICTURES,
        nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)),
    ),
    "groups": (
        PICTURES,
        nn.Sequential(
            nn.Dropout2d(0.5), nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(216, 3)
        ),
    ),
    "alpha": (FLAT, nn.Sequential(nn.Linear(8, 8), nn.AlphaDropout(0.5), nn.Linear(8, 3))),
    "pooled over channels": (
        (3, 8),
        nn.Sequential(
            *(nn.Conv1d(3, 6, 3), nn.Dropout1d(0.5), nn.MaxPool2d(3, 1, 1)),
            *(nn.Flatten(), nn.Linear(36, 3)),
        ),
    ),
    "saves too little": (FLAT, nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 3))),
}


@pytest.mark.parametrize(("shape", "model"), NOT_THINNED.values(), ids=NOT_THINNED.keys())
def test_what_does_not_allow_it_is_masked(shape, model):
    images_N = inputs(6, *shape)
    posterior = MCDropout(model, 5)
    fast = posterior.log_probs(images_N)
    plain = torch.stack([posterior.sample(k)(images_N).detach() for k in range(5)], dim=1)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    (prepared,) = posterior._kept.traces._by_key.values()
    assert prepared._thinned is None


def test_samples_whose_copies_have_no_room_are_masked(monkeypatch):
    model = dense(nn.ReLU())
    expected = MCDropout(model, 5).log_probs(inputs(6))
    monkeypatch.setattr(thinning.ThinnedTail, "forget", starve)
    posterior = MCDropout(model, 5)
    for _ in range(2):
        drawn = posterior.log_probs(inputs(6))
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)
    (prepared,) = posterior._kept.traces._by_key.values()
    assert sorted(prepared._thinned._copies) == [0, 1]


def test_samples_that_drop_a_whole_layer_are_masked():
    # A sample drops all three channels with probability 0.3³. Here, sample 82 does.
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Dropout2d(0.3), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 3)),
    )
    images_N = inputs(6, 3, 12, 12)
    posterior = MCDropout(model, 100)
    drawn = posterior.log_probs(images_N)
    empty = [
        k
        for k in range(100)
        if not SharedMasks(0, (k,)).keep(0, (3, 1, 1), 0.3, images_N.device).any()
    ]
    assert empty
    for k in (0, *empty):
        torch.testing.assert_close(drawn[:, k], posterior.sample(k)(images_N), rtol=0, atol=1e-5)


def starve(tail):
    """Leave room for two samples of about 32 · 32 + 32 + 3 · 32 numbers."""
    tail._copies, tail._bytes, tail._max_bytes, tail._full = {}, 0, 12_000, False
