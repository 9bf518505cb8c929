"""Tests that the fast way predicts what the model does, and runs no more than it must."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.ops import StochasticDepth

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.engine import trunk_once
from scenarios import Model, dropout_net, inputs


def sequence(x_N_D):
    """Reshape [N, 8] to [N, 4, 2]."""
    return x_N_D.reshape(-1, 4, 2)


def head(features=8):
    return nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(features, 3))


def residual_in_place(self, x):
    x = self.first(x)
    x += self.drop(torch.relu(x))
    torch.relu_(x)
    return self.head(x)


def in_place_dropout_whose_result_is_not_used(self, x):
    x = self.first(x)
    self.drop(x)
    return self.head(x)


def a_trunk_used_before_and_after(self, x):
    trunk = self.first(x)
    one = self.head(F.dropout(trunk, 0.5, inplace=False))
    return one + self.head(trunk.mul_(2))


def sequence_first(self, x):
    steps_T_N_D = sequence(self.first(x)).transpose(0, 1)
    return self.head(self.drop(steps_T_N_D).transpose(0, 1).flatten(1))


def crops_in_turn(self, x):
    one, other = self.head(self.first(torch.cat([x, x.flip(1)]))).chunk(2)
    return one + other


def dropped_weights(self, x):
    return self.head(F.linear(x, F.dropout(self.first.weight, 0.5)))


def dropped_positions(self, x):
    return self.head((sequence(x) + self.drop(self.positions[:, :2])).flatten(1))


def attention(self, x):
    x = sequence(x)
    x, weights = self.attention(x, x, x, need_weights=True)
    return self.head(x.flatten(1)) + weights.sum(dim=(1, 2)).unsqueeze(1)


def attention_sequence_first(self, x):
    x = sequence(x).transpose(0, 1)
    x, _ = self.attention(x, x, x, need_weights=False)
    return self.head(x.transpose(0, 1).flatten(1))


def recurrent(self, x):
    return self.head(self.recurrent(self.drop(sequence(x)))[0].flatten(1))


def shared(self, x):
    for _ in range(3):
        x = self.drop(torch.tanh(self.first(x)))
    return self.head(x)


def first():
    return nn.Linear(8, 8)


def transformer(**how):
    layer = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.2, **how)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


HOMEMADE = {
    "dense": dropout_net,
    "residual in place": lambda: Model(
        residual_in_place, first=first(), drop=nn.Dropout(0.2), head=head()
    ),
    "in place, not used": lambda: Model(
        in_place_dropout_whose_result_is_not_used,
        first=first(),
        drop=nn.Dropout(0.2, inplace=True),
        head=head(),
    ),
    "trunk used twice": lambda: Model(a_trunk_used_before_and_after, first=first(), head=head()),
    "sequence first": lambda: Model(
        sequence_first, first=first(), drop=nn.Dropout(0.2), head=head()
    ),
    "crops in turn": lambda: Model(crops_in_turn, first=first(), head=head()),
    "dropped weights": lambda: Model(dropped_weights, first=first(), head=head()),
    "dropped positions": lambda: Model(
        dropped_positions, positions=nn.Embedding(4, 2).weight, drop=nn.Dropout(0.2), head=head()
    ),
    "attention": lambda: Model(
        attention,
        attention=nn.MultiheadAttention(2, 1, dropout=0.2, batch_first=True),
        head=head(),
    ),
    "attention, sequence first": lambda: Model(
        attention_sequence_first,
        attention=nn.MultiheadAttention(2, 2, dropout=0.2, add_bias_kv=True),
        head=head(),
    ),
    "transformer": lambda: Model(
        lambda self, x: self.head(self.encoder(sequence(x)).flatten(1)),
        encoder=transformer(batch_first=True, norm_first=True),
        head=head(),
    ),
    "transformer, sequence first": lambda: Model(
        lambda self, x: self.head(self.encoder(sequence(x).transpose(0, 1)).mean(dim=0)),
        encoder=transformer(),
        head=nn.Linear(2, 3),
    ),
    "lstm": lambda: Model(
        recurrent, recurrent=nn.LSTM(2, 2, batch_first=True), drop=nn.Dropout(0.2), head=head()
    ),
    "gru": lambda: Model(
        recurrent,
        recurrent=nn.GRU(2, 1, batch_first=True, bidirectional=True),
        drop=nn.Dropout(0.2),
        head=head(),
    ),
    "shared": lambda: Model(shared, first=first(), drop=nn.AlphaDropout(0.2), head=head()),
    "dropout at both ends": lambda: nn.Sequential(
        nn.Dropout(0.2), nn.Linear(8, 5), nn.Dropout(0.2)
    ),
}


OF_NO_IMAGE = HOMEMADE["dropped weights"], HOMEMADE["dropped positions"]


def fast_and_plain(model, images_N, samples=4, **how):
    """Return the predictions by the fast way and by the model itself.

    A model that cannot be traced is an error.
    """
    posterior = MCDropout(model, samples, **how)
    ids = [f"image-{i}" for i in range(len(images_N))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast_N_K_C = posterior.log_probs(images_N, ids)
    plain = [posterior.sample(k)(images_N, ids).detach() for k in range(samples)]
    return fast_N_K_C, torch.stack(plain, dim=1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("masks", ["shared", "per_item"])
@pytest.mark.parametrize("build", HOMEMADE.values(), ids=HOMEMADE.keys())
def test_homemade_models(build, masks):
    if masks == "per_item" and build in OF_NO_IMAGE:
        with pytest.raises(PosteriorError, match="belongs to no image"):
            MCDropout(build(), masks=masks).log_probs(inputs(6), ["a"] * 6)
        return
    model = build().train()
    fast_N_K_C, plain_N_K_C = fast_and_plain(model, inputs(6), masks=masks)
    torch.testing.assert_close(fast_N_K_C, plain_N_K_C, rtol=0, atol=1e-5)
    assert (plain_N_K_C.std(dim=1) > 1e-4).any()
    alone_K_C = MCDropout(model, 4, masks=masks).log_probs(inputs(6)[2:3], ["image-2"])[0]
    torch.testing.assert_close(alone_K_C, fast_N_K_C[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["residual in place", "crops in turn", "attention"])
def test_pieces_of_any_size_give_the_same(name, monkeypatch):
    # There is room for one sample at a time, or for two of five.
    model = HOMEMADE[name]()
    expected_N_K_C = MCDropout(model, 5).log_probs(inputs(6))
    for together in (1, 2):
        monkeypatch.setattr(trunk_once, "_split_evenly", lambda *_, size=together: size)
        posterior = MCDropout(model, 5)
        torch.testing.assert_close(posterior.log_probs(inputs(6)), expected_N_K_C)


# Network and image size. The networks are narrow if torchvision allows it.
TORCHVISION = {
    "alexnet": (lambda: models.alexnet(num_classes=10), 64),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16, drop_rate=0.2, num_classes=10), 32),
    "efficientnet": (
        lambda: models.EfficientNet(
            [MBConvConfig(1, 3, 1, 8, 8, 1, 1, 1), MBConvConfig(4, 5, 2, 8, 16, 2, 1, 1)],
            *(0.2, 0.2, 10),
        ),
        32,
    ),
    "mobilenet_v3": (
        lambda: models.MobileNetV3(
            [
                InvertedResidualConfig(16, 3, 16, 16, True, "RE", 1, 1, 1),
                InvertedResidualConfig(16, 5, 48, 24, True, "HS", 2, 1, 1),
            ],
            *(64, 10),
        ),
        32,
    ),
    "squeezenet": (lambda: models.squeezenet1_1(num_classes=10), 64),
    "vit": (
        lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.2, attention_dropout=0.2),
        32,
    ),
    "swin": (
        lambda: models.SwinTransformer(
            *([4, 4], 16, [1, 1], [1, 2], [4, 4]), dropout=0.2, attention_dropout=0.2
        ),
        32,
    ),
}


def torchvision_model(name):
    build, size = TORCHVISION[name]
    model, images_N = build().train(), inputs(5, 3, size, size)
    for _ in range(3):
        model(images_N)  # running averages, without which a deep network gives constants
    final = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    for module in final:  # torchvision starts many at 0 or 0.01
        nn.init.normal_(module.weight)
    return model, images_N


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    model, images_N = torchvision_model(name)
    fast_N_K_C, plain_N_K_C = fast_and_plain(model, images_N, samples=3)
    scale = max(1, plain_N_K_C.abs().max().item())
    torch.testing.assert_close(fast_N_K_C, plain_N_K_C, rtol=0, atol=1e-5 * scale)
    assert (plain_N_K_C.std(dim=1) > 0).any(dim=1).all()
    alone_K_C = MCDropout(model, 3).log_probs(images_N[1:2])[0]
    torch.testing.assert_close(alone_K_C, fast_N_K_C[1], rtol=0, atol=1e-5 * scale)


def test_an_order_of_rows_that_the_first_mini_batch_does_not_show_is_not_guessed():
    # No pixel of the first mini-batch is bright, so it does not show whose rows are whose.
    def forward(self, x):
        views = torch.cat([x, -x])
        bright = (views > 2).float()
        return self.head(self.drop(self.first(views)) * (1 + bright)).view(2, len(x), 3).sum(0)

    torch.manual_seed(0)
    model = Model(forward, first=nn.Linear(8, 8), drop=nn.Dropout(0.3), head=nn.Linear(8, 3))
    posterior = MCDropout(model, 5)
    with pytest.warns(RuntimeWarning, match="does not show which rows belong to which image"):
        posterior.log_probs(inputs(6).clamp(-1, 1))
    images_N = 3 * inputs(6)
    assert (images_N > 2).any()
    drawn = posterior.log_probs(images_N)
    for k in range(5):
        torch.testing.assert_close(drawn[:, k], posterior.sample(k)(images_N), rtol=0, atol=1e-5)


def test_what_a_model_keeps_by_shape_is_not_of_the_trace():
    # Traced tensors have no values. A model that kept one would return garbage from then on.
    kept = {}

    def forward(self, x):
        if x.shape not in kept:
            kept[x.shape] = torch.linspace(0, 1, x.numel()).view(x.shape)
        return self.head(self.first(x) + kept[x.shape].mean(dim=0))

    model = Model(forward, first=first(), head=head())
    fast_N_K_C, plain_N_K_C = fast_and_plain(model, inputs(6), 20)
    torch.testing.assert_close(fast_N_K_C, plain_N_K_C, rtol=0, atol=1e-5)
    assert kept[inputs(6).shape].numpy()[0, 0] == 0


class DropBranch(StochasticDepth):
    """A model's own kind of stochastic depth."""


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("kind", [StochasticDepth, DropBranch])
def test_stochastic_depth_counts_only_when_asked(mode, kind):
    model = Model(
        lambda self, x: self.head(x + self.depth(self.first(x))),
        first=first(),
        depth=kind(0.4, mode),
        head=head(),
    )
    fast_N_K_C, plain_N_K_C = fast_and_plain(model, inputs(6), 20, stochastic_depth=True)
    torch.testing.assert_close(fast_N_K_C, plain_N_K_C, rtol=0, atol=1e-5)
    posterior = MCDropout(model, 20)
    assert len(posterior.sites(inputs(6))) == 1
    # With half of the block's paths left out predictions spread more.
    without = posterior.log_probs(inputs(6)).std(dim=1).mean()
    assert plain_N_K_C.std(dim=1).mean() > 1.1 * without


def multiplications(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def prepared(model, images_N, samples):
    posterior = MCDropout(model, samples)
    for _ in range(2):  # of the second mini-batch, a few images run through the model too
        posterior.statistics(images_N)
    return posterior


def test_the_trunk_runs_once_and_the_tail_is_thinned():
    # Per image: 32·8·9·16 once, and per sample what two dropouts at p = 1/2 leave of 512·256,
    # 256·64 and 64·3.
    model = nn.Sequential(
        *(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)),
        *(nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 64)),
        *(nn.ReLU(), nn.Linear(64, 3)),
    )
    posterior = prepared(model, inputs(4, 8, 4, 4), samples=10)
    count = multiplications(lambda: posterior.statistics(inputs(4, 8, 4, 4)))
    trunk = 4 * 8 * 9 * 512
    thinned = 4 * 10 * (512 * 256 / 4 + 256 * 64 / 2 + 64 * 3)
    assert count == pytest.approx(trunk + thinned, rel=0.05)


def test_what_cannot_be_thinned_still_runs_its_trunk_once():
    model = nn.Sequential(
        *(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Conv2d(32, 4, 1), nn.Flatten(), nn.Linear(64, 3)),
    )
    posterior = prepared(model, inputs(4, 8, 4, 4), samples=10)
    count = multiplications(lambda: posterior.statistics(inputs(4, 8, 4, 4)))
    assert count == 4 * 8 * 9 * 512 + 4 * 10 * (32 * 64 + 64 * 3)


def test_what_cannot_be_traced_runs_whole_and_says_what_that_costs():
    def forward(self, x):
        return self.net(x if x.max() > 0 else -x)

    posterior = MCDropout(Model(forward, net=dropout_net()), samples=7)
    with pytest.warns(RuntimeWarning, match="7 forward passes per image"):
        log_probs_N_K_C = posterior.log_probs(inputs(6))
    plain = torch.stack([posterior.sample(k)(inputs(6)).detach() for k in range(7)], dim=1)
    assert torch.equal(log_probs_N_K_C, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.log_probs(inputs(5))  # warned before


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model[0].weight.data.mul_(2),
        lambda model: nn.init.normal_(model[3].weight),
        lambda model: model.load_state_dict(dropout_net(seed=3).state_dict()),
        lambda model: model.load_state_dict(dropout_net(seed=3).state_dict(), assign=True),
        lambda model: setattr(model, "6", nn.Linear(16, 3)),
        lambda model: setattr(model[2], "p", 0.1),
        lambda model: model.bfloat16().float(),
    ],
)
def test_weights_that_change_between_calls(change):
    # This happens in training, with an evaluation after each epoch.
    model = dropout_net()
    posterior = MCDropout(model, 4)
    before = posterior.log_probs(inputs(6))
    with torch.no_grad():
        change(model)
    after = posterior.log_probs(inputs(6))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, MCDropout(model, 4).log_probs(inputs(6)))
