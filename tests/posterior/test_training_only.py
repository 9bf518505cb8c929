"""Tests of models whose dropout is there in training mode only."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models, ops

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout

SHAPE = (3, 8, 8)


class Model(nn.Module):
    """A network with a dropout that always runs, and a function before it."""

    def __init__(self, before: Callable[["Model", Tensor], Tensor]) -> None:
        super().__init__()
        self.before = before
        self.flatten = nn.Flatten()
        self.block = ops.DropBlock2d(0.2, 3)
        self.norm = nn.BatchNorm1d(192)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(192, 4)

    def forward(self, images_N: Tensor) -> Tensor:
        """Predict."""
        features_N = self.norm(self.flatten(self.before(self, images_N)))
        predictions: Tensor = self.head(self.drop(features_N))
        return predictions


def functional(model: Model, x_N: Tensor) -> Tensor:
    return F.dropout(x_N, 0.5) if model.training else x_N


def attention(model: Model, x_N: Tensor) -> Tensor:
    p = 0.3 if model.training else 0.0
    return F.scaled_dot_product_attention(x_N, x_N, x_N, None, p, False)


def attention_by_name(model: Model, x_N: Tensor) -> Tensor:
    p = 0.3 if model.training else 0.0
    return F.scaled_dot_product_attention(x_N, x_N, value=x_N, dropout_p=p)


def gaussian(model: Model, x_N: Tensor) -> Tensor:
    return x_N * (1 + 0.3 * torch.randn_like(x_N)) if model.training else x_N


def homemade(model: Model, x_N: Tensor) -> Tensor:
    return x_N * (torch.rand(x_N.shape) > 0.3) if model.training else x_N


def drop_block(model: Model, x_N: Tensor) -> Tensor:
    block: Tensor = model.block(x_N)
    return block


def skip_by_bernoulli(model: Model, x_N: Tensor) -> Tensor:
    return x_N * x_N.new_empty(len(x_N), 1, 1, 1).bernoulli_(0.8) if model.training else x_N


def skip_by_rand(model: Model, x_N: Tensor) -> Tensor:
    """Leave out images as EfficientNet-PyTorch's `drop_connect` does."""
    if not model.training:
        return x_N
    return x_N / 0.8 * torch.floor(0.8 + torch.rand([len(x_N), 1, 1, 1]))


@pytest.mark.parametrize("before", [skip_by_bernoulli, skip_by_rand])
def test_leaving_out_whole_images_is_stochastic_depth_wherever_it_is(
    before: Callable[[Model, Tensor], Tensor],
) -> None:
    images_N, plain = torch.randn(4, *SHAPE), Model(lambda _, x_N: x_N).eval()
    model = Model(before).eval()
    model.load_state_dict(plain.state_dict())
    drawn, expected = (MCDropout(each, samples=2).log_probs(images_N) for each in (model, plain))
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (
            skip_by_bernoulli,
            "leaves out whole images only in training mode.* Put stochastic depth",
        ),
        (skip_by_rand, r"draws a random mask itself \(rand\).* stochastic depth as"),
    ],
)
def test_it_is_refused_if_stochastic_depth_is_to_be_sampled(
    before: Callable[[Model, Tensor], Tensor], told: str
) -> None:
    model = nn.Sequential(ops.StochasticDepth(0.2, "row"), Model(before)).eval()
    with pytest.raises(PosteriorError, match=told):
        MCDropout(model, samples=2, stochastic_depth=True).log_probs(torch.randn(4, *SHAPE))


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (functional, "^the model applies dropout only in training mode, .* Call F.dropout"),
        (attention, "^the model applies dropout inside fused attention .* plain operations"),
        (attention_by_name, "^the model applies dropout inside fused attention"),
        (gaussian, r"^the model draws Gaussian noise itself \(randn_like\) only in training mode"),
        (homemade, r"^the model draws a random mask itself \(rand\).* Write dropout as F.dropout"),
        (drop_block, r"^block \(DropBlock2d\) applies dropout only in training mode"),
    ],
)
def test_it_is_refused_by_name_and_with_a_remedy(
    before: Callable[[Model, Tensor], Tensor], told: str
) -> None:
    model = Model(before).eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(PosteriorError, match=told):
        MCDropout(model, samples=2).log_probs(torch.randn(4, *SHAPE))
    assert [module.training for module in model.modules()] == modes


def test_a_model_whose_only_dropout_is_for_training_is_told_why() -> None:
    class Only(nn.Module):
        def forward(self, x_N: Tensor) -> Tensor:
            return (F.dropout(x_N, 0.5) if self.training else x_N).flatten(1)[:, :5]

    with pytest.raises(PosteriorError, match="only in training mode"):
        MCDropout(Only(), samples=2).log_probs(torch.randn(4, *SHAPE))


def test_what_training_needs_besides_images_is_no_fault() -> None:
    def wants_labels(model: Model, x_N: Tensor) -> Tensor:
        if model.training:
            raise ValueError("targets are missing")
        return x_N

    predictions = MCDropout(Model(wants_labels), samples=2).log_probs(torch.randn(4, *SHAPE))
    assert predictions.shape == (4, 2, 4)


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16", "swin_t", "googlenet"])
def test_networks_with_dropout_in_every_mode_are_not_refused(name: str) -> None:
    settings = {"init_weights": False} if name == "googlenet" else {"dropout": 0.1}
    if name == "convnext_tiny":
        settings = {"stochastic_depth_prob": 0.5}
    model = getattr(models, name)(num_classes=4, **settings).eval()
    if name == "convnext_tiny":
        model.classifier.insert(2, nn.Dropout(0.1))
    side = 224 if name == "vit_b_16" else 64
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert MCDropout(model, samples=2).sites(torch.randn(2, 3, side, side))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
